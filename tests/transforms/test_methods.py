"""Every method of the paper through `PureGen(method=...)`."""

import io
import pickle
import warnings

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel
from torch.utils.data import TensorDataset

from puregen_transforms import PureGen
from puregen_transforms.evaluate.rows import PUBLISHED_ECLIPSE
from puregen_transforms.functional.images import to_signed, to_uint8
from puregen_transforms.functional.noise import KeyedNoise
from puregen_transforms.hub.denoiser import load_denoiser, resolve_denoiser
from puregen_transforms.models.unet_inference import InvariantUNet
from puregen_transforms.purifier.config import DiffusionConfig
from puregen_transforms.transforms.content import content_ids

SMALL = {
    "ebm": {"ebm_steps": 3},
    "ddpm": {"ddpm_steps": 4},
    "naive": {"ebm_steps": 2, "ddpm_steps": 3},
    "reps": {"ebm_steps": 1, "ddpm_steps": 2, "reps": 3},
    "filt": {"ddpm_steps": 4},
    "adaptive": {"ebm_steps": 2, "ddpm_steps": 2},
    "eclipse": {"ddpm_steps": 5, "ddpm_inference_steps": 2},
    "onestep": {"strength": "light"},
    "jpeg": {"jpeg_quality": 25},
}


@pytest.fixture
def make(tiny_checkpoint, tiny_ddpm, tiny_denoiser):
    def make(method, **options):
        settings = {"seed": 0, **SMALL[method], **options}
        if method not in ("ddpm", "eclipse", "onestep", "jpeg"):
            settings["checkpoint"] = tiny_checkpoint
        if method not in ("ebm", "onestep", "jpeg"):
            settings["ddpm_checkpoint"] = tiny_ddpm
        if method == "onestep":
            settings["denoiser_checkpoint"] = tiny_denoiser
        return PureGen(method, **settings)

    return make


def fitted(purify, images):
    return purify.fit(images) if purify.config.uses_threshold else purify


