"""Labels that were moved to one class, seen by features; the features here are made, so that the answer is known."""

import pytest
import torch

from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection import MovedLabels, detect
from puregen_transforms.detection import moved_labels as module
from puregen_transforms.detection.moved_labels import margins_of
from puregen_transforms.detection.ridge import fit_ridge

NAMES = ("a", "b", "c", "d")


def pictures(count, seed):
    """Images of noise, whose class is in the color of a corner alone."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(NAMES)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    images[:, 0, 0, 0] = (60 * labels).to(torch.uint8)
    return images, labels


@pytest.fixture(autouse=True)
def features(monkeypatch):
    """Read the class from the corner, blurred so that one in ten images looks like another class."""

    def read(suspects, backbone, *, side):
        images = suspects.images
        generator = torch.Generator().manual_seed(int(images[0].sum()))
        truth = torch.nn.functional.one_hot((images[:, 0, 0, 0] // 60).long(), len(NAMES)).float()
        return truth + 0.4 * torch.randn(len(images), len(NAMES), generator=generator)

    monkeypatch.setattr(module, "read_features", read)
    monkeypatch.setattr(module, "load_backbone", lambda name: None)
    monkeypatch.setattr(module, "side_for", lambda suspects, backbone: 8)


def searched(labels, images, *, reserved=True, **settings):
    clean = ImageSet(*pictures(800, 9), NAMES) if reserved else None
    given = {"class_names": NAMES, "reserved": clean, "device": "cpu"}
    return detect("moved_labels", images, labels, settings=settings, **given)


@pytest.mark.parametrize("reserved", [True, False])
def test_labels_moved_to_one_class_are_found_there_alone(reserved):
    images, labels = pictures(2000, 1)
    moved = (labels != 0).nonzero().flatten()[::15]
    given = labels.clone()
    given[moved] = 0
    report = searched(given, images, reserved=reserved)
    assert report.flagged[moved].float().mean() > 0.6
    assert not report.flagged[given != 0].any()
    clean = torch.ones(2000, dtype=torch.bool)
    clean[moved] = False
    assert report.flagged[clean & (labels == 0)].float().mean() < (0.06 if reserved else 0.1)
    assert report.classes[0].name == "a"
    assert report.classes[0].facts["above"] > 0.1


@pytest.mark.parametrize("reserved", [True, False])
def test_a_clean_set_and_labels_that_are_wrong_everywhere_are_left_alone(reserved):
    images, labels = pictures(2000, 1)
    assert not searched(labels, images, reserved=reserved).flagged.any()
    for share in (0.05, 0.2):
        generator = torch.Generator().manual_seed(2)
        wrong = torch.rand(2000, generator=generator) < share
        noisy = torch.where(wrong, (labels + torch.randint(1, 4, (2000,), generator=generator)) % 4, labels)
        assert not searched(noisy, images, reserved=reserved).flagged.any()


def test_without_clean_images_a_class_that_stands_out_is_searched_deeper():
    images, labels = pictures(2000, 1)
    few, many = labels.clone(), labels.clone()
    few[(labels != 0).nonzero().flatten()[::200]] = 0
    many[(labels != 0).nonzero().flatten()[::6]] = 0
    left, found = (searched(given, images, reserved=False) for given in (few, many))
    assert not left.flagged.any() and (left.scores > 0).any()  # far images, but no class has many of them
    assert (found.scores[found.flagged] > 1).all() and not found.flagged[many != 0].any()
    assert int(found.flagged.sum()) > found.classes[0].facts["above"] * int((many == 0).sum())


def test_each_clean_image_is_judged_without_itself():
    generator = torch.Generator().manual_seed(0)
    known, targets, unknown = (torch.randn(*shape, generator=generator).double() for shape in ((9, 3), (9, 2), (4, 3)))
    left_out, predicted = fit_ridge(known, targets, unknown, strength=0.1)
    others = torch.arange(9) != 4
    gram = known[others].T @ known[others] + 0.1 * 9 * torch.eye(3)
    weights = torch.linalg.solve(gram, known[others].T @ targets[others])
    torch.testing.assert_close(left_out[4], known[4] @ weights)
    assert predicted.shape == (4, 2)


def test_images_that_are_missing_have_no_margin():
    features = torch.eye(4)[torch.arange(40) % 4]
    features[3] = torch.nan
    labels = torch.arange(40) % 4
    margins, of_clean = margins_of(features, labels, torch.eye(4)[labels], labels, classes=[0, 1, 2, 3])
    assert margins.isnan().nonzero().flatten().tolist() == [3]
    assert (of_clean < 0).all()


@pytest.mark.parametrize("reserved", [True, False])
def test_images_without_a_label_are_left_alone(reserved):
    images, labels = pictures(400, 1)
    labels[5] = -1
    report = searched(labels, images, reserved=reserved)
    assert report.scores[5] == 0 and not report.flagged[5]


def test_what_it_needs_is_said():
    images, labels = pictures(200, 1)
    with pytest.raises(ValueError, match="at least 3 classes"):
        searched(labels % 2, images)
    with pytest.raises(ValueError, match="at least 5 reserved image"):
        detect("moved_labels", images, labels, class_names=NAMES, reserved=ImageSet(*pictures(12, 9), NAMES))
    with pytest.raises(ValueError, match="rare=0.7"):
        MovedLabels(rare=0.7)
