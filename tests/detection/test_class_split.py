"""The search for a second part of each class."""

import math

import pytest
import torch
from torch import nn

from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection import detect
from puregen_transforms.detection.class_split import ClassSplit, loss_under_changes
from puregen_transforms.detection.split_search import (
    Space,
    climb,
    make_space,
    search_class,
    two_gaussians,
)
from puregen_transforms.functional.images import normalize


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def space(own, references=100, **options):
    return Space(name="all", own=own, reference=normal(references, own.shape[1], seed=9), **options)


def folds(count):
    return torch.arange(count) % 5


def test_two_heaps_are_told_from_one():
    heaps = torch.cat([normal(300), normal(100, seed=1) + 6])
    posterior, distance = two_gaussians(heaps, heaps > 3)
    assert ((posterior > 0.5) == (torch.arange(400) >= 300)).sum() >= 398
    assert distance == pytest.approx(6, abs=0.4)
    one = normal(400)
    assert two_gaussians(one, one > 0)[1] < 2.5


def test_a_part_is_found_from_a_poor_beginning_and_lacks_references():
    own = normal(500, 12)
    own[:150, 3] += 5
    begin = torch.arange(500) % 10 == 0
    begin[:100] = True  # two thirds of the part, and a tenth of the rest
    split = climb(space(own), begin, ~begin, folds(500))
    assert ((split.posterior > 0.5) == (torch.arange(500) < 150)).double().mean() > 0.97
    assert split.share == pytest.approx(0.3, abs=0.03)
    assert split.distance > 4
    count, on_side = split.references
    assert on_side <= 5
    share = split.share / 2
    exact = sum(math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(on_side + 1))
    assert split.chance == pytest.approx(exact)
    assert split.chance < 1e-3


def test_the_first_side_is_the_one_that_lacks_references_whichever_was_begun_with():
    own = normal(500, 5)
    own[:300, 0] += 8
    for begin in (torch.arange(500) < 250, torch.arange(500) >= 350):
        split = climb(space(own), begin, ~begin, folds(500))
        assert (split.posterior > 0.5)[:300].all()
        assert split.share == pytest.approx(0.6)


def test_a_natural_part_has_its_share_of_references():
    own, clean = normal(500, 8), normal(200, 8, seed=9)
    own[:150, 0] += 6
    clean[:60, 0] += 6
    split = climb(
        Space(name="all", own=own, reference=clean), torch.arange(500) < 150, torch.arange(500) >= 150, folds(500)
    )
    assert split.distance > 5
    assert split.chance > 0.5


def test_images_of_one_kind_do_not_part():
    found = search_class([space(normal(600, 20, seed=seed)) for seed in range(3)], normal(600, seed=7), seed=0)
    assert all(split.distance < 3.5 for split in found)
    assert all(split.chance > 1e-2 for split in found)


def test_a_few_outliers_are_no_part():
    own = normal(500, 4)
    own[:4] += 30
    split = climb(space(own), torch.arange(500) < 4, torch.arange(500) >= 4, folds(500))
    assert split is None


def test_images_of_other_classes_only_tell_the_sides_apart():
    own = normal(400, 4)
    own[:100, 0] += 8
    split = climb(space(own, same_class=False), torch.arange(400) < 100, torch.arange(400) >= 100, folds(400))
    assert split.chance is None
    assert (split.posterior > 0.5)[:100].all()


@pytest.mark.parametrize(("with_trigger", "carriers"), [(360, 20), (40, 30)], ids=["most", "few"])
def test_images_of_other_classes_may_carry_the_trigger_oftener_than_those_of_the_class(with_trigger, carriers):
    own, others = normal(400, 4), normal(100, 4, seed=9)
    own[:with_trigger, 0] += 8
    others[:carriers, 0] += 8
    begin = torch.arange(400) < with_trigger
    for first in (begin, ~begin):
        split = climb(Space(name="all", own=own, reference=others, same_class=False), first, ~first, folds(400))
        assert torch.equal(split.posterior > 0.5, begin)


