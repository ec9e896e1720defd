"""What the energies of a set say, in words."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from puregen_transforms.detection.findings import (
    CLEAR,
    SIGNIFICANCE,
    SUSPICIOUS,
    Findings,
    FoundPattern,
    GroupFinding,
)

_NAMED = 3


def headline(findings: Findings, images: int) -> str:
    """Say the verdict in one sentence.

    Args:
        findings: of the set.
        images: how many were measured.
    """
    if findings.level == SUSPICIOUS:
        carriers = len({row for pattern in findings.patterns for row in pattern.carriers})
        return f"Suspicious: {carriers:,} of {images:,} images share a hidden pattern{_where(findings.classes)}."
    if findings.level == CLEAR:
        return f"No hidden pattern and no unusual energies were found in {images:,} images."
    if findings.aligned:
        return f"Most of the {images:,} images share a pattern: poisoned throughout, or alike by nature."
    return f"No hidden pattern was found in {images:,} images, but something is unusual."


def _where(classes: Sequence[GroupFinding]) -> str:
    names = [group.name for group in classes if group.level == SUSPICIOUS]
    if not names:
        return ""
    if len(names) == 1:
        return f"; the suspicious class is {names[0]}"
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"; the suspicious classes are {', '.join(names[:_NAMED])}{more}"


def reasons(findings: Findings, images: int) -> tuple[str, ...]:
    """List the numbers behind the verdict, a sentence each.

    Args:
        findings: of the set.
        images: how many were measured.
    """
    groups = (findings.whole, *findings.classes)
    found = [_pattern_reason(number, pattern) for number, pattern in enumerate(findings.patterns, start=1)]
    suspects = [group for group in findings.classes if group.level == SUSPICIOUS]
    found += [_class_reason(group) for group in suspects or ([findings.whole] if findings.patterns else [])]
    found += [_outlier_reason(group) for group in groups if group.outlier_p < SIGNIFICANCE]
    found += [_tiled_reason(group) for group in groups if group.tiled]
    if findings.aligned:
        found.append(
            "Most images of the set pull the energy the same way (median cosine of random pairs "
            f"{findings.common:.2f}; clean photographs have 0.00). Either nearly all carry one perturbation, or they "
            "are alike by nature (aligned pictures, one background). A set known to be clean would tell which."
        )
    if findings.level == CLEAR:
        found += _clear_reasons(findings, images)
    return tuple(found)


def _clear_reasons(findings: Findings, images: int) -> list[str]:
    searched = [group for group in (findings.whole, *findings.classes) if group.similarity is not None]
    found = []
    if searched:
        most = min(searched, key=lambda group: group.pattern_p if group.pattern_p is not None else 1.0)
        found.append(
            f"The images that come nearest to sharing a pattern are in {title(most)}: similarity "
            f"{most.similarity:.2f}, where {most.expected:.2f} is expected without one (corrected p-value: "
            f"{in_words(most.pattern_p)}; below {SIGNIFICANCE} would count)."
        )
    else:
        found.append("There were too few images to search for a shared pattern.")
    found.append(f"Images with an unusually high energy for their class: {findings.whole.outliers:,} of {images:,}.")
    return found


def _pattern_reason(number: int, pattern: FoundPattern) -> str:
    return (
        f"Pattern {number}: {len(pattern.carriers):,} images pull the energy in one direction, whatever they show "
        f"(mean cosine of two of them {pattern.similarity:.2f}; unrelated images have 0.00)."
    )


def _class_reason(group: GroupFinding) -> str:
    text = f"In {title(group)} {group.carriers:,} of {group.images:,} images carry a shared pattern"
    if group.pattern_p is None or group.pattern_p >= SIGNIFICANCE:
        return f"{text}."
    return (
        f"{text}; its most alike images have similarity {group.similarity:.2f}, where {group.expected:.2f} is expected "
        f"without one (corrected p-value: {in_words(group.pattern_p)})."
    )


def _outlier_reason(group: GroupFinding) -> str:
    return (
        f"In {title(group)} {group.outliers:,} of {group.images:,} images have energies far above what is usual here "
        f"(corrected p-value: {in_words(group.outlier_p)})."
    )


def _tiled_reason(group: GroupFinding) -> str:
    return (
        f"In {title(group)} some images are alike (similarity {group.similarity:.2f}), and stay so when shifted by "
        "whole JPEG blocks: a pattern in tiles, or traces of stronger compression."
    )


def title(group: GroupFinding) -> str:
    """Name a group inside a sentence."""
    return "the whole set" if group.label is None else f"class {group.name}"


def in_words(p_value: float | None) -> str:
    """Write a corrected p-value; a tail this far out is a model, so no digits are claimed there."""
    if p_value is None:
        return "not tested"
    if p_value < 1e-4:
        return "below 0.0001"
    return f"{p_value:.2g}" if p_value < 0.995 else "1"


def notes(energies: Tensor, comparable: Tensor, size: tuple[int, int], labels: Tensor | None) -> tuple[str, ...]:
    """Say what was left out.

    Args:
        energies: (N,), NaN where there is no image.
        comparable: (N,) bool, images of the commonest size.
        size: that size, height and width.
        labels: (N,) or None.
    """
    found = []
    missing = int((~energies.isfinite()).sum())
    if missing:
        found.append(f"{missing} rows hold no image and were left out.")
    others = int((energies.isfinite() & ~comparable).sum())
    if others:
        found.append(
            f"{others} images are not {size[1]}x{size[0]} pixels: their energies were measured, but they were not "
            "compared with the others. Resize the set to the size you train on to compare all."
        )
    if labels is None:
        found.append("There are no labels, so the set was searched as one group.")
    elif unlabeled := int((labels < 0).sum()):
        found.append(f"{unlabeled} images have no label; they were searched in the whole set only.")
    return tuple(found)
