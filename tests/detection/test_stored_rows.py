"""Rows in a file: they read like those of a tensor, and what is searched there gives the same to the last bit."""

import pytest
import torch

from puregen_transforms.detection import detect, stored_rows
from puregen_transforms.detection.detector import SuspectSet
from puregen_transforms.detection.label_disagreement import disagreement
from puregen_transforms.detection.stored_rows import StoredRows, choose_rows, make_rows, parts_of
from puregen_transforms.detection.whole_search import read_once
from tests.detection.pictures import added, overlay, pictures, stamped, stripes


@pytest.fixture
def in_files(monkeypatch):
    """Hold no more in memory than a kilobyte."""
    monkeypatch.setattr(stored_rows, "LARGEST_IN_MEMORY", 2**10)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bool])
def test_rows_read_as_they_were_written(dtype, tmp_path):
    expected = torch.randint(0, 2, (50, 3, 4), generator=torch.Generator().manual_seed(0)).to(dtype)
    stored = StoredRows(expected.shape, dtype, folder=tmp_path)
    for part in parts_of(50, 7):
        stored[part] = expected[part]
    assert len(stored) == 50
    mask = torch.arange(50) % 3 == 0
    for rows in (slice(None), slice(5, 9), slice(48, 60), slice(9, 9), torch.tensor([7, 0, 7, 49]), mask, 3, -1):
        assert torch.equal(stored[rows], expected[rows])
    assert torch.equal(torch.stack(list(stored)), expected)
    assert torch.equal(stored.flatten(1)[:], expected.flatten(1))
    chosen = torch.tensor([4, 3, 40])
    assert torch.equal(choose_rows(stored, chosen)[:], choose_rows(expected, chosen))
    assert list(tmp_path.iterdir()) == [], "the file has no name, and goes with the process"


def test_rows_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"Expected 2 rows of \(3,\) torch.float32, but got \(2, 4\)"):
        StoredRows((5, 3), torch.float32)[0:2] = torch.zeros(2, 4)
    with pytest.raises(IndexError):
        StoredRows((5, 3), torch.float32)[5]


def test_few_rows_stay_in_memory(in_files):
    assert isinstance(make_rows((16, 64), torch.uint8), torch.Tensor)
    assert isinstance(make_rows((17, 64), torch.uint8), StoredRows)


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
    monkeypatch.setattr(stored_rows, "LARGEST_IN_MEMORY", 2**10)
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
    stored = StoredRows(features.shape, features.dtype)
    stored[:] = features
    found, expected = disagreement(stored, labels), disagreement(features, labels)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.looks_like, expected.looks_like)


def test_a_set_has_one_name_in_memory_and_in_a_file(in_files, tmp_path):
    images, labels = pictures(40)
    stored = read_once(SuspectSet(images=list(images), labels=labels, state=tmp_path))
    assert isinstance(stored.images, StoredRows)
    assert stored.fingerprint() == SuspectSet(images=images, labels=labels).fingerprint()
    assert torch.equal(stored.tensor(), images)
    assert torch.equal(stored.read(7), images[7])
