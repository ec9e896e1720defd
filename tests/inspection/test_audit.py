"""The whole audit, on real images with a real trigger."""

import json
from collections import Counter

import numpy as np
import PIL.Image
import pytest
import torch

from puregen_transforms import PureGen
from puregen_transforms.data.demo import CLASSES, add_trigger, load_demo
from puregen_transforms.data.sources import load_image_tensor, open_source
from puregen_transforms.detection import find_outliers, find_patterns
from puregen_transforms.inspection.audit import inspect_images

DOG = CLASSES.index("dog")
TYPICAL = 2


@pytest.fixture(scope="module")
def demo():
    return load_demo()


def poison(demo, label, count):
    images = demo.images.clone()
    rows = (demo.labels == label).nonzero().flatten()[:count]
    images[rows] = add_trigger(images[rows], demo.trigger)
    return images, rows.tolist()


QUICK = {"budget": "2m", "sample": TYPICAL}


@pytest.fixture(scope="module")
def found(demo):
    """Seven of the twenty dogs carry the trigger at eps 8/255."""
    images, rows = poison(demo, DOG, 7)
    return inspect_images(images, demo.labels, class_names=CLASSES, **QUICK), images, rows


def test_the_poisoned_class_is_named_first(found):
    inspection, _, rows = found
    assert inspection.verdict.level == "poisoned"
    assert inspection.verdict.flagged.nonzero().flatten().tolist() == rows
    assert inspection.suspicious_classes == ("dog",)
    assert inspection.classes[0].name == "dog"
    assert inspection.classes[0].pattern_p < 1e-3
    expected = "Suspicious: 7 of 200 images share a hidden pattern; the suspicious class is dog."
    assert inspection.energies_headline == expected
    assert inspection.pattern_of.nonzero().flatten().tolist() == rows
    assert inspection.patterns[0].by_class == {"dog": 7}


def test_energies_are_raw_and_scores_are_within_the_class(found, demo):
    inspection, images, _ = found
    torch.testing.assert_close(inspection.energies, PureGen().energy(images))
    for group in inspection.classes:
        own = demo.labels == group.label
        assert group.images == int(own.sum()) == 20
        assert group.median_energy == pytest.approx(float(inspection.energies[own].median()))
        assert inspection.scores[own].median() == 0


def test_the_common_pattern_looks_like_the_trigger(found, demo):
    pattern = found[0].patterns[0]
    trigger = demo.trigger.float().flatten()
    assert torch.nn.functional.cosine_similarity(pattern.estimate.flatten(), trigger, dim=0) > 0.4
    assert torch.nn.functional.cosine_similarity(pattern.excess.flatten(), trigger, dim=0) > 0.2
    assert pattern.similarity > 0.5


def test_the_advice_follows_from_the_dynamics(found):
    inspection, _, rows = found
    assert set(inspection.dynamics.rows) <= set(rows)
    assert len(inspection.dynamics.rows) == len(inspection.typical_rows) == TYPICAL
    assert not set(inspection.typical_rows) & set(rows)
    assert inspection.dynamics.back_in_range() is not None
    assert inspection.dynamics.pattern_gone() is None, "more than a third of this pattern outlives every step studied"
    assert inspection.advice.action == "remove"
    assert "7 images" in " ".join(inspection.advice.sentences)


def test_everything_but_pixels_goes_into_the_record(found):
    record = json.loads(json.dumps(found[0].to_dict(), allow_nan=False))
    assert record["classes"][0]["name"] == "dog"
    steps = record["dynamics"]["steps"]
    for name in ("suspicious", "typical"):
        assert len(record["dynamics"][name]["distance"]) == len(record["dynamics"][name]["energy"]) == len(steps)
    assert len(record["settings"]["weights_sha256"]) == 64
    assert record["settings"]["seed"] == 0


