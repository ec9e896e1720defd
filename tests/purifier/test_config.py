import dataclasses

import pytest
from diffusers import DDPMScheduler

from puregen_transforms.functional.diffusion import alpha_bars_of, beta_schedule
from puregen_transforms.purifier.config import DiffusionConfig, LangevinConfig
from puregen_transforms.purifier.puregen_config import METHODS, PureGenConfig


def test_defaults_are_the_papers():
    assert LangevinConfig() == LangevinConfig(steps=150, step_size=1.25e-2, temperature=1e-4)
    assert DiffusionConfig() == DiffusionConfig(steps=75, solver="ddpm", inference_steps=None)
    assert PureGenConfig().ebm_steps == 150
    assert PureGenConfig(method="ddpm").ddpm_steps == 75
    assert (PureGenConfig(method="naive").ebm_steps, PureGenConfig(method="naive").ddpm_steps) == (150, 75)
    reps = PureGenConfig(method="reps")
    assert (reps.ebm_steps, reps.ddpm_steps, reps.reps) == (10, 50, 5)
    filt = PureGenConfig(method="filt")
    assert (filt.ebm_steps, filt.ddpm_steps, filt.filter_fraction) == (0, 125, 0.5)


def test_eclipse_adds_as_much_noise_as_published():
    """100 steps of the cosine schedule of 4000 that it was published with; ours is linear, with 1000."""
    published = DDPMScheduler(num_train_timesteps=4000, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    assert PureGenConfig(method="eclipse").diffusion == DiffusionConfig(steps=12, solver="ddim", inference_steps=1)
    ours, theirs = (
        (1 - bars[steps - 1]).sqrt() for bars, steps in ((alpha_bars_of(beta_schedule()), 12), (published, 100))
    )
    assert float(ours) == pytest.approx(float(theirs), rel=0.02)
    assert 127.5 * float(ours) == pytest.approx(6.4, abs=0.1), "of 255"


def test_dynamics_by_name():
    paper = PureGenConfig(dynamics="paper")
    assert paper.langevin == LangevinConfig() == PureGenConfig(method="naive").langevin
    assert PureGenConfig() == PureGenConfig(dynamics="cooled") == PureGenConfig(dynamics="cooled", temperature=5e-5)
    assert PureGenConfig().langevin == LangevinConfig(temperature=5e-5)
    assert PureGenConfig(dynamics="annealed").langevin == LangevinConfig(noise="annealed")
    assert PureGenConfig(dynamics="annealed", temperature=2e-5).temperature == 2e-5
    assert PureGenConfig().digest({}) != paper.digest({})


def test_annealed_noise_falls_from_full_to_none():
    scales = LangevinConfig(steps=100, noise="annealed").noise_scales
    assert len(scales) == 100
    assert scales[0] > 0.99
    assert scales[-1] == 0
    assert scales == sorted(scales, reverse=True)
    assert LangevinConfig().noise_scales is None


def test_round_trip():
    recipe = PureGenConfig(ebm_steps=10, seed=3, columns=("image", 1), dtype="float32", checkpoint="x")
    assert PureGenConfig.from_dict(recipe.to_dict()) == recipe
    with pytest.raises(ValueError, match="nonsense"):
        PureGenConfig.from_dict({"nonsense": 1})


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PureGenConfig().seed = 1


def test_digest_follows_what_changes_results():
    base = PureGenConfig(seed=0)
    assert base.digest({"ebm": "w"}) == PureGenConfig(seed=0, ebm_steps=150).digest({"ebm": "w"})
    others = [PureGenConfig(seed=1), PureGenConfig(seed=0, ebm_steps=149), PureGenConfig(seed=0, dtype="float32")]
    digests = {recipe.digest({"ebm": "w"}) for recipe in [base, *others]} | {base.digest({"ebm": "v"})}
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "nonsense"}, "'ebm', 'ddpm'"),
        ({"dynamics": "nonsense"}, "'paper'"),
        ({"ddpm_steps": 75}, "does not use `ddpm_steps`"),
        ({"method": "jpeg", "dynamics": "paper"}, "does not use `dynamics`"),
        ({"method": "ddpm", "ddpm_solver": "euler"}, "'dpmsolver\\+\\+'"),
        ({"method": "ddpm", "ddpm_inference_steps": 76}, "at most one network call per step"),
        ({"method": "ddpm", "ddpm_inference_steps": 0}, "1 or more"),
        ({"method": "reps", "reps": 0}, r"\[1, 100\]"),
        ({"method": "jpeg", "jpeg_quality": 101}, r"\[1, 100\]"),
        ({"method": "filt", "filter_fraction": 0.0}, "above 0"),
        ({"method": "filt", "energy_threshold": float("nan")}, "finite"),
        ({"temperature": 0.0}, "above 0"),
        ({"dtype": "int8"}, "'bfloat16'"),
        ({"ebm_steps": -1}, "0 or more"),
        ({"ebm_steps": 1.5}, "integer"),
        ({"ebm_steps": True}, "integer"),
        ({"seed": "1"}, "integer"),
    ],
)
def test_bad_options_name_the_choices(options, message):
    with pytest.raises(ValueError, match=message):
        PureGenConfig(**options)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_round_trips(method):
    recipe = PureGenConfig(method=method)
    assert PureGenConfig.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize("options", [{"step_size": 0}, {"temperature": -1}, {"temperature": float("nan")}])
def test_bad_langevin_settings(options):
    with pytest.raises(ValueError, match="above 0"):
        LangevinConfig(**options)
