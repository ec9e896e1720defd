import dataclasses

import pytest

from puregen_transforms.purifier.config import LangevinConfig, Recipe


def test_defaults_are_the_papers():
    assert LangevinConfig() == LangevinConfig(steps=150, step_size=1.25e-2, temperature=1e-4)
    assert Recipe().ebm_steps == 150


def test_round_trip():
    recipe = Recipe(ebm_steps=10, seed=3, columns=("image", 1), dtype="float32", checkpoint="x")
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    with pytest.raises(ValueError, match="nonsense"):
        Recipe.from_dict({"nonsense": 1})


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().seed = 1


def test_digest_follows_what_changes_results():
    base = Recipe(seed=0)
    assert base.digest("w") == Recipe(seed=0, ebm_steps=150).digest("w")
    others = [Recipe(seed=1), Recipe(seed=0, ebm_steps=149), Recipe(seed=0, dtype="float32")]
    digests = {recipe.digest("w") for recipe in [base, *others]} | {base.digest("v")}
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "nonsense"}, "'ebm', 'ddpm'"),
        ({"method": "ddpm"}, "not in this version"),
        ({"dynamics": "nonsense"}, "'paper'"),
        ({"dynamics": "annealed"}, "not in this version"),
        ({"dtype": "int8"}, "'bfloat16'"),
        ({"ebm_steps": -1}, "0 or more"),
        ({"ebm_steps": 1.5}, "integer"),
        ({"ebm_steps": True}, "integer"),
        ({"seed": "1"}, "integer"),
    ],
)
def test_bad_options_name_the_choices(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)


@pytest.mark.parametrize("options", [{"step_size": 0}, {"temperature": -1}, {"temperature": float("nan")}])
def test_bad_langevin_settings(options):
    with pytest.raises(ValueError, match="above 0"):
        LangevinConfig(**options)
