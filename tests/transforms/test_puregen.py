"""The transform as users call it, torchvision side."""

import copy
import pickle
import threading
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from references import reference_energy
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

from puregen_transforms import PureGen, PureGenTransform
from puregen_transforms.hub.catalogue import DEFAULT_DDPM
from puregen_transforms.models.ebm_inference import FrozenEBM
from tests.conftest import make_checkpoint


@pytest.fixture
def purify(tiny_checkpoint):
    return PureGen(checkpoint=tiny_checkpoint, ebm_steps=3, seed=0)


def as_pil(image):
    return PIL.Image.fromarray(image.permute(1, 2, 0).numpy())


def as_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def difference(a, b):
    return int((a.int() - b.int()).abs().max())


@pytest.fixture(scope="module")
def expected(tiny_checkpoint, images):
    out = PureGen(checkpoint=tiny_checkpoint, ebm_steps=3, seed=0)(images)
    assert 1 < (out.float() - images.float()).abs().mean() < 30, "purification must be visible, and gentle"
    return out


def test_aliases():
    assert PureGenTransform is PureGen


def test_the_same_pixels_in_every_form(purify, images, expected):
    assert torch.equal(purify(images), expected)
    assert torch.equal((purify(images.float() / 255) * 255).round().byte(), expected)
    assert torch.equal((purify(images.double() / 255) * 255).round().byte(), expected)
    assert torch.equal(torch.stack([as_tensor(i) for i in purify([as_pil(i) for i in images])]), expected)
    arrays = purify(images.permute(0, 2, 3, 1).numpy())
    assert torch.equal(torch.from_numpy(arrays).permute(0, 3, 1, 2), expected)
    wrapped = purify(tv_tensors.Image(images))
    assert type(wrapped) is tv_tensors.Image
    assert torch.equal(wrapped.as_subclass(torch.Tensor), expected)


def test_alone_batched_and_shuffled(purify, images, expected):
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    assert difference(purify(images[order]), expected[order]) == 0
    for index in (0, 17, 63):
        assert difference(purify(images[index]), expected[index]) == 0
        assert difference(purify(as_tensor(as_pil(images[index]))), expected[index]) == 0


def test_batch_size_does_not_matter(tiny_checkpoint, images, expected):
    odd = PureGen(checkpoint=tiny_checkpoint, ebm_steps=3, seed=0, batch_size=7)
    assert difference(odd(images), expected) == 0


def test_network_calls_are_for_many_images_at_once(purify, images, threads, monkeypatch):
    sizes = []
    threads(1)
    original = FrozenEBM.with_gradient
    monkeypatch.setattr(FrozenEBM, "with_gradient", lambda self, x: sizes.append(len(x)) or original(self, x))
    mixed = [as_pil(images[0]), as_pil(images[1]).resize((40, 36)), as_pil(images[2])]
    same = [as_pil(image) for image in images[:8]]
    for batch, expected in [(same, [8] * 3), (mixed, [1, 1, 1, 2, 2, 2])]:
        purify(batch)  # the first call of a size also tries whether it changes the results
        sizes.clear()
        purify(batch)
        assert sorted(sizes) == expected


def test_images_of_several_sizes_keep_all_threads_busy(purify, images, threads, monkeypatch):
    """Each size has one image: a call after the other would leave all threads idle but one."""
    threads(2)
    together = threading.Barrier(2, timeout=60)
    original = FrozenEBM.with_gradient
    monkeypatch.setattr(FrozenEBM, "with_gradient", lambda self, x: (together.wait(), original(self, x))[1])
    sizes = [(32, 32), (40, 36), (20, 24), (33, 33)]
    mixed = [as_pil(image).resize(size) for image, size in zip(images[:4], sizes, strict=True)]
    assert [image.size for image in purify(mixed)] == sizes


def test_mixed_sizes_keep_their_order(purify, images, expected):
    small = as_pil(images[1]).resize((20, 24))
    out = purify([as_pil(images[0]), small, as_pil(images[2])])
    assert [image.size for image in out] == [(32, 32), (20, 24), (32, 32)]
    assert difference(as_tensor(out[2]), expected[2]) == 0


def test_labels_pass_through_as_the_same_objects(purify, images, expected):
    labels = torch.arange(64)
    out, same = purify(images, labels)
    assert same is labels
    assert torch.equal(out, expected)


def test_compose_v2(purify, images, expected):
    pipeline = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), purify, v2.Normalize([0.5], [0.5])])
    out, label = pipeline(as_pil(images[0]), 3)
    assert label == 3
    assert type(out) is tv_tensors.Image
    torch.testing.assert_close(
        out.as_subclass(torch.Tensor), expected[0].float() / 127.5 - 1, atol=1.01 / 127.5, rtol=0
    )


def test_compose_v1(purify, images, expected):
    out = v1.Compose([purify, v1.ToTensor()])(as_pil(images[0]))
    torch.testing.assert_close(out, expected[0].float() / 255, atol=1.01 / 255, rtol=0)


