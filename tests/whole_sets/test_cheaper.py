"""The sentence that names a cheaper way to purify."""

from __future__ import annotations

import pytest

from puregen_transforms import PureGen, purify_dataset
from puregen_transforms.whole_sets import cheaper
from puregen_transforms.whole_sets.cheaper import CHEAPER, cheaper_than
from puregen_transforms.whole_sets.workload import Estimate


@pytest.fixture
def naive(tiny_checkpoint, tiny_ddpm):
    networks = {"checkpoint": tiny_checkpoint, "ddpm_checkpoint": tiny_ddpm}
    return PureGen("naive", **networks, ebm_steps=2, ddpm_steps=2, device="cpu", batch_size=2)


def estimate(*, images=1000, seconds=10.0):
    return Estimate(images=images, side=32, seconds=seconds)


def test_it_is_timed_with_the_same_networks_and_as_many_images(naive):
    (only,) = (one for one in CHEAPER if one.smallest_side <= 32)
    other = only.purifier(naive)
    assert other.config.ddpm_checkpoint == naive.config.ddpm_checkpoint
    assert (other.batch_size, other.device) == (2, naive.device)
    for images in (1000, None):
        sentence = cheaper_than(naive, estimate(images=images))
        assert sentence is not None
        assert sentence.startswith(f"Cheaper: {only.words} ({only.flags}) would take ")
        assert sentence.endswith(f"but {only.gives_up}.")


def test_photographs_are_named_the_method_for_them(naive):
    sentence = cheaper_than(naive, Estimate(images=1000, side=224, seconds=100.0))
    assert "--method onestep" in sentence


def test_short_work_gets_none(naive):
    assert cheaper_than(naive, estimate(images=50)) is None


def test_what_gains_little_is_not_named(naive):
    assert cheaper_than(naive, estimate(images=10**9, seconds=1e-6)) is None


def test_what_takes_long_to_time_is_not_timed(naive, monkeypatch):
    monkeypatch.setattr(cheaper, "seconds_of_an_image", lambda *given: pytest.fail("timed"))
    assert cheaper_than(naive, estimate(seconds=3600.0)) is None


def test_images_too_small_for_its_network_get_none(naive):
    assert cheaper_than(naive, Estimate(images=1000, side=1, seconds=10.0)) is None


@pytest.mark.parametrize("method", ["jpeg", "eclipse", "filt", "adaptive"])
def test_methods_with_another_aim_have_no_substitute(method):
    assert cheaper_than(PureGen(method, device="cpu"), estimate()) is None


def test_it_is_said_in_python_too(naive, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cheaper, "NAMED_FROM", 0.0)
    monkeypatch.setattr(cheaper, "LEAST_GAIN", 0.0)
    purify_dataset([(images[0], 0)], naive, output_dir=tmp_path / "out")
    assert "Cheaper: " in capsys.readouterr().err
