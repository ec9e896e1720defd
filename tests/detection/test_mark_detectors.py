"""What the four detectors of marks promise alike: stamps, patches, residual patterns and stripes."""

import pytest
import torch

from puregen_transforms.data.demo import load_demo
from puregen_transforms.detection import DetectionReport, detect
from tests.detection.pictures import added, overlay, pictures, stamped, stripes

DETECTORS = ("stamps", "patches", "residual_patterns", "stripes")

ROWS = torch.arange(0, 240, 15)
"""The 16 images that are changed, of all four classes."""


def with_mark(name, images, rows=ROWS):
    if name == "stamps":
        return stamped(images, rows)
    if name == "patches":
        for number, row in enumerate(rows.tolist()):
            images = stamped(images, torch.tensor([row]), down=3 + 2 * (number % 8), right=5 + number % 11)
        return images
    return added(images, rows, overlay() if name == "residual_patterns" else stripes(6))


def found(name, images, labels=None, **options):
    return detect(name, images, labels, device="cpu", **options)


@pytest.mark.parametrize("name", DETECTORS)
class TestMarks:
    def test_images_of_one_class_with_a_mark_are_flagged_and_no_others(self, name):
        images, labels = pictures(240)
        labels[ROWS] = 1
        report = found(name, with_mark(name, images), labels)
        assert report.flagged.nonzero().flatten().tolist() == ROWS.tolist()
        assert (report.scores[report.flagged] > 0).all()
        assert (report.scores[~report.flagged] <= 0).all()
        (mark,) = report.marks
        assert mark.rows.tolist() == ROWS.tolist()
        assert (mark.evidence.verdict, mark.evidence.label) == ("poison", 1)
        assert report.details["mark"][ROWS].tolist() == [1] * len(ROWS)
        assert report.classes[0].label == 1

    def test_labels_are_not_needed(self, name):
        images, _ = pictures(240)
        report = found(name, with_mark(name, images))
        assert report.flagged.nonzero().flatten().tolist() == ROWS.tolist()
        assert report.marks[0].evidence.verdict == "undecided"

    def test_a_mark_on_images_of_all_classes_with_fitting_labels_is_shown_and_not_flagged(self, name):
        images, labels = pictures(400)
        rows = torch.arange(0, 400, 7)
        report = found(name, with_mark(name, images, rows), labels)
        assert report.marks[0].rows.tolist() == rows.tolist()
        assert report.marks[0].evidence.verdict == "harmless"
        assert not report.flagged.any()
        assert not report.scores.gt(0).any()

    def test_a_mark_on_images_of_all_classes_with_the_next_label_is_flagged(self, name):
        images, labels = pictures(400)
        rows = torch.arange(0, 400, 7)
        labels[rows] = (labels[rows] + 1) % 4
        report = found(name, with_mark(name, images, rows), labels)
        assert report.marks[0].evidence.verdict == "poison"
        assert report.flagged.nonzero().flatten().tolist() == rows.tolist()

    def test_nothing_is_found_in_pictures_noise_and_real_images(self, name):
        images, labels = pictures(240)
        noise = torch.randint(0, 256, (240, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        demo = load_demo()
        for clean, own in ((images, labels), (images, None), (noise, labels), (demo.images, demo.labels)):
            report = found(name, clean, own)
            assert report.marks == ()
            assert not report.flagged.any()
            assert not report.scores.any()

    def test_copies_of_one_picture_are_no_mark(self, name):
        images, labels = pictures(200)
        copies = with_mark(name, images, torch.tensor([0]))[:1].expand(20, -1, -1, -1)
        report = found(name, torch.cat([images, copies]), torch.cat([labels, torch.zeros(20, dtype=torch.int64)]))
        assert report.marks == ()
        assert report.details["copy_of"][200:].tolist() == [-1] + [200] * 19

    def test_the_order_of_the_rows_does_not_matter(self, name):
        images, labels = pictures(240)
        images = with_mark(name, images)
        labels[ROWS] = 1
        order = torch.randperm(240, generator=torch.Generator().manual_seed(5))
        first, second = found(name, images, labels), found(name, images[order], labels[order])
        assert torch.equal(first.scores[order], second.scores)
        assert torch.equal(first.flagged[order], second.flagged)
        assert torch.equal(first.marks[0].picture, second.marks[0].picture)

    def test_the_number_of_threads_does_not_matter(self, name, threads):
        images, labels = pictures(240)
        images = with_mark(name, images)
        reports = []
        for count in (1, 2, 3):
            threads(count)
            reports.append(found(name, images, labels))
        for other in reports[1:]:
            assert torch.equal(reports[0].scores, other.scores)
            assert torch.equal(reports[0].marks[0].picture, other.marks[0].picture)
            assert reports[0].marks[0].evidence == other.marks[0].evidence

    def test_a_saved_report_has_its_marks(self, name, tmp_path):
        images, labels = pictures(240)
        report = found(name, with_mark(name, images), labels)
        report.save(tmp_path / "report.safetensors")
        (first,), (second,) = report.marks, DetectionReport.load(tmp_path / "report.safetensors").marks
        assert torch.equal(first.rows, second.rows)
        assert torch.equal(first.picture, second.picture)
        assert (first.kind, first.place, first.ratio, first.evidence) == (
            second.kind,
            second.place,
            second.ratio,
            second.evidence,
        )

    def test_sets_that_cannot_be_searched_are_refused(self, name):
        images, _ = pictures(20)
        with pytest.raises(ValueError, match="at least 10 images to compare, but got 9"):
            found(name, images[:9])
        with pytest.raises(ValueError, match=r"images of at least \d+x\d+ pixels, but got 2x2"):
            found(name, images[..., :2, :2])
        with pytest.raises(ValueError, match="images of one size"):
            found(name, [*images, images[0, :, :20]])
        with pytest.raises(ValueError, match="row 20 has none"):
            found(name, [*images, None])

    def test_rows_without_a_label_are_searched(self, name):
        images, labels = pictures(240)
        labels[ROWS] = 1
        labels[ROWS[:4]] = -1
        report = found(name, with_mark(name, images), labels)
        assert report.flagged.nonzero().flatten().tolist() == ROWS.tolist()

    def test_a_mark_on_a_third_of_the_images_is_found(self, name):
        images, labels = pictures(240)
        rows = torch.arange(0, 240, 3)
        labels[rows] = 1
        report = found(name, with_mark(name, images, rows), labels)
        assert report.flagged[rows].float().mean() > 0.95
        assert report.flagged.sum() == report.flagged[rows].sum()


def test_two_overlays_are_two_marks():
    images, labels = pictures(400)
    first, second = torch.arange(0, 400, 20), torch.arange(5, 400, 20)
    images = added(added(images, first, overlay(seed=1)), second, overlay(seed=2))
    labels[first], labels[second] = 0, 1
    report = found("residual_patterns", images, labels)
    assert sorted(mark.rows.tolist() for mark in report.marks) == [first.tolist(), second.tolist()]
    assert report.details["mark"].unique().tolist() == [0, 1, 2]