def test_components_are_of_one_scale_and_of_the_class_alone():
    part = normal(300, 6) * torch.tensor([1, 100, 1e-3, 1, 1, 0])
    made = make_space("all", [part], [part[:50] + 1])
    assert made.own.shape == (300, 5), "what does not vary is no component"
    assert torch.allclose(made.own.std(0), torch.ones(5, dtype=torch.float64))
    assert torch.equal(make_space("all", [part], [part[:2]]).own, made.own)


class Looker(nn.Module):
    """A network whose first layer sees pixels as they are, and which classifies by brightness."""

    def __init__(self, classes):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, classes)

    def forward(self, images):
        return self.head(self.norm(images).mean((2, 3)))


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Looker(3).eval()


def noise(count, seed):
    images = torch.randint(60, 180, (count, 3, 8, 8), generator=torch.Generator().manual_seed(seed))
    return images.to(torch.uint8)


NAMES = ("a", "b", "c")


@pytest.fixture
def reserved():
    return ImageSet(noise(150, 1), torch.arange(150) % 3, NAMES)


def poisoned(rows):
    images = noise(600, 0)
    images[rows, :, 6:, 6:] = 255
    return images


@pytest.mark.parametrize("with_reserved", [True, False])
def test_the_patched_part_of_a_class_is_flagged_and_nothing_else(network, reserved, with_reserved):
    labels = torch.arange(600) % 3
    rows = (labels == 1).nonzero().flatten()[:70]
    report = detect(
        "class_split",
        poisoned(rows),
        labels,
        network=network,
        reserved=reserved if with_reserved else None,
        class_names=NAMES,
        device="cpu",
    )
    assert report.flagged.nonzero().flatten().tolist() == rows.tolist()
    assert report.scores[rows].min() > 1 >= report.scores[~report.flagged][labels[~report.flagged] != 1].max()
    facts = {one.name: one.facts for one in report.classes}
    assert facts["b"]["share"] == pytest.approx(0.35)
    assert facts["b"]["distance"] > ClassSplit().alone
    assert (facts["b"]["chance"] is not None) == with_reserved


def test_a_class_without_clean_images_is_searched_without_them(network, reserved):
    labels = torch.arange(600) % 3
    rows = (labels == 1).nonzero().flatten()[:70]
    others = reserved.subset((reserved.labels != 1).nonzero().flatten())
    report = detect(
        "class_split", poisoned(rows), labels, network=network, reserved=others, class_names=NAMES, device="cpu"
    )
    assert report.flagged.nonzero().flatten().tolist() == rows.tolist()


def test_poison_in_every_class_is_found(network, reserved):
    labels = torch.arange(600) % 3
    rows = torch.arange(600)[torch.arange(600) % 7 == 0]
    report = detect("class_split", poisoned(rows), labels, network=network, reserved=reserved, device="cpu")
    assert report.flagged.nonzero().flatten().tolist() == rows.tolist()


def test_small_classes_and_images_without_a_label_are_not_searched(network, reserved):
    labels = torch.where(torch.arange(600) < 560, torch.arange(600) % 2, -1)
    labels[:40] = 2
    report = detect("class_split", poisoned(torch.arange(30)), labels, network=network, reserved=reserved, device="cpu")
    assert not report.flagged.any()
    assert "distance" not in next(one.facts for one in report.classes if one.label == 2)


def test_the_witness_is_how_much_surer_a_network_is_before_a_change(network):
    def witness(images, labels):
        with torch.no_grad():
            logits = network.eval()(normalize(images))
        return loss_under_changes(
            network, images, labels, logits, device=torch.device("cpu"), progress=lambda *about: None
        )

    images, labels = noise(6, 3), torch.tensor([0, 1, 2, 0, 1, -1])
    found = witness(images, labels)
    assert found.shape == (6,)
    assert found[5] == 0
    gray = torch.full((1, 3, 8, 8), 128, dtype=torch.uint8)
    assert abs(float(witness(gray, torch.tensor([0])))) < 0.05, "only noise changes an even gray"
    alone = witness(images[2:3], labels[2:3])
    assert math.isclose(float(alone), float(found[2]), rel_tol=1e-4)
