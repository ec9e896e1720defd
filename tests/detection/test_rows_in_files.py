"""Sets in a file: what is searched there gives the same to the last bit."""

import pytest
import torch

from puregen_transforms.data import mapped
from puregen_transforms.data.mapped import copied_rows, is_in_file
from puregen_transforms.detection import detect
from puregen_transforms.detection.detector import SuspectSet
from puregen_transforms.detection.label_disagreement import disagreement
from puregen_transforms.detection.whole_search import read_once
from tests.detection.pictures import added, overlay, pictures, stamped, stripes


@pytest.fixture
def in_files(monkeypatch):
    """Hold no more in memory than a kilobyte."""
    monkeypatch.setattr(mapped, "LARGEST_IN_MEMORY", 2**10)


def marked():
    """Images with a stamp, an overlay and stripes, each on a row of twenty."""
    images, labels = pictures(400)
    images = added(images, torch.arange(0, 400, 20), overlay())
    images = added(images, torch.arange(5, 400, 20), stripes(6))
    labels[::20] = labels[5::20] = labels[10::20] = 1
    return stamped(images, torch.arange(10, 400, 20)), labels


@pytest.mark.parametrize("name", ["stamps", "patches", "stripes", "residual_patterns", "shortcuts"])
def test_a_search_in_files_finds_the_same(name, monkeypatch, tmp_path):
    images, labels = marked()
    expected = detect(name, images, labels, device="cpu")
    monkeypatch.setattr(mapped, "LARGEST_IN_MEMORY", 2**10)
    found = detect(name, list(images), labels, device="cpu", state=tmp_path)
    assert expected.scores.any()
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.flagged, expected.flagged)
    assert found.classes == expected.classes
    assert len(found.marks) == len(expected.marks)
    for mark, other in zip(found.marks, expected.marks, strict=True):
        assert torch.equal(mark.rows, other.rows)
        assert torch.equal(mark.picture, other.picture)
        assert (mark.place, mark.ratio, mark.evidence) == (other.place, other.ratio, other.evidence)
    for detail, values in expected.details.items():
        assert torch.equal(found.details[detail], values)


def test_features_in_a_file_are_compared_alike(in_files):
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(300, 24, generator=generator), torch.arange(300) % 3
    stored = copied_rows(features)
    assert is_in_file(stored)
    found, expected = disagreement(stored, labels), disagreement(features, labels)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.looks_like, expected.looks_like)


def test_a_set_has_one_name_in_memory_and_in_a_file(in_files, tmp_path):
    images, labels = pictures(40)
    stored = read_once(SuspectSet(images=list(images), labels=labels, state=tmp_path))
    assert is_in_file(stored.images)
    assert stored.fingerprint() == SuspectSet(images=images, labels=labels).fingerprint()
    assert torch.equal(stored.tensor(), images)
    assert torch.equal(stored.read(7), images[7])