def test_nothing_is_said_against_clean_images_and_none_is_purified(demo, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr("puregen_transforms.inspection.audit.study", lambda *given, **options: 1 / 0)
    inspection = inspect_images(demo.images, demo.labels, class_names=CLASSES, checkpoint=tiny_checkpoint, **QUICK)
    assert inspection.verdict.level == "nothing found"
    assert inspection.suspicious_classes == ()
    assert inspection.patterns == ()
    assert not inspection.pattern_of.any()
    assert inspection.dynamics is None
    assert inspection.advice.action == "nothing"
    assert "missed" in inspection.advice.sentences[0], "what could be missed is said"
    assert all(group.level != "suspicious" for group in inspection.classes)


def test_a_visible_patch_that_energies_take_for_natural_is_found_and_purified(demo, tiny_checkpoint):
    images = demo.images.clone()
    rows = (demo.labels != DOG).nonzero().flatten()[:12]
    images[rows, :, -4:, -4:] = torch.tensor([0, 255]).repeat(8).reshape(4, 4).to(torch.uint8)
    labels = demo.labels.clone()
    labels[rows] = DOG
    inspection = inspect_images(images, labels, class_names=CLASSES, checkpoint=tiny_checkpoint, **QUICK)
    assert inspection.pattern_of.sum() == 0
    assert inspection.verdict.flagged.nonzero().flatten().tolist() == rows.tolist()
    assert set(inspection.dynamics.rows) <= set(rows.tolist())
    assert inspection.advice.action == "remove"
    drawn = inspect_images(images, labels, checkpoint=tiny_checkpoint, budget="2m", sample=0)
    assert drawn.dynamics is None
    assert set(drawn.drawn_rows) == set(rows.tolist())
    assert len(drawn.heat) == len(rows)


def test_missing_images_labels_and_odd_sizes(demo, tiny_checkpoint):
    images, labels = list(demo.images[:60]), demo.labels[:60].clone()
    images[3] = None
    images[4] = torch.nn.functional.interpolate(demo.images[:1].float(), 40)[0].to(torch.uint8)
    labels[5] = -1
    inspection = inspect_images(images, labels, checkpoint=tiny_checkpoint, **QUICK)
    assert inspection.measured == 59
    assert inspection.size == (32, 32)
    assert inspection.energies.isnan().nonzero().flatten().tolist() == [3]
    assert sum(group.images for group in inspection.classes) == 58
    assert {group.name for group in inspection.classes} == {str(label) for label in range(10)}
    assert [note.split()[0] for note in inspection.notes] == ["1", "1", "1"]
    assert len(inspection.verdict.left_out) >= 3, "what cannot be searched is said"


def test_the_same_seed_gives_the_same_report(demo, tiny_checkpoint):
    first, second = (
        inspect_images(demo.images[:20], seed=4, checkpoint=tiny_checkpoint, **QUICK).to_dict() for _ in range(2)
    )
    assert first == second


@pytest.mark.slow
def test_a_killed_search_goes_on(found, demo, tmp_path, monkeypatch):
    """What was finished is not made again: neither energies nor searches."""
    inspection, images, _ = found
    given = {"class_names": CLASSES, "state": tmp_path, **QUICK}
    with monkeypatch.context() as patched:
        patched.setattr("puregen_transforms.inspection.audit.study", lambda *given, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            inspect_images(images, demo.labels, **given)
    monkeypatch.setattr("puregen_transforms.detection.stamps.Stamps.detect", lambda *given: 1 / 0)
    monkeypatch.setattr("puregen_transforms.detection.measure.ImageMeter.energies", lambda *given: 1 / 0)
    again = inspect_images(images, demo.labels, **given)
    assert again.to_dict() == inspection.to_dict()
    assert torch.equal(again.verdict.flagged, inspection.verdict.flagged)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0] * 199, "199"),
        ([0.5] * 200, "float"),
        ([None] * 200, "a label for each image, but got None"),
        (torch.zeros(200, 2, dtype=torch.int64), "200, 2"),
    ],
)
def test_labels_that_do_not_fit(demo, labels, message):
    for look in (inspect_images, find_patterns):
        with pytest.raises(ValueError, match=message):
            look(demo.images, labels)


def test_labels_may_be_words(demo, tiny_checkpoint):
    images, labels = demo.images[:40], demo.labels[:40]
    words = [CLASSES[label] for label in labels.tolist()]
    options = {"checkpoint": tiny_checkpoint, **QUICK}
    by_number = inspect_images(images, labels, class_names=CLASSES, **options).to_dict()
    assert inspect_images(images, words, class_names=CLASSES, **options).to_dict() == by_number
    alone = inspect_images(images, np.array(words), **options)
    assert alone.class_names == tuple(sorted(set(words)))
    assert {group.name: group.images for group in alone.classes} == Counter(words)
    assert torch.equal(
        find_patterns(images, words, checkpoint=tiny_checkpoint),
        find_patterns(images, labels, checkpoint=tiny_checkpoint),
    )


def test_too_few_images(demo):
    with pytest.raises(ValueError, match="at least 10"):
        inspect_images(demo.images[:5])


@pytest.mark.slow
def test_cifar10_with_ten_poisoned_images(cifar10_test, demo):
    """One in two hundred images, of one class: the first 2,000 of the test set."""
    images = load_image_tensor(str(cifar10_test))[:2000]
    labels = torch.tensor(open_source(str(cifar10_test))["train"]["label"])[:2000]
    rows = (labels == 8).nonzero().flatten()[:10]
    images[rows] = add_trigger(images[rows], demo.trigger)
    inspection = inspect_images(images, labels, class_names=CLASSES, **QUICK)
    assert inspection.suspicious_classes == ("ship",)
    assert inspection.pattern_of.nonzero().flatten().tolist() == sorted(rows.tolist())


class TestOutliers:
    def test_strong_noise_is_found_image_by_image(self, demo):
        """Each image with a perturbation of its own: there is no pattern, only energies."""
        generator = torch.Generator().manual_seed(0)
        images = demo.images.clone()
        signs = torch.randint(0, 2, images[:8].shape, generator=generator) * 32 - 16
        images[:8] = (images[:8].int() + signs).clamp(0, 255).byte()
        found = find_outliers(images)
        assert found[:8].all()
        assert found[8:].float().mean() < 0.05
        assert not find_outliers(images, threshold=1e6).any()

    def test_pictures_and_tensors_are_alike(self, demo):
        pictures = [PIL.Image.fromarray(image.permute(1, 2, 0).numpy()) for image in demo.images[:20]]
        assert torch.equal(find_outliers(pictures), find_outliers(demo.images[:20]))

    def test_no_images(self):
        assert find_outliers([]).shape == (0,)
