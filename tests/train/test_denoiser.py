"""Training of the denoiser: patches, what an update does, resuming, and what a run leaves."""

import pytest
import torch
from torchvision.transforms.functional import to_pil_image
from typer.testing import CliRunner

from puregen_transforms import PureGen
from puregen_transforms.cli.main import app
from puregen_transforms.models.config import DenoiserConfig
from puregen_transforms.train.config import DenoiserTraining
from puregen_transforms.train.denoiser import DenoiserTrainer
from puregen_transforms.train.generator_run import read_log, run_training
from puregen_transforms.train.patches import Patches

SMALL = DenoiserTraining(updates=6, batch_size=4, patch_size=32, warmup=2, learning_rate=1e-3)
NETWORK = DenoiserConfig(widths=(8, 12), blocks=1)


def changed(**values):
    return DenoiserTraining(**{**SMALL.to_dict(), **values})


def large(count=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, 50 + 10 * n, 90), generator=generator).to(torch.uint8) for n in range(count)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_patches_of_sets_come_in_turn_and_in_their_sizes(images):
    patches = Patches([large(), list(images)], side=40, multiple=4)
    assert len(patches) == 3 + len(images)
    assert [patches.side_of(number) for number in range(4)] == [40, 32, 40, 32]
    assert patches.draw(0, 5, generator()).shape == (5, 3, 40, 40)
    assert patches.draw(1, 5, generator()).shape == (5, 3, 32, 32)
    assert torch.equal(patches.draw(2, 5, generator()), patches.draw(0, 5, generator())), "the generator decides all"


def test_small_images_are_taken_whole_and_some_mirrored(images):
    drawn = ((Patches([list(images)], side=64).draw(0, 40, generator()) + 1) * 127.5).round().to(torch.uint8)
    known = {image.numpy().tobytes() for image in images}
    mirrored = {image.flip(2).numpy().tobytes() for image in images}
    found = [one.numpy().tobytes() for one in drawn]
    assert all(one in known | mirrored for one in found)
    assert 5 < sum(one in mirrored for one in found) < 35


def test_patches_of_large_images_are_of_several_scales():
    """A ramp over the image: the slope of a patch tells by how much it was reduced."""
    ramp = torch.arange(200).to(torch.uint8).expand(3, 200, 200)
    drawn = Patches([[ramp]], side=20, most_reduced=4.0).draw(0, 200, generator()) * 127.5
    slopes = (drawn[..., -1] - drawn[..., 0]).abs().mean((1, 2)) / 19
    assert slopes.min() < 1.1
    assert slopes.max() > 3.5


def test_images_that_cannot_be_learned_are_refused(images):
    with pytest.raises(ValueError, match="at least one image"):
        Patches([list(images), []], side=32)
    with pytest.raises(ValueError, match="dtype uint8"):
        Patches([[images[0].float()]], side=32)
    with pytest.raises(ValueError, match="at least 8 pixels"):
        Patches([[images[0][:, :4]]], side=32, multiple=8)


def test_the_loss_falls(images):
    training = changed(updates=60, batch_size=16, warmup=5, learning_rate=3e-3, lowest_noise=20.0)
    run = DenoiserTrainer([list(images)], training, NETWORK)
    losses = [run.step().loss for _ in range(60)]
    assert losses[0] == pytest.approx(0.8, abs=0.02), "the mean size of a normal value"
    assert sum(losses[-10:]) < 0.85 * sum(losses[:10])


def test_a_run_leaves_a_checkpoint_that_purifies_and_resumes_exactly(images, tmp_path):
    sets = [large(), list(images)]
    whole = DenoiserTrainer(sets, SMALL, NETWORK)
    assert len(list(run_training(whole, tmp_path / "whole", save_every=4))) == 6
    assert [row["update"] for row in read_log(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "whole/samples.png").read_bytes().startswith(b"\x89PNG")
    for killed_after in (5, None):
        steps = run_training(DenoiserTrainer(sets, SMALL, NETWORK), tmp_path / "killed", save_every=4)
        for statistics in steps:
            if statistics.update == killed_after:
                break
        steps.close()
    weights = [(tmp_path / name / "denoiser.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    out = PureGen("onestep", denoiser_checkpoint=tmp_path / "whole", seed=0)(images[:2])
    assert not torch.equal(out, images[:2])


def test_trained_weights_are_where_a_deeper_network_starts(images, tmp_path):
    first = DenoiserTrainer([list(images)], SMALL, NETWORK)
    list(run_training(first, tmp_path / "first"))
    command = ["train", "denoiser", str(tmp_path / "images"), str(tmp_path / "second"), "--initial"]
    command += [str(tmp_path / "first"), "--widths", "8,12", "--updates", "2", "--batch-size", "4", "--cpu"]
    command += ["--patch-size", "32", "--learning-rate", "1e-9", "--dtype", "float32"]
    (tmp_path / "images").mkdir()
    for number, image in enumerate(images[:6]):
        to_pil_image(image).save(tmp_path / f"images/{number}.png")
    result = CliRunner().invoke(app, [*command, "--blocks", "2"])
    assert result.exit_code == 0, result.output
    for name in ("first", "second"):
        assert (tmp_path / name / "denoiser.safetensors").exists()
    out = [PureGen("onestep", denoiser_checkpoint=tmp_path / name, seed=0)(images[:2]) for name in ("first", "second")]
    assert (out[0].int() - out[1].int()).abs().max() <= 1
    narrower = [word if word != "8,12" else "8,16" for word in command]
    refused = CliRunner().invoke(app, [*narrower, "--blocks", "2"])
    assert refused.exit_code != 0
    assert "with as many blocks or more" in " ".join(refused.output.split())


def test_impossible_settings_are_refused():
    for values in ({"updates": 0}, {"lowest_noise": 0.0}, {"highest_noise": 1.0}, {"warmup": -1}, {"ema_decay": 1.0}):
        with pytest.raises(ValueError, match="Expected"):
            changed(**values)