@pytest.fixture
def quiet():
    """Random networks repair nothing, so adaptive always warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*still suspicious")
        yield


@pytest.mark.parametrize("method", SMALL)
def test_every_method_changes_images_and_keeps_their_form(make, images, method, quiet):
    purify = fitted(make(method), images[:16])
    out = purify(images[:16])
    assert out.dtype == torch.uint8
    assert out.shape == (16, 3, 32, 32)
    assert not torch.equal(out, images[:16])


@pytest.mark.parametrize("size", [(32, 32), (33, 35)])
@pytest.mark.parametrize("method", SMALL)
def test_batch_order_threads_and_process_do_not_matter(make, images, method, size, threads, quiet):
    images = F.interpolate(images[:9].float(), size=size).to(torch.uint8)
    purify = fitted(make(method), images)
    whole = purify(images)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    for count in (1, 2, 3):
        threads(count)
        assert torch.equal(purify(images[order]), whole[order])
        assert torch.equal(torch.cat([purify(part) for part in images.split(4)]), whole)
        if purify.config.uses_ebm:
            assert torch.equal(purify.energy(images[:5]), purify.energy(images)[:5])
    assert torch.equal(torch.cat([purify(image[None]) for image in images]), whole)
    assert torch.equal(pickle.loads(pickle.dumps(purify))(images), whole)


@pytest.mark.parametrize("method", SMALL)
def test_digests_differ_and_survive_pickling(make, images, method):
    purify = make(method)
    assert pickle.loads(pickle.dumps(purify)).digest == purify.digest
    assert PureGen.from_dict(purify.to_dict()).digest == purify.digest
    assert len({make(other).digest for other in SMALL}) == len(SMALL)


@pytest.mark.parametrize(("method", "steps"), [("ddpm", 4), ("eclipse", 12)])
def test_diffusion_equals_a_plain_diffusers_loop(make, images, tiny_ddpm, monkeypatch, method, steps):
    """Official layout in, reference dynamics out: T = 4 means noised to timestep 3, then reverse steps 3, 2, 1, 0."""
    x = images[:4]
    published = PUBLISHED_ECLIPSE if method == "eclipse" else {}
    purified = make(method, **{"ddpm_steps": steps, "dtype": "float32", **published})(x)

    unet = UNet2DModel.from_pretrained(tiny_ddpm / "unet")
    scheduler = DDPMScheduler.from_pretrained(tiny_ddpm / "scheduler")
    noise = KeyedNoise(0, content_ids(x))
    current = scheduler.add_noise(to_signed(x), noise(0, to_signed(x)), torch.full((4,), steps - 1))
    with torch.no_grad():
        for timestep in range(steps - 1, -1, -1):
            drawn = noise(timestep, current)
            monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, n=drawn, **k: n)
            current = scheduler.step(unet(current, timestep).sample, timestep, current).prev_sample
    difference = (purified.int() - to_uint8(current).int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 0.01


def test_solvers_differ_and_need_the_calls_they_say(make, images, monkeypatch):
    called, results = [], set()
    predict = InvariantUNet.__call__
    monkeypatch.setattr(InvariantUNet, "__call__", lambda self, x, t: called.append(int(t)) or predict(self, x, t))
    for solver in ("ddpm", "ddim", "dpmsolver++"):
        for calls in (None, 5):
            purify = make("ddpm", ddpm_steps=20, ddpm_solver=solver, ddpm_inference_steps=calls)
            called.clear()
            results.add(purify(images[:4]).numpy().tobytes())
            assert len(called) == (calls or 20)
            assert called[0] == 19
            assert called == sorted(set(called), reverse=True)
    assert len(results) == 6


@pytest.mark.parametrize("shape", [(28, 28), (33, 47), (5, 9)])
def test_sizes_the_unet_does_not_divide_are_padded_and_cropped(make, shape):
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    out = make("ddpm")(image)
    assert out.shape == image.shape
    assert not torch.equal(out, image)


def test_onestep_is_noise_of_either_sign_and_a_call_for_each(make, images, tiny_denoiser):
    x, level = images[:4], 30 / 127.5
    purified = make("onestep", strength=None, noise_level=30.0, dtype="float32")(x)
    denoiser = load_denoiser(resolve_denoiser(tiny_denoiser))
    added = level * KeyedNoise(0, content_ids(x))(0, to_signed(x))
    both = []
    for noisy in (to_signed(x) + added, to_signed(x) - added):
        with torch.no_grad():
            both.append(noisy - level * denoiser(noisy, torch.full((4,), level)))
    expected = to_uint8((both[0] + both[1]) / 2)
    assert (purified.int() - expected.int()).abs().max() <= 1
    assert not torch.equal(purified, make("onestep", strength="strong")(x))


@pytest.mark.parametrize("shape", [(3, 7), (1, 1), (65, 40)])
def test_onestep_takes_any_size(make, shape):
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    assert make("onestep")(image).shape == image.shape


def test_eclipse_is_medians_where_pixels_stand_out_and_one_call(make, images):
    speckled = images[:4].clone()
    speckled[:, :, 9, 20] = 255 - speckled[:, :, 9, 21] // 128 * 255  # far from its neighbor
    purify = make("eclipse", ddpm_steps=None, ddpm_inference_steps=None)
    despeckle, weak = purify.purifier.stages
    assert weak.config == DiffusionConfig(steps=12, solver="ddim", inference_steps=1)
    cleaned = to_uint8(despeckle(to_signed(speckled), KeyedNoise(0, content_ids(speckled))))
    assert (cleaned - speckled)[:, :, 9, 20].any(1).all()
    expected = to_uint8(weak(to_signed(cleaned), KeyedNoise(0, content_ids(speckled), 1)))
    assert torch.equal(purify(speckled), expected)


def test_eclipse_without_medians_is_weak_diffusion(make, images):
    without = make("eclipse", ddpm_steps=None, ddpm_inference_steps=None, despeckle_threshold=255)
    same = make("ddpm", ddpm_steps=12, ddpm_solver="ddim", ddpm_inference_steps=1)
    assert torch.equal(without(images[:4]), same(images[:4]))
    with pytest.raises(ValueError, match=r"despeckle_threshold.*\[0, 255\]"):
        make("eclipse", despeckle_threshold=256)


def test_naive_is_ebm_then_ddpm(make, images):
    both, only_ebm = make("naive"), make("naive", ddpm_steps=0)
    assert torch.equal(only_ebm(images[:4]), make("ebm", ebm_steps=2, dynamics="paper")(images[:4]))
    assert not torch.equal(both(images[:4]), only_ebm(images[:4]))


def test_reps_once_is_naive(make, images):
    once = make("reps", ebm_steps=2, ddpm_steps=3, reps=1)
    assert torch.equal(once(images[:4]), make("naive")(images[:4]))
    assert not torch.equal(make("reps", ebm_steps=2, ddpm_steps=3, reps=2)(images[:4]), once(images[:4]))


def test_jpeg_is_jpeg(make, images):
    picture = PIL.Image.fromarray(images[0].permute(1, 2, 0).numpy())
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=25)
    expected = np.array(PIL.Image.open(file))
    assert np.array_equal(np.array(make("jpeg")(picture)), expected)
    assert np.array_equal(make("jpeg")(images[:4])[0].permute(1, 2, 0).numpy(), expected)


# --- filt: the threshold belongs to the whole set ---


def test_filt_repairs_the_share_with_the_highest_energies(make, images):
    purify = make("filt", filter_fraction=0.25).fit(images)
    changed = (purify(images) != images).flatten(1).any(1)
    assert changed.sum() == 16
    energies = purify.energy(images)
    assert set(energies.topk(16).indices.tolist()) == set(changed.nonzero().flatten().tolist())
    assert torch.equal(purify.suspicious(images), changed)


@pytest.mark.parametrize("kind", ["tensor", "array", "hugging face", "iterable", "torch", "loader"])
def test_any_data_set_can_be_fitted_to(make, images, kind):
    pictures = [PIL.Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    table = datasets.Dataset.from_dict({"image": pictures, "label": list(range(64))}).cast_column(
        "image", datasets.Image()
    )

    class MapStyle:
        def __len__(self):
            return 64

        def __getitem__(self, index):
            return pictures[index], index

    source = {
        "tensor": images,
        "array": images.permute(0, 2, 3, 1).numpy(),
        "hugging face": table,
        "iterable": table.to_iterable_dataset(),
        "torch": MapStyle(),
        "loader": torch.utils.data.DataLoader(TensorDataset(images, torch.arange(64)), batch_size=7),
    }[kind]
    assert make("filt").fit(source).config.energy_threshold == make("filt").fit(images).config.energy_threshold


def test_filt_is_the_same_in_one_batch_in_many_and_in_two_processes(make, images, tmp_path):
    pictures = [PIL.Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    table = datasets.Dataset.from_dict({"image": pictures}).cast_column("image", datasets.Image())
    table.save_to_disk(tmp_path / "set")
    table = datasets.load_from_disk(tmp_path / "set")
    purify = make("filt").fit(table)

    def pixels(mapped):
        return np.stack([np.array(row["image"]) for row in mapped])

    one = pixels(table.map(purify, batched=True, batch_size=64))
    many = pixels(table.map(purify, batched=True, batch_size=5))
    two = pixels(table.map(purify, batched=True, batch_size=8, num_proc=2))
    assert np.array_equal(one, many)
    assert np.array_equal(one, two)
    assert (one != images.permute(0, 2, 3, 1).numpy()).any(axis=(1, 2, 3)).sum() == 32


def test_an_explicit_threshold_needs_no_fit(make, images):
    threshold = float(make("ebm").energy(images).median())
    purify = make("filt", energy_threshold=threshold)
    assert (purify(images) != images).flatten(1).any(1).sum() == 33  # the median itself is included
    assert purify.digest != make("filt").digest


def test_without_a_threshold_there_is_an_error_that_says_what_to_do(make, images):
    for method in ("filt", "adaptive"):
        with pytest.raises(ValueError, match=r"\.fit\(dataset\)"):
            make(method)(images[:1])
    with pytest.raises(ValueError, match="no energy threshold"):
        make("ebm").suspicious(images[:1])
    with pytest.raises(ValueError, match="no energy threshold to fit"):
        make("ebm").fit(images)
    with pytest.raises(ValueError, match="empty"):
        make("filt").fit([])


def test_a_fitted_transform_can_be_fitted_again(make, images):
    purify = make("filt").fit(images[:32])
    first = purify.config.energy_threshold
    assert pickle.loads(pickle.dumps(purify)).fit(images[32:]).config.energy_threshold != first


# --- adaptive: as much as the energy asks for ---


def test_adaptive_leaves_unsuspicious_images_alone(make, images, quiet):
    purify = make("adaptive", filter_fraction=0.25).fit(images)
    changed = (purify(images) != images).flatten(1).any(1)
    assert changed.sum() == 16
    assert torch.equal(changed, purify.suspicious(images))


def test_adaptive_stops_as_soon_as_the_energy_is_low_enough(make, images):
    """Where Langevin steps alone bring the energy down, adaptive does what they do and no more."""
    ebm = make("ebm", ebm_steps=40, temperature=2e-6, dynamics="annealed")
    energies, after = ebm.energy(images[:16]), ebm.energy(ebm(images[:16]))
    fallen = after < energies - 1e-6
    assert fallen.any(), "the chain should lower some energies"
    threshold = float(((energies + after) / 2)[fallen].max())
    purify = make("adaptive", ebm_steps=40, temperature=2e-6, dynamics="annealed", energy_threshold=threshold)
    done = (energies >= threshold) & (after < threshold)
    assert done.any()
    chosen = images[:16][done]
    assert torch.equal(purify(chosen), ebm(chosen))


def test_adaptive_reports_what_resists(make, images):
    purify = make("adaptive", energy_threshold=-1e6)  # nothing can get below it
    with pytest.warns(UserWarning, match="4 of 4 images are still suspicious"):
        out = purify(images[:4])
    assert purify.suspicious(out).all()


def test_energies_need_an_energy_network(make, images):
    for method in ("ddpm", "eclipse", "onestep", "jpeg"):
        with pytest.raises(ValueError, match="no energy network"):
            make(method).energy(images[:1])


def test_a_network_too_small_image_is_refused(make):
    with pytest.raises(ValueError, match="at least"):
        make("ddpm")(torch.zeros(3, 1, 9, dtype=torch.uint8))


def test_exchanged_checkpoints_are_explained(tiny_checkpoint, tiny_ddpm, images):
    with pytest.raises(ValueError, match="ddpm_checkpoint"):
        PureGen(checkpoint=tiny_ddpm)(images[:1])
    with pytest.raises(ValueError, match="`checkpoint"):
        PureGen("ddpm", ddpm_checkpoint=tiny_checkpoint)(images[:1])


@pytest.mark.parametrize("method", ["ddpm", "naive", "jpeg"])
def test_an_empty_batch_stays_empty(method):
    few = {"jpeg": {}, "ddpm": {"ddpm_steps": 2}, "naive": {"ebm_steps": 1, "ddpm_steps": 2}}[method]
    empty = torch.empty(0, 3, 32, 32, dtype=torch.uint8)
    out = PureGen(method, **few)(empty)
    assert (out.shape, out.dtype) == (empty.shape, empty.dtype)
