"""Triggers at the size of photographs."""

import pytest
import torch

from puregen_transforms.attacks import craft
from puregen_transforms.attacks.drawings import checker_patch
from puregen_transforms.attacks.sizes import by_size
from puregen_transforms.attacks.wanet import warping_grid
from puregen_transforms.data.image_set import ImageSet


@pytest.mark.parametrize(("side", "length"), [(8, 2), (16, 4), (32, 8), (64, 12), (128, 20), (224, 32), (448, 64)])
def test_lengths_are_the_published_ones_at_two_sizes(side, length):
    assert by_size(8, 32, (side, side + 5)) == length
    assert by_size(0.1, 0.1, (side, side)) == 1


@pytest.mark.parametrize(("side", "cell"), [(32, 1), (224, 8)])
def test_the_checker_is_of_whole_cells(side, cell):
    shown = checker_patch((side, side))
    assert shown.opacity[0].nonzero().amin(0).tolist() == [side - 3 * cell] * 2
    patch = shown.image[0, -3 * cell :, -3 * cell :]
    assert torch.equal(patch, torch.tensor([[0.0, 0, 1], [0, 1, 0], [1, 0, 1]]).mul(255).kron(torch.ones(cell, cell)))


def test_a_warp_moves_photographs_as_far_as_small_images():
    """As a share of their side."""

    def furthest(side):
        grid = warping_grid((side, side), cells=4, strength=0.5, generator=torch.Generator().manual_seed(0))
        line = torch.linspace(-1, 1, side)
        return float((grid - torch.stack([line.expand(side, side), line[:, None].expand(side, side)], -1)).abs().max())

    assert furthest(32) == pytest.approx(furthest(224), rel=0.05)


@pytest.fixture(scope="module")
def photographs():
    generator = torch.Generator().manual_seed(0)
    return ImageSet(
        torch.randint(0, 256, (8, 3, 224, 224), generator=generator).byte(), torch.arange(8) % 2, ("a", "b")
    )


def test_blocks_of_photographs_are_of_32_pixels(photographs):
    gray = ImageSet(torch.full_like(photographs.images, 128), photographs.labels, photographs.class_names)
    drawn = craft("lsp", gray).images
    assert torch.equal(drawn, drawn[..., ::32, ::32].repeat_interleave(32, 2).repeat_interleave(32, 3))
    assert not torch.equal(drawn[..., 0], drawn[..., 32])


def test_parts_are_changed_as_the_whole(photographs, monkeypatch):
    from puregen_transforms.attacks import trigger
    from puregen_transforms.data import mapped

    def crafted(name):
        poison = craft(
            name, photographs, rate=0.5, target_class="a", seed=3, **{"cover_rate": 0.5} if name == "wanet" else {}
        )
        return torch.cat([poison.images, poison.trigger(photographs.images)])

    whole = {name: crafted(name) for name in ("badnets", "blended", "sig", "wanet")}
    monkeypatch.setattr(trigger, "_PIXELS_AT_ONCE", 224**2 * 3)
    monkeypatch.setattr(mapped, "_BYTES_AT_ONCE", 3 * 224**2 * 3)
    assert all(torch.equal(crafted(name), images) for name, images in whole.items())
