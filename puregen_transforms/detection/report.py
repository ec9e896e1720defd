"""What a detector found in a set: which images it flags, and how suspicious it finds each."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from puregen_transforms._files import write_atomically
from puregen_transforms._html import card, pictures, table
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection.marks import Mark, from_tensors, to_tensors

_FORMAT = "puregen_transforms.detection/1"

_SHOWN = 8
"""Classes and marks shown in a notebook."""


@dataclass(frozen=True, kw_only=True)
class ClassCounts:
    """What was found in one class.

    Args:
        name: of the class.
        label: its index.
        images: how many there are.
        flagged: how many of them are flagged.
        facts: figures of the detector's own, by name, such as the test statistic of the class.
    """

    name: str
    label: int
    images: int
    flagged: int
    facts: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionReport:
    """Suspicion scores and flags of all images of a set.

    Args:
        scores: (N,) float32 suspicion, higher is more suspicious; NaN where a row holds no image.
        flagged: (N,) bool, the images held for poisoned.
        detector: name of the detector.
        classes: counts and figures by class, the class with the largest share flagged first; empty without labels.
        details: further (N, ...) tensors of the detector's own, by name.
        marks: what many images share, of detectors that look for that; harmless ones, which are not flagged, too.
        settings: JSON-ready, all that decides the result beside the data.
        seconds: how long it took.
    """

    scores: Tensor
    flagged: Tensor
    detector: str = ""
    classes: tuple[ClassCounts, ...] = ()
    details: Mapping[str, Tensor] = field(default_factory=dict)
    marks: tuple[Mark, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.scores.ndim != 1 or not self.scores.is_floating_point():
            raise ValueError(
                f"Expected one floating-point score for each image, but got {self.scores.dtype} of shape "
                f"{tuple(self.scores.shape)}."
            )
        for name, values in {"flagged": self.flagged, **self.details}.items():
            if len(values) != len(self.scores):
                raise ValueError(
                    f"Expected {len(self.scores)} values of {name!r}, as of scores, but got {len(values)}."
                )
        if self.flagged.dtype != torch.bool:
            raise ValueError(f"Expected flags of dtype bool, but got {self.flagged.dtype}.")

    def __len__(self) -> int:
        return len(self.scores)

    def __str__(self) -> str:
        return f"{self.detector or 'detector'}: {int(self.flagged.sum())} of {len(self)} images flagged"

    def _repr_html_(self) -> str:
        """Show the report in a notebook."""
        suspicious = [one for one in self.classes if one.flagged]
        rows = [(one.name, f"{one.images:,}", f"{one.flagged:,}") for one in suspicious[:_SHOWN]]
        marks = [
            (PIL.Image.fromarray(mark.picture.permute(1, 2, 0).contiguous().numpy()), mark)
            for mark in self.marks[:_SHOWN]
        ]
        return card(self, table(("class", "images", "flagged"), rows), pictures(marks))

    @property
    def rows(self) -> list[int]:
        """Rows of the flagged images, the most suspicious first."""
        order = self.scores.nan_to_num(-torch.inf).argsort(descending=True, stable=True)
        return order[self.flagged[order]].tolist()

    def split(self, dataset: Any) -> tuple[Any, Any]:
        """Part a data set into the images to keep and those that are flagged.

        Args:
            dataset: the set that was searched, its rows in the same order: a `datasets.Dataset`, an `ImageSet`, a
                tensor or array (N, ...), or any sequence, such as a torch data set, of which subsets are made.

        Returns:
            Kept and removed, of the same kind.

        Raises:
            ValueError: a data set of another length.
        """
        if len(dataset) != len(self):
            raise ValueError(f"Expected the {len(self)} rows that were searched, but got {len(dataset)}.")
        kept, removed = ((~self.flagged).nonzero().flatten(), self.flagged.nonzero().flatten())
        return _chosen(dataset, kept), _chosen(dataset, removed)

    def to_csv(self, path: str | Path, *, names: Sequence[str] | None = None) -> None:
        """Write one line for each image: row, score, flagged, and name if there are names.

        Args:
            path: of the file, which is replaced.
            names: of the images, such as their files.
        """
        lines = [["row", "score", "flagged", *([] if names is None else ["name"])]]
        for row, (score, flagged) in enumerate(zip(self.scores.tolist(), self.flagged.tolist(), strict=True)):
            lines.append([str(row), f"{score:.9g}", str(int(flagged)), *([] if names is None else [names[row]])])
        write_atomically(Path(path), _csv(lines).encode("utf-8"))

    def save(self, path: str | Path) -> None:
        """Write the report to one file, whole or not at all: tensors as safetensors, the rest as JSON in its header."""
        marks, described = to_tensors(self.marks)
        about = {
            "format": _FORMAT,
            "detector": self.detector,
            "classes": [asdict(one) for one in self.classes],
            "settings": dict(self.settings),
            "seconds": self.seconds,
            **({"marks": described} if described else {}),
        }
        tensors = {"scores": self.scores, "flagged": self.flagged} | {
            f"details.{name}": values for name, values in self.details.items()
        }
        tensors |= marks
        content = {name: values.detach().contiguous().cpu() for name, values in tensors.items()}
        # One entry: safetensors writes several in any order, and the same report should be the same bytes.
        write_atomically(Path(path), save(content, metadata={"report": json.dumps(about)}))

    @classmethod
    def load(cls, path: str | Path) -> DetectionReport:
        """Read a report; nothing in the file is executed.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that is no report.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"Expected a detection report, but there is no file {str(path)!r}.")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                about = json.loads(metadata["report"])
                if not isinstance(about, dict) or about.get("format", metadata.get("format")) != _FORMAT:
                    raise ValueError("another format")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls(
                scores=tensors["scores"],
                flagged=tensors["flagged"],
                detector=str(about["detector"]),
                classes=tuple(ClassCounts(**one) for one in about["classes"]),
                details={
                    name.removeprefix("details."): values
                    for name, values in tensors.items()
                    if name.startswith("details.")
                },
                marks=from_tensors(tensors, about.get("marks", ())),
                settings=dict(about["settings"]),
                seconds=float(about["seconds"]),
            )
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"Expected a detection report in {str(path)!r}, but it is none: {error}.") from error


