"""The search for shared patterns, on real images with a real trigger and the packaged network."""

import pytest
import torch

from puregen_transforms.data.demo import CLASSES, add_trigger, load_demo
from puregen_transforms.detection.findings import CLEAR, SUSPICIOUS, UNUSUAL
from puregen_transforms.detection.measure import ImageMeter
from puregen_transforms.detection.pattern_search import EXAMINED_AT_LEAST, search
from puregen_transforms.detection.statistics import as_many_as_fit
from puregen_transforms.hub.ebm import load_ebm, resolve_ebm
from puregen_transforms.inspection.energy_words import headline
from puregen_transforms.models.ebm_inference import FrozenEBM


@pytest.fixture(scope="module")
def demo():
    return load_demo()


@pytest.fixture(scope="module")
def judged():
    network = FrozenEBM(load_ebm(resolve_ebm(None)))

    def take(images, labels=None, **options):
        meter = ImageMeter(images, network, smallest=4, device=torch.device("cpu"))
        energies, _ = meter.energies(lambda what, done, total: None)
        return search(energies, meter.gradients, size=(32, 32), labels=labels, class_names=CLASSES, **options)

    return take


def with_trigger(demo, rows, strength=1.0):
    images = demo.images.clone()
    images[rows] = add_trigger(images[rows], (demo.trigger * strength).round())
    return images


def with_noise(demo, rows):
    images, generator = demo.images.clone(), torch.Generator().manual_seed(0)
    noise = 16 * torch.randn(len(rows), 3, 32, 32, generator=generator).sign()
    images[rows] = (images[rows].float() + noise).clamp(0, 255).to(torch.uint8)
    return images


def of_class(demo, label, count):
    return (demo.labels == label).nonzero().flatten()[:count].tolist()


def carriers(findings):
    return sorted(row for pattern in findings.patterns for row in pattern.carriers)


@pytest.mark.parametrize("label", [0, 2, 6, 9])
def test_any_class_is_found(demo, judged, label):
    rows = of_class(demo, label, 6)
    findings = judged(with_trigger(demo, rows), demo.labels)
    assert findings.level == SUSPICIOUS
    assert findings.classes[0].name == CLASSES[label]
    assert [group.name for group in findings.classes if group.level == SUSPICIOUS] == [CLASSES[label]]
    assert carriers(findings) == rows


def test_a_trigger_half_as_strong_is_found_too(demo, judged):
    rows = of_class(demo, 3, 8)
    findings = judged(with_trigger(demo, rows, 0.5), demo.labels)
    assert findings.classes[0].name == "cat"
    assert findings.classes[0].level == SUSPICIOUS


def test_clean_images_with_and_without_labels(demo, judged):
    for labels in (demo.labels, None, torch.full((200,), -1)):
        findings = judged(demo.images, labels)
        assert findings.level == CLEAR
        assert findings.patterns == ()
        assert not findings.aligned
        assert findings.whole.images == 200


def test_no_labels_are_needed(demo, judged):
    rows = of_class(demo, 5, 7)
    findings = judged(with_trigger(demo, rows))
    assert findings.classes == ()
    assert findings.whole.level == SUSPICIOUS
    assert carriers(findings) == rows


def test_a_trigger_spread_over_all_classes_is_found_in_the_whole_set(demo, judged):
    rows = list(range(0, 200, 13))
    findings = judged(with_trigger(demo, rows), demo.labels)
    assert findings.whole.level == SUSPICIOUS
    assert carriers(findings) == rows


def test_two_triggers_are_two_patterns(demo, judged):
    cats, ships = of_class(demo, 3, 8), of_class(demo, 8, 6)
    images = with_trigger(demo, cats)
    images[ships] = add_trigger(images[ships], demo.trigger.flip(2))
    findings = judged(images, demo.labels)
    assert [sorted(pattern.carriers) for pattern in findings.patterns] == [cats, ships]
    assert {group.name for group in findings.classes if group.level == SUSPICIOUS} == {"cat", "ship"}


def test_a_class_poisoned_throughout_is_found(demo, judged):
    rows = of_class(demo, 1, 20)
    findings = judged(with_trigger(demo, rows), demo.labels)
    assert findings.classes[0].name == "automobile"
    assert carriers(findings) == rows


def test_a_set_poisoned_throughout_is_not_called_clean(demo, judged):
    findings = judged(demo.poisoned(), demo.labels)
    assert findings.aligned
    assert findings.level == UNUSUAL
    assert headline(findings, 200).startswith("Most of the 200 images share a pattern")


def test_copies_of_one_picture_are_no_pattern(demo, judged):
    images = demo.images.clone()
    images[of_class(demo, 0, 10)] = demo.images[of_class(demo, 0, 1)[0]]
    assert judged(images, demo.labels).level == CLEAR


def test_noise_of_each_image_its_own_is_unusual_but_no_pattern(demo, judged):
    findings = judged(with_noise(demo, of_class(demo, 7, 4)), demo.labels)
    assert findings.patterns == ()
    assert findings.level == UNUSUAL
    assert findings.classes[0].name == "horse"
    assert findings.classes[0].outlier_p < 0.01


def test_a_class_crowded_with_outliers_is_named(demo, judged):
    # Half of the class: by its own median and spread nothing would stand out.
    rows = of_class(demo, 7, 10)
    findings = judged(with_noise(demo, rows), demo.labels)
    assert findings.patterns == ()
    assert findings.level == UNUSUAL
    assert [group.name for group in findings.classes if group.level == UNUSUAL] == ["horse"]
    assert findings.whole.outliers >= 8
    assert set((findings.scores > 4).nonzero().flatten().tolist()) <= set(rows)


def test_few_images_in_a_class_are_left_to_the_whole_set(demo, judged):
    labels = demo.labels.clone()
    labels[of_class(demo, 4, 17)] = 5
    found = {group.name: group for group in judged(demo.images, labels).classes}
    assert found["deer"].images == 3
    assert found["deer"].level == "too few images"
    assert found["deer"].pattern_p is None


def test_only_comparable_images_are_compared(demo, judged):
    rows = of_class(demo, 5, 7)
    comparable = torch.ones(200, dtype=torch.bool)
    comparable[rows] = False
    assert judged(with_trigger(demo, rows), demo.labels, comparable=comparable).patterns == ()


def test_fewer_large_images_are_compared_at_once(demo, monkeypatch):
    assert as_many_as_fit((32, 32), most=512) == 512
    assert as_many_as_fit((1024, 1024), most=512, least=10) == 42
    network, asked = FrozenEBM(load_ebm(resolve_ebm(None))), []
    meter = ImageMeter(demo.images, network, smallest=4, device=torch.device("cpu"))

    def gradients(rows):
        asked.append(len(rows))
        return meter.gradients(rows)

    monkeypatch.setattr("puregen_transforms.detection.statistics.GROUP_NUMBERS", 3 * 32 * 32)
    search(meter.energies(lambda *report: None)[0], gradients, size=(32, 32))
    assert max(asked) == EXAMINED_AT_LEAST < len(demo.images)
