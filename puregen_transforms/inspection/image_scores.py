"""Give a line to each image of a searched set: its verdict, and what every search says of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from puregen_transforms._files import write_atomically
from puregen_transforms.detection.verdict import CLEAN_ROW, Verdict

LINES, TABLE = "images.csv", "images.parquet"

POISON, DOUBTFUL, MISLABELED = "poison", "doubtful", "mislabeled"
VERDICTS = (POISON, DOUBTFUL, MISLABELED)

OWN = ("row", "name", "class", "score", "verdict", "found_by")
_SCORE, _FLAGGED = "_score", "_flagged"


@dataclass(frozen=True, eq=False)
class ImageScores:
    """Scores and verdicts of all images of a set that was searched.

    Args:
        table: a line for each image, in the order of the set:
            "row", "name", "class";
            "score": the suspicion by which images are put in order, see `poison_scores`;
            "verdict": "poison", "doubtful", "mislabeled", or "" where nothing was found;
            "found_by": the first search that flags it, or "";
            "NAME_score" and "NAME_flagged" of each search: its own score, null where it has none, in its own units,
            and whether it flags the image.
    """

    table: pa.Table

    @classmethod
    def of(
        cls, verdict: Verdict, *, names: Sequence[str | None] | None = None, classes: Sequence[str] = ()
    ) -> ImageScores:
        """Put a verdict into a table.

        Args:
            verdict: of the set.
            names: of the images, such as their files; None for one without a name.
            classes: name of each image's class; empty without labels.
        """
        count = len(verdict)
        searches = [one.search.name for one in verdict.made]
        kinds = [""] * count
        for kind, chosen in zip(VERDICTS, (verdict.flagged, verdict.doubtful, verdict.mislabeled), strict=True):
            for row in chosen.nonzero().flatten().tolist():
                kinds[row] = kind
        columns: dict[str, Any] = {
            "row": pa.array(range(count), pa.int64()),
            "name": pa.array([name or "" for name in names] if names else [""] * count, pa.string()),
            "class": pa.array(classes if classes else [""] * count, pa.string()),
            "score": pa.array(verdict.scores.numpy(), pa.float32()),
            "verdict": pa.array(kinds, pa.string()),
            "found_by": pa.array(
                ["" if place == CLEAN_ROW else searches[place] for place in verdict.found_by.tolist()], pa.string()
            ),
        }
        for one in verdict.made:
            scores = one.report.scores.float().numpy()
            columns[one.search.name + _SCORE] = pa.array(scores, pa.float32(), from_pandas=True)  # NaN becomes null
            columns[one.search.name + _FLAGGED] = pa.array(one.report.flagged.numpy(), pa.bool_())
        return cls(pa.table(columns))

    @classmethod
    def load(cls, report: str | Path) -> ImageScores:
        """Read the table of a report.

        Args:
            report: the folder that `puregen detect` or `puregen inspect` has written, or its `images.parquet`.

        Raises:
            FileNotFoundError: there is none.
            ValueError: a file of another kind.
        """
        path = Path(report) / TABLE if Path(report).is_dir() else Path(report)
        if not path.is_file():
            raise FileNotFoundError(
                f"Expected the report of a whole search, with {TABLE}, in {str(report)!r}, but there is none. "
                "`puregen detect SRC --output DIR` writes one."
            )
        try:
            table = pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"Expected a table of images in {str(path)!r}, but got: {error}") from error
        if missing := [name for name in OWN if name not in table.column_names]:
            raise ValueError(f"Expected the column {missing[0]!r} in {str(path)!r}, but it has {table.column_names}.")
        return cls(table)

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def poison_scores(self) -> Tensor:
        """Give the suspicion by which images are put in order: (N,) float32 in 0 ... 2.

        It is the largest share of the other images that a single search finds less suspicious, plus 1 if and only if
        the image is held for poisoned. It is no probability: in a clean set, too, some image comes first. Scores of
        searches are in units of their own and are never added up.
        """
        return torch.tensor(self.column("score"))

    @property
    def is_poison_suspect(self) -> Tensor:
        """Mark the images that are held for poisoned or doubtful: (N,) bool."""
        return torch.tensor([kind in (POISON, DOUBTFUL) for kind in self.column("verdict")])

    @property
    def searches(self) -> tuple[str, ...]:
        """Name the searches that were made."""
        return tuple(
            name.removesuffix(_SCORE) for name in self.table.column_names if name.endswith(_SCORE) and name not in OWN
        )

    def column(self, name: str) -> list[Any]:
        """Read a column."""
        return self.table.column(name).to_pylist()

    def add_to(self, dataset: Any) -> Any:
        """Add the columns `poison_score` and `is_poison_suspect` to a `datasets.Dataset`.

        Args:
            dataset: the set that was searched, its rows in the same order; not changed.

        Raises:
            ValueError: a data set of another length.
        """
        self.check_length(len(dataset))
        scored = dataset.add_column("poison_score", self.poison_scores.tolist())
        return scored.add_column("is_poison_suspect", self.is_poison_suspect.tolist())

    def save(self, folder: Path) -> None:
        """Write `images.csv` and `images.parquet`, each whole or not at all."""
        write_atomically(folder / LINES, self._lines().encode())
        buffer = io.BytesIO()
        pq.write_table(self.table, buffer)
        write_atomically(folder / TABLE, buffer.getvalue())

    def _lines(self) -> str:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.table.column_names)
        for line in zip(*(map(_word(name), self.column(name)) for name in self.table.column_names), strict=True):
            writer.writerow(line)
        return out.getvalue()

    def check_length(self, count: int) -> None:
        """Refuse a data set of another length by ValueError."""
        if count != len(self):
            raise ValueError(f"Expected the {len(self)} rows that were searched, but got {count}.")


def _word(column: str) -> Any:
    """Choose how the values of a column are written as text."""
    if column == "score":
        return "{:.6f}".format
    if column.endswith(_SCORE):
        return lambda value: "" if value is None else f"{value:.9g}"
    return int if column.endswith(_FLAGGED) else str
