"""Every benchmark of attacks and defenses, at its smallest preset."""

import importlib
import json
import sys
from dataclasses import replace

import pytest
import torch

from puregen_transforms import PureGen
from puregen_transforms.attacks import ATTACKS
from puregen_transforms.defenses import VictimBeneficiary
from puregen_transforms.evaluate.cells import VictimSpec
from puregen_transforms.evaluate.presets import SCALES
from puregen_transforms.evaluate.protocols import PROTOCOLS
from puregen_transforms.evaluate.store import Store


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Shared, so that what several benchmarks need is computed once."""
    return tmp_path_factory.mktemp("runs")


# Of the slow ones, "triggerless" crafts the same, and the others train and measure alike.
SLOW = (
    "attacks",
    "availability",
    "bullseye_polytope",
    "defense_aware",
    "detection",
    "larger_victim",
    "no_clean_images",
    "photographs",
    "training_defenses",
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in PROTOCOLS]
)
def test_every_protocol_runs(name, runs, monkeypatch, capsys):
    """With shorter trainings than the preset's, and fewer steps of the diffusion network."""
    short = {"friends": {"start": 1, "iterations": 2}, "epic": {"interval": 1}}
    victim = VictimSpec(classifier="tiny", epochs=3)
    few = {method: {"ddpm_inference_steps": 2, "ddpm_steps": 2} for method in ("ddpm", "eclipse")}
    few |= {"ebm": {"ebm_steps": 2}}
    quick = {"epochs": 3, "clean_epochs": 1, "weight_rise": 2, "warmup_steps": 1, "batch": 16}
    monkeypatch.setitem(VictimBeneficiary.presets, "smoke", quick)
    monkeypatch.setitem(SCALES, "smoke", replace(SCALES["smoke"], victim=victim, purify=few, **short))
    check(name, runs, monkeypatch, capsys)


@pytest.mark.slow
def test_the_smoke_preset_shows_a_backdoor(tmp_path, monkeypatch, capsys):
    record = check("triggers", tmp_path, monkeypatch, capsys)
    undefended = {
        cell["cell"]["attack"]["name"]: cell for cell in record["cells"] if cell["cell"]["defense"]["name"] == "none"
    }
    assert undefended["none"]["accuracy"] > 0.75
    assert undefended["trojan"]["success"] > 0.7
    assert undefended["trojan"]["success"] > undefended["trojan"]["success_never_poisoned"] + 0.3


def check(name, runs, monkeypatch, capsys):
    output = runs / f"{name}.json"
    command = [name, "--preset", "smoke", "--runs", str(runs), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", command)
    module = importlib.import_module(name)
    module.main(name, module.__doc__)
    record = json.loads(output.read_text())
    assert record["cells"]
    poisoned = [cell for cell in record["cells"] if cell["cell"]["attack"]["name"] != "none"]
    assert poisoned
    for cell in poisoned:
        measured = {"success", "success_never_poisoned"} & cell.keys()
        attack = cell["cell"]["attack"]["name"]
        aimless = ATTACKS[attack].availability or attack == "label_noise"
        assert len(measured) == (0 if aimless else 2)
        assert cell["poison"]["poisoned_rows"] >= 1
    lines = {cell["cell"]["defense"]["name"] for cell in record["cells"]}
    if len(lines) == 1 or name == "detection":
        lines = {cell["cell"]["attack"]["group"] for cell in record["cells"]}
    assert len(lines) >= 2
    shown = capsys.readouterr().out
    for line in lines:
        assert f"| {line} |" in shown
    assert "Made in two minutes" in output.with_suffix(".md").read_text()
    return record


def weights_of(model):
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])


def test_what_is_kept_is_kept_by_the_content_of_the_images(images, tmp_path, tiny_checkpoint):
    """The same images in another order have the same number and the same sum."""
    tradeoff, quality = map(importlib.import_module, ("dynamics_tradeoff", "purify_quality"))
    purify = PureGen(checkpoint=tiny_checkpoint, ebm_steps=1, seed=0, device="cpu")
    first, second = images[:16], images[:16].flip(0)
    labels = torch.arange(16) % 2
    makers = [
        lambda images: tradeoff.purified_set(Store(tmp_path), purify, images),
        lambda images: weights_of(tradeoff.victim(Store(tmp_path), images, labels, epochs=1, seed=0)),
        lambda images: torch.tensor(
            quality.cell(tmp_path, purify, images, {16: images[:4] ^ 8}, purify)["psnr_clean"], dtype=torch.float64
        ),
    ]
    for make in makers:
        made = make(first)
        assert torch.equal(make(first), made)
        assert not torch.equal(make(second), made)