def test_normalized_images_are_refused(purify, images):
    with pytest.raises(ValueError, match="before Normalize"):
        v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.5]), purify])(
            as_pil(images[0])
        )


def test_gray_and_alpha(purify, images):
    gray = purify(as_pil(images[0]).convert("L"))
    assert gray.mode == "L"
    rgba = as_pil(images[0])
    rgba.putalpha(77)
    out = purify(rgba)
    assert out.mode == "RGBA"
    assert np.unique(np.array(out)[..., 3]).tolist() == [77]
    assert np.array_equal(np.array(out)[..., :3], np.array(purify(as_pil(images[0]))))


@pytest.mark.parametrize("dtype", ["auto", "float32"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_where_gradients_are_off(tiny_checkpoint, images, mode, dtype):
    expected = PureGen(checkpoint=tiny_checkpoint, ebm_steps=3, seed=0, dtype=dtype)(images)
    fresh = PureGen(checkpoint=tiny_checkpoint, ebm_steps=3, seed=0, dtype=dtype)
    with mode():  # the weights, too, are loaded in here
        first = fresh(images.clone())
        energies = fresh.energy(images)
    assert difference(first, expected) == 0
    assert torch.equal(fresh(images), first), "and the instance stays usable outside"
    assert torch.equal(fresh.energy(images), energies)


def test_without_a_seed_torchs_global_seed_rules(tiny_checkpoint, images):
    purify = PureGen(checkpoint=tiny_checkpoint, ebm_steps=2)
    torch.manual_seed(1)
    first, second = purify(images[:2]), purify(images[:2])
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(purify(images[:2]), first)


def test_a_seed_leaves_the_global_generator_alone(purify, images):
    state = torch.get_rng_state()
    purify(images[:2])
    assert torch.equal(torch.get_rng_state(), state)


def test_energy(purify, images, tiny_checkpoint):
    energies = purify.energy(images)
    assert energies.shape == (64,)
    assert energies.dtype == torch.float32
    torch.testing.assert_close(purify.energy([as_pil(i) for i in images]), energies)
    torch.testing.assert_close(purify.energy({"label": 1, "image": images[3]}), energies[3:4])
    weights = load_file(tiny_checkpoint / "model.safetensors")
    torch.testing.assert_close(energies, reference_energy(weights, images.float() / 127.5 - 1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("size", "cells"), [((32, 32), (8, 8)), ((38, 45), (9, 11)), ((4, 7), (1, 1))])
def test_the_mean_of_an_energy_map_is_the_energy(purify, size, cells):
    images = torch.randint(0, 256, (3, 3, *size), dtype=torch.uint8)
    maps = purify.energy_map(images)
    assert maps.shape == (3, *cells)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps.mean((1, 2)), purify.energy(images), rtol=1e-5, atol=1e-6)
    assert torch.equal(purify.energy_map({"label": 1, "image": images[2]}), maps[2:])


def test_noise_in_a_corner_is_where_the_energy_is():
    torch.manual_seed(0)
    image = torch.full((1, 3, 96, 96), 0.5)
    image[..., 64:, :32] += 0.2 * torch.randn(3, 32, 32)
    (found,) = PureGen(device="cpu").energy_map(image.clamp(0, 1))
    assert found[18:, :6].mean() > found[:14].mean() + 5 * found[:14].std()


def test_maps_of_several_sizes_are_refused(purify):
    with pytest.raises(ValueError, match="images of one size"):
        purify.energy_map([as_pil(torch.zeros(3, side, side, dtype=torch.uint8)) for side in (32, 36)])
    with pytest.raises(ValueError, match="no energy network"):
        PureGen("jpeg").energy_map(torch.zeros(1, 3, 32, 32))


def test_construction_loads_nothing(tmp_path):
    purify = PureGen(checkpoint=tmp_path)
    assert "ebm" in repr(purify)
    with pytest.raises(FileNotFoundError, match="config.json and model.safetensors are missing"):
        purify(torch.zeros(3, 8, 8))


@pytest.mark.parametrize("form", [str, Path])
@pytest.mark.parametrize("option", ["checkpoint", "ddpm_checkpoint"])
def test_a_missing_folder_is_said_at_construction(tmp_path, option, form):
    with pytest.raises((ValueError, FileNotFoundError), match="Expected a checkpoint.*not there"):
        PureGen("naive", **{option: form(tmp_path / "not there")})


def test_a_checkpoint_of_the_other_kind_is_said_at_construction():
    with pytest.raises(ValueError, match=DEFAULT_DDPM):
        PureGen(checkpoint=DEFAULT_DDPM)


def test_pickle_is_small_and_does_the_same(purify, images, expected):
    purify(images[:1])
    content = pickle.dumps(purify)
    assert len(content) < 2000
    again = pickle.loads(content)
    assert repr(again) == repr(purify)
    assert torch.equal(again(images), expected)
    assert torch.equal(copy.deepcopy(purify)(images), expected)


def test_pickle_notices_changed_weights(tmp_path, images):
    folder = make_checkpoint(tmp_path / "weights")
    content = pickle.dumps(PureGen(checkpoint=folder))
    make_checkpoint(folder, seed=1)
    with pytest.raises(ValueError, match="no longer those"):
        pickle.loads(content)(images[:1])


def test_digest(tiny_checkpoint, tmp_path):
    base = PureGen(checkpoint=tiny_checkpoint, seed=0)
    assert base.digest == PureGen(checkpoint=tiny_checkpoint, seed=0, batch_size=3, device="cpu").digest
    other_weights = make_checkpoint(tmp_path / "other", seed=1)
    others = [
        PureGen(checkpoint=tiny_checkpoint, seed=1),
        PureGen(checkpoint=tiny_checkpoint, seed=0, ebm_steps=149),
        PureGen(checkpoint=other_weights, seed=0),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 4


def test_config_round_trip(purify):
    again = PureGen.from_dict(purify.to_dict())
    assert again.to_dict() == purify.to_dict()
    with pytest.raises(ValueError, match="Expected the settings of a PureGen, but got `ebm_stepz`.*mean `ebm_steps`"):
        PureGen.from_dict({"ebm_stepz": 3})


def test_a_record_of_before_revisions_were_part_of_a_checkpoint_is_read(purify):
    old = {**purify.to_dict(), "revision": None, "ddpm_revision": None}
    assert PureGen.from_dict(old).to_dict() == purify.to_dict()
    with pytest.raises(ValueError, match='`ddpm_revision`.*write ddpm_checkpoint="owner/name@revision"'):
        PureGen.from_dict({**old, "ddpm_revision": "v1"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ddpm_steps": 75}, "does not use `ddpm_steps`"),
        ({"jpeg_quality": 75}, "does not use `jpeg_quality`"),
        ({"batch_size": 0}, "positive integer"),
        ({"device": "foo"}, "Expected a device"),
        ({"method": "nonsense"}, "one of 'ebm'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        PureGen(**options)


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("steps", "`ebm_steps` or `ddpm_steps` or `ddpm_inference_steps`"),
        ("ebm_stepz", "`ebm_steps`"),
        ("solver", "`ddpm_solver`"),
        ("threshold", "`despeckle_threshold` or `energy_threshold`"),
        ("hub_cache_dir", "`cache_dir`"),
    ],
)
def test_an_unknown_option_names_what_may_be_meant(option, meant):
    with pytest.raises(TypeError, match=f"`{option}`, which is no option. Did you mean {meant}"):
        PureGen(**{option: 3})


def test_an_option_like_none_gets_them_all():
    with pytest.raises(TypeError, match="`xyz`, which is no option. There are method, checkpoint, .*cache_dir"):
        PureGen(xyz=3)
    with pytest.raises(TypeError, match='write checkpoint="owner/name@revision"'):
        PureGen(revision="main")


@pytest.mark.parametrize("size", [(1, 1), (3, 40)])
def test_too_small(purify, size):
    with pytest.raises(ValueError, match="at least 4x4"):
        purify(torch.zeros(3, *size))


def test_too_large(purify):
    large = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(1, 3, 2000, 2200)
    with pytest.raises(ValueError, match='4,194,304 pixels, but got 2200x2000.*method "onestep"'):
        purify(large)
    assert PureGen("jpeg", seed=0)(large).shape == large.shape
    with pytest.raises(ValueError, match="at most 33,554,432 pixels"):
        PureGen("jpeg", seed=0)(large[..., :1].expand(1, 3, 2000, 20_000))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_an_empty_batch_stays_empty(purify, dtype):
    empty = torch.empty(0, 3, 32, 32, dtype=dtype)
    out, _ = purify(empty, torch.empty(0))
    assert (out.shape, out.dtype) == (empty.shape, dtype)
    assert purify.energy(empty).shape == (0,)
    assert purify.energy_map(empty).shape == (0, 8, 8)


def test_called_with_nothing(purify):
    with pytest.raises(TypeError, match="called with nothing"):
        purify()


class ImageSet(Dataset):
    """A map-style dataset with a transform, as torchvision's are."""

    def __init__(self, images, transform=None):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = as_pil(self.images[index])
        return (as_tensor(self.transform(image)) if self.transform else as_tensor(image)), index


@pytest.mark.parametrize(("context", "workers"), [("fork", 2), ("spawn", 1)])
def test_data_loader_workers(purify, images, expected, context, workers):
    loader = DataLoader(
        ImageSet(images[:16], purify), batch_size=5, num_workers=workers, multiprocessing_context=context
    )
    out = torch.cat([batch for batch, _ in loader])
    assert difference(out, expected[:16]) == 0


class PurifyingCollate:
    def __init__(self, purify):
        self.purify = purify

    def __call__(self, samples):
        return self.purify(*default_collate(samples))


def test_collate_fn(purify, images, expected):
    loader = DataLoader(ImageSet(images[:16]), batch_size=8, num_workers=1, collate_fn=PurifyingCollate(purify))
    parts = list(loader)
    assert difference(torch.cat([batch for batch, _ in parts]), expected[:16]) == 0
    assert torch.cat([index for _, index in parts]).tolist() == list(range(16))