def count_by_class(
    flagged: Tensor,
    labels: Tensor | None,
    class_names: Sequence[str],
    facts: Mapping[int, Mapping[str, float | None]] | None = None,
) -> tuple[ClassCounts, ...]:
    """Count images and flags of each class that has images, the largest flagged share first.

    Args:
        flagged: (N,) bool.
        labels: (N,) int64, negative where an image has none.
        class_names: by label; missing ones are named by their number.
        facts: figures of the detector's own, by label.
    """
    if labels is None:
        return ()
    counts = [
        ClassCounts(
            name=class_names[label] if label < len(class_names) else str(label),
            label=label,
            images=int((labels == label).sum()),
            flagged=int(flagged[labels == label].sum()),
            facts=(facts or {}).get(label, {}),
        )
        for label in sorted({label for label in labels.tolist() if label >= 0})
    ]
    return tuple(sorted(counts, key=lambda one: (-one.flagged / one.images, one.label)))


def _chosen(dataset: Any, rows: Tensor) -> Any:
    if isinstance(dataset, Tensor):
        return dataset[rows.to(dataset.device)]
    if isinstance(dataset, np.ndarray):
        return dataset[rows.numpy()]
    if isinstance(dataset, ImageSet):
        return dataset.subset(rows)
    if hasattr(dataset, "select"):
        return dataset.select(rows.tolist())
    if isinstance(dataset, (list, tuple)):
        return type(dataset)(dataset[row] for row in rows.tolist())
    return torch.utils.data.Subset(dataset, rows.tolist())


def _csv(lines: Sequence[Sequence[str]]) -> str:
    from io import StringIO

    out = StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()
