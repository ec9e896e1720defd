"""The packaged default, as it is shipped: nothing here loads any other weights."""

import pytest
import torch
from references import reference_chain, reference_energy

from puregen_transforms import PureGen
from puregen_transforms.data.demo import load_demo
from puregen_transforms.evaluate.metrics import auroc, psnr, survival
from puregen_transforms.functional.images import to_signed, to_uint8
from puregen_transforms.functional.noise import KeyedNoise
from puregen_transforms.hub.cards import load_record
from puregen_transforms.hub.catalogue import DEFAULT_DDPM, DEFAULT_DENOISER, DEFAULT_EBM
from puregen_transforms.hub.ddpm import load_unet, resolve_ddpm
from puregen_transforms.hub.denoiser import load_denoiser, resolve_denoiser
from puregen_transforms.hub.ebm import load_ebm, resolve_ebm
from puregen_transforms.models.denoiser_inference import FrozenDenoiser
from puregen_transforms.models.unet_inference import FrozenUNet


@pytest.fixture(scope="module")
def demo():
    return load_demo()


@pytest.fixture(scope="module")
def purify():
    return PureGen(seed=0)


def test_energies_are_those_recorded_when_it_was_packaged(purify, demo):
    recorded = torch.tensor(load_record(DEFAULT_EBM)["demo_energies"])
    torch.testing.assert_close(purify.energy(demo.images[: len(recorded)]), recorded, rtol=1e-4, atol=1e-5)


def test_predicted_noise_is_that_recorded_when_it_was_packaged(demo):
    recorded = torch.tensor(load_record(DEFAULT_DDPM)["demo_noise"])
    unet = FrozenUNet(load_unet(resolve_ddpm()))
    with torch.no_grad():
        predicted = unet(to_signed(demo.images[: len(recorded)]), 50)
    torch.testing.assert_close(predicted.square().mean((1, 2, 3)).sqrt(), recorded, rtol=1e-4, atol=1e-5)


def test_what_the_denoiser_takes_off_is_what_was_recorded_when_it_was_packaged(demo):
    recorded = torch.tensor(load_record(DEFAULT_DENOISER)["demo_change"])
    images = to_signed(demo.images[: len(recorded)])
    change = FrozenDenoiser(load_denoiser(resolve_denoiser()))(images, 25 / 127.5) - images
    torch.testing.assert_close(change.square().mean((1, 2, 3)).sqrt(), recorded, rtol=1e-4, atol=1e-5)


def test_energy_separates_the_demo_trigger(purify, demo):
    assert auroc(purify.energy(demo.poisoned()), purify.energy(demo.images)) >= 0.95


def test_purified_clean_images_stay_close_and_keep_their_mean_color(purify, demo):
    batch = demo.images[:16]
    purified = purify(batch)
    assert psnr(purified, batch).mean() >= 25.5
    change = (purified.float() - batch.float()).mean((0, 2, 3))
    assert change.abs().max() < 1, f"of 255, by channel: {change.tolist()}"
    for index in (0, 9):
        assert torch.equal(purify(batch[index]), purified[index]), "150 steps alone equal 150 steps in a batch"


def test_the_fast_path_and_the_reference_purify_alike(demo):
    """150 steps, same noise, in the arithmetic of this machine; `purify_speed.py` compares more images."""
    clean, poisoned, ids = demo.images[:4], demo.poisoned()[:4], torch.arange(4)
    weights = load_ebm(resolve_ebm(None)).state_dict()
    drawn, ours = KeyedNoise(0, ids), PureGen(dynamics="paper", seed=0)
    options = {"epsilon": ours.config.langevin.step_size, "temperature": ours.config.langevin.temperature}

    def reference(images):
        x = to_signed(images)
        noise = [drawn(step, x) for step in range(150)]
        return to_uint8(reference_chain(lambda x: reference_energy(weights, x), x, noise, **options))

    expected = [reference(images) for images in (clean, poisoned)]
    found = [ours.purifier(images, sample_ids=ids, seed=0) for images in (clean, poisoned)]
    for image, wanted in zip(found, expected, strict=True):
        assert (image.int() - wanted.int()).abs().float().mean() <= 1
    assert psnr(found[0], clean).mean().item() == pytest.approx(psnr(expected[0], clean).mean().item(), abs=0.1)
    left = [survival(clean, poisoned, *pair).mean().item() for pair in (found, expected)]
    assert left[0] == pytest.approx(left[1], abs=0.02)
    after = [auroc(ours.energy(pair[1]), ours.energy(pair[0])) for pair in (found, expected)]
    assert after[0] == pytest.approx(after[1], abs=1 / 16)


def test_the_default_ddpm_restores_what_it_noises(demo):
    batch = demo.images[:32]
    purify = PureGen("ddpm", ddpm_solver="ddim", ddpm_inference_steps=1, seed=0)
    purified = purify(batch)
    assert psnr(purified, batch).mean() >= 26.5, "noised to 75 steps it was about 18 dB"
    for index in (0, 9):
        assert torch.equal(purify(batch[index]), purified[index]), "alone as in a batch"


def test_eclipse_removes_the_little_noise_that_it_adds(demo):
    batch = demo.images[:32]
    for calls, least in ((1, 36), (12, 34)):
        purify = PureGen("eclipse", ddpm_solver="ddim" if calls == 1 else "ddpm", ddpm_inference_steps=calls, seed=0)
        assert psnr(purify(batch), batch).mean() >= least, "noised it was about 32 dB"


def test_the_default_denoiser_takes_off_what_it_adds(demo):
    batch = demo.images[:32]
    for strength, least in (("light", 35), ("standard", 29), ("strong", 24)):
        purify = PureGen("onestep", strength=strength, seed=0)
        purified = purify(batch)
        assert psnr(purified, batch).mean() >= least, "noised it was about 28, 20 and 14 dB"
        assert torch.equal(purify(batch[3]), purified[3]), "alone as in a batch"


def test_every_default_method_weakens_the_demo_trigger(demo):
    """At a few steps each, so that the test is quick; the full settings are measured by a benchmark."""
    clean, poisoned, ids = demo.images[:8], demo.poisoned()[:8], torch.arange(8)
    methods = [
        PureGen("ebm", ebm_steps=40, dynamics="annealed", temperature=5e-5, seed=0),
        PureGen("ddpm", ddpm_inference_steps=5, seed=0),
        PureGen("naive", ebm_steps=10, ddpm_inference_steps=3, seed=0),
        PureGen("reps", ebm_steps=2, ddpm_steps=20, ddpm_inference_steps=2, reps=2, seed=0),
        PureGen("filt", ddpm_inference_steps=3, energy_threshold=-1.0, seed=0),
        PureGen("onestep", seed=0),
    ]
    for purify in methods:
        cleaned, purified = (purify.purifier(images, sample_ids=ids, seed=0) for images in (clean, poisoned))
        assert survival(clean, poisoned, cleaned, purified).mean() < 0.75, purify
        assert psnr(cleaned, clean).mean() > 21, purify


def test_the_demo_set_is_what_it_says(demo):
    assert demo.images.shape == (200, 3, 32, 32)
    assert torch.bincount(demo.labels).tolist() == [20] * 10
    change = demo.poisoned().int() - demo.images.int()
    assert change.abs().max() == demo.trigger.abs().max() == 8
