import pytest
import torch

from puregen_transforms.functional.noise import KeyedNoise
from puregen_transforms.models.config import EBMConfig
from puregen_transforms.models.ebm import EBM
from puregen_transforms.purifier import pipeline
from puregen_transforms.purifier.config import LangevinConfig
from puregen_transforms.purifier.pipeline import Purifier
from puregen_transforms.purifier.stages import JPEGStage, LangevinStage


def test_stages_run_in_order_with_their_own_noise(threads):
    seen = []
    threads(1)

    def first(x, noise):
        seen.append(noise(0, x))
        return x + 0.5

    def second(x, noise):
        seen.append(noise(0, x))
        return x * 2

    images = torch.full((2, 3, 4, 4), 0.25)  # -0.5 in [-1, 1]
    out = Purifier([first, second])(images, sample_ids=torch.tensor([1, 2]), seed=7)
    assert out.dtype == torch.uint8
    assert (out == 128).all()
    ids = torch.tensor([1, 2])
    assert torch.equal(seen[0], KeyedNoise(7, ids, 0)(0, images))
    assert torch.equal(seen[1], KeyedNoise(7, ids, 1)(0, images))


def test_batches_are_as_large_as_asked(threads):
    sizes = []
    threads(1)

    def stage(x, noise):
        sizes.append(len(x))
        return x

    images, ids = torch.zeros(10, 3, 4, 4, dtype=torch.uint8), torch.arange(10)
    assert torch.equal(Purifier([stage], batch_size=4)(images, sample_ids=ids, seed=0), images)
    Purifier([stage])(images, sample_ids=ids, seed=0)
    assert sizes == [4, 3, 3, 10]


@pytest.mark.parametrize("stage_dtype", [torch.uint8, torch.float32])
def test_out_of_range_chains_are_clamped(stage_dtype):
    images = torch.zeros(1, 3, 4, 4, dtype=stage_dtype)
    out = Purifier([lambda x, noise: x * 40])(images, sample_ids=torch.tensor([0]), seed=0)
    assert (out == 0).all()


def test_drift_does_not_depend_on_image_area():
    """Away from the border, what a pixel does is the same in a small and in a large image."""
    torch.manual_seed(0)
    model = EBM(EBMConfig(nf=8))
    tile = torch.rand(1, 3, 32, 32) * 2 - 1
    stage = LangevinStage(model, LangevinConfig(steps=1, temperature=1e-5), trained_size=32)
    moves = []
    for tiles in (5, 7):  # a pixel's drift depends on pixels up to 48 away: the middle tile sees no border
        image = tile.repeat(1, 1, tiles, tiles)
        moved = stage(image, lambda step, x: torch.zeros_like(x)) - image
        middle = slice(tiles // 2 * 32, tiles // 2 * 32 + 32)
        moves.append(moved[..., middle, middle])
    assert moves[0].abs().mean() > 1e-4
    torch.testing.assert_close(moves[0], moves[1], rtol=1e-3, atol=1e-6)


class Blurred:
    """A stage that sees a few pixels around each, with noise; it says so, or not."""

    def __init__(self, reach=None):
        if reach is not None:
            self.reach = reach
        self.sizes = []

    def __call__(self, images, noise):
        self.sizes.append(tuple(images.shape[-2:]))
        padded = torch.nn.functional.pad(images + 0.2 * noise(0, images), (9, 9, 9, 9), mode="replicate")
        return torch.nn.functional.avg_pool2d(padded, 19, 1)


@pytest.mark.parametrize("size", [(200, 331), (203, 160)])
@pytest.mark.parametrize("count", [1, 2])
def test_a_large_image_in_tiles_is_what_the_whole_would_be(size, count, monkeypatch, threads):
    threads(count)
    monkeypatch.setattr(pipeline, "_LARGEST_WHOLE", 150 * 150)
    monkeypatch.setattr(pipeline, "_TILE_PIXELS", 160 * 160)
    images, ids = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)), torch.tensor([7, 8])
    tiled, whole = Blurred(reach=9), Blurred()
    found = Purifier([tiled, JPEGStage(50)])(images, sample_ids=ids, seed=3)
    expected = Purifier([whole, JPEGStage(50)])(images, sample_ids=ids, seed=3)
    assert set(whole.sizes) == {size}
    assert len(tiled.sizes) > 2
    assert max(map(max, tiled.sizes)) < 160 + 16
    assert (found.int() - expected.int()).abs().max() <= 1
    assert (found == expected).float().mean() > 0.999


def test_a_tile_sees_as_far_as_its_stages(monkeypatch):
    monkeypatch.setattr(pipeline, "_LARGEST_WHOLE", 150 * 150)
    monkeypatch.setattr(pipeline, "_TILE_PIXELS", 160 * 160)
    images, ids = torch.rand(1, 3, 200, 300, generator=torch.Generator().manual_seed(0)), torch.tensor([7])
    short = Purifier([Blurred(reach=0)])(images, sample_ids=ids, seed=3)
    assert not torch.equal(short, Purifier([Blurred()])(images, sample_ids=ids, seed=3)), "the reach is not idle"
