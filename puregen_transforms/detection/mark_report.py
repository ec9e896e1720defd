"""Read a set for a search of marks, and report what was found."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from puregen_transforms.data.mapped import copied_rows
from puregen_transforms.detection.detector import SuspectSet
from puregen_transforms.detection.label_evidence import weigh_marks
from puregen_transforms.detection.look_alikes import content_keys, first_copies, order_by_content
from puregen_transforms.detection.marks import Mark, in_rows_of
from puregen_transforms.detection.report import DetectionReport, count_by_class
from puregen_transforms.functional.memory import give_back_freed_memory

LEAST_IMAGES = 10
"""Images that a set needs to be compared with each other."""


def read_images(suspects: SuspectSet, *, smallest: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """Read all images, sorted by what they hold.

    Args:
        suspects: the set.
        smallest: shortest side that can be searched, in pixels.

    Returns:
        (N, 3, H, W) uint8 images, in a file if they are too many for the memory, and (N,) labels if there are some,
        both on the CPU, and (N,) their rows in the set.

    Raises:
        ValueError: too few images, too small ones or of several sizes, or one that is missing or cannot be read.
    """
    if len(suspects) < LEAST_IMAGES:
        raise ValueError(f"Expected at least {LEAST_IMAGES} images to compare, but got {len(suspects)}.")
    images = suspects.tensor().cpu()
    if min(images.shape[-2:]) < smallest:
        raise ValueError(
            f"Expected images of at least {smallest}x{smallest} pixels, but got {images.shape[-1]}x"
            f"{images.shape[-2]}. Take them as large as they were before they were scaled down."
        )
    labels = None if suspects.labels is None else suspects.labels.cpu()
    order = order_by_content(content_keys(images), labels)
    return copied_rows(images, order), None if labels is None else labels[order], order


def report_marks(
    suspects: SuspectSet,
    order: Tensor,
    images: Tensor,
    labels: Tensor | None,
    found: Sequence[tuple[Mark, Tensor]],
) -> DetectionReport:
    """Weigh marks by the labels, and flag the carriers that nothing speaks for.

    Args:
        suspects: the set.
        order: (N,) rows of `images` in the set.
        images: of `read_images`.
        labels: of the same.
        found: each mark with (N,) scores, above 0 for its carriers.

    Returns:
        With the marks, of most images first, and by image in `details`: "mark", the number of its mark from 1, or 0;
        "copy_of", the first row with the very same image before it, or -1.
    """
    give_back_freed_memory()  # what weighs labels holds things of other sizes
    marks = weigh_marks([mark for mark, _ in found], images, labels)
    scores, flagged = torch.zeros(len(images)), torch.zeros(len(images), dtype=torch.bool)
    for mark, (_, own) in zip(marks, found, strict=True):
        if mark.suspicious:
            poisoned = mark.poisoned_rows(labels)
            scores = torch.maximum(scores, own.index_fill(0, mark.rows[~torch.isin(mark.rows, poisoned)], 0.0))
            flagged[poisoned] = True
    marks = tuple(sorted(in_rows_of(marks, order), key=lambda mark: -len(mark.rows)))
    numbers = torch.zeros(len(images), dtype=torch.int64)
    for number, mark in reversed(list(enumerate(marks, 1))):
        numbers[mark.rows] = number
    back = order.argsort()
    return DetectionReport(
        scores=scores[back],
        flagged=flagged[back],
        classes=count_by_class(flagged[back], suspects.labels, suspects.class_names),
        details={"mark": numbers, "copy_of": first_copies(content_keys(images)[back])},
        marks=marks,
    )
