"""`puregen inspect`: audit a possibly poisoned data set, without labels if need be."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from puregen_transforms.cli.errors import explain_errors
from puregen_transforms.data.local import check_path

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from puregen_transforms._progress import Progress
    from puregen_transforms.inspection.audit import Inspection
    from puregen_transforms.inspection.dynamics import Advice

_LABEL_NAMES = ("label", "labels", "fine_label", "class")


def inspect(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="A folder of images, a Parquet file, a folder of them, a saved data set, or its name."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the report; an earlier report in it is replaced.")] = Path(
        "inspect-report"
    ),
    split: Annotated[str | None, typer.Option(help="Split to inspect; default: train, or the only one.")] = None,
    column: Annotated[str | None, typer.Option(help="Image column; default: the only one.")] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Column of classes; default: the one marked as such, if there is one.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="A name, owner/name[@revision] or a folder; default: the one in the package.")
    ] = None,
    sample: Annotated[int, typer.Option(min=2, help="Suspicious, and as many typical, images to purify.")] = 32,
    seed: Annotated[int, typer.Option(help="Of random choices and of the noise.")] = 0,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps ...; default: a GPU if there is one.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images in one pass of the network.")] = None,
) -> None:
    """Look for poison in a data set, and write a report with pictures.

    Measures the energy of every image, compares the most suspicious ones of each class (of the whole set, where there
    are no labels) for a perturbation they share, and purifies a sample to recommend what to do. Nothing in SRC is
    changed. The exit code is 0 whatever the verdict.
    """
    with explain_errors():
        check_path(source)
        from puregen_transforms.inspection.audit import inspect_images
        from puregen_transforms.inspection.page import Origin, write_report

        if output.exists() and not output.is_dir():
            raise NotADirectoryError(f"Expected a folder for the report, but {output} is a file.")
        chosen = _choose(source, split, column, label_column)
        with _progress_bar() as progress:
            inspection = inspect_images(
                chosen.images,
                chosen.labels,
                class_names=chosen.class_names,
                checkpoint=checkpoint,
                sample=sample,
                seed=seed,
                device=device,
                batch_size=batch_size,
                progress=progress,
            )
        options = {
            "--split": split,
            "--column": column,
            "--label-column": label_column,
            "--checkpoint": checkpoint,
            "--sample": sample,
            "--seed": seed,
        }
        facts = {**chosen.facts, "command": _command(["inspect", source], options)}
        inspection = chosen.named(inspection)
        command = _purify_command(source, chosen, inspection.advice, device=device, batch_size=batch_size)
        origin = Origin(images=chosen.images, facts=facts, name_of=chosen.name_of, purify=command)
        _report(inspection, command, write_report(inspection, output, origin))


class _Pictures(Sequence[Any]):
    """The images of a column, decoded one at a time."""

    def __init__(self, dataset: Dataset, column: str) -> None:
        self._rows = dataset.select_columns([column])
        self._column = column

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: Any) -> Any:
        return self._rows[row][self._column]


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """What to inspect.

    Args:
        dataset: one split.
        split: its name, if the source has others.
        column: of images.
        columns: of images, all there are.
        folder: of the source, if it is on this machine.
        labels: one for each row, -1 where there is none; None without a column of classes.
        class_names: by label.
        facts: for the report.
    """

    dataset: Dataset
    split: str | None
    column: str
    columns: Sequence[str]
    folder: Path | None
    labels: list[int] | None
    class_names: tuple[str, ...]
    facts: Mapping[str, str]

    @property
    def images(self) -> _Pictures:
        return _Pictures(self.dataset, self.column)

    @property
    def is_one_of_several(self) -> bool:
        """Whether a purifier has to be told which column it is to purify."""
        return len(self.columns) > 1

    def named(self, inspection: Inspection) -> Inspection:
        """The same, with advice that names the column."""
        if not self.is_one_of_several:
            return inspection
        options = {**inspection.advice.options, "columns": self.column}
        return replace(inspection, advice=replace(inspection.advice, options=options))

    def name_of(self, row: int) -> str | None:
        """Where a row's image came from: a path in the source, or the name stored with it."""
        from datasets import Image

        stored = self.dataset.select_columns([self.column]).cast_column(self.column, Image(decode=False))
        path = (stored[row][self.column] or {}).get("path")
        if not path:
            return None
        if self.folder is not None and Path(path).is_relative_to(self.folder):
            return str(Path(path).relative_to(self.folder))
        return Path(path).name


def _choose(source: str, split: str | None, column: str | None, label_column: str | None) -> _Chosen:
    """Open the source and settle on split and columns.

    Raises:
        FileNotFoundError: see `open_source`.
        ValueError: a split or column that is not there, or none to choose by default.
    """
    from datasets.utils.logging import disable_progress_bar

    from puregen_transforms.data.local import local_path
    from puregen_transforms.data.sources import image_columns, open_source

    disable_progress_bar()  # of copying to the cache; ours follows
    splits = open_source(source)
    several = len(splits) > 1
    split = _choose_split(splits, split)
    dataset = splits[split]
    found = image_columns(dataset)
    if (column is None and len(found) != 1) or (column is not None and column not in found):
        wanted = f"{column!r} to be a column of images" if column else "one column of images"
        raise ValueError(f"Expected {wanted} in {source!r}, but found {found or 'none'}. Name one with --column.")
    column = column or found[0]
    label_column = label_column or _default_label_column(dataset)
    labels, names = (None, ()) if label_column is None else _read_labels(dataset, label_column)
    facts = {"source": source, "split": split, "columns": ", ".join(filter(None, (column, label_column)))}
    path = local_path(source)
    folder = path.resolve() if path is not None and path.is_dir() else None
    return _Chosen(
        dataset=dataset,
        split=split if several else None,
        column=column,
        columns=found,
        folder=folder,
        labels=labels,
        class_names=tuple(names),
        facts=facts,
    )


def _choose_split(splits: DatasetDict, split: str | None) -> str:
    if split is None:
        if len(splits) == 1:
            return str(next(iter(splits)))
        split = "train"
    if split not in splits:
        raise ValueError(f"Expected one of the splits {sorted(splits)}, but got {split!r}. Name one with --split.")
    return split


def _default_label_column(dataset: Dataset) -> str | None:
    from datasets import ClassLabel

    marked = [name for name, feature in dataset.features.items() if isinstance(feature, ClassLabel)]
    named = [name for name in _LABEL_NAMES if name in (marked or _class_like(dataset))]
    return (named or marked or [None])[0]


def _class_like(dataset: Dataset) -> list[str]:
    """Columns whose values could be classes."""
    types = {name: str(getattr(feature, "dtype", "")) for name, feature in dataset.features.items()}
    return [
        name for name, dtype in types.items() if dtype.startswith(("int", "uint", "bool", "string", "large_string"))
    ]


def _read_labels(dataset: Dataset, column: str) -> tuple[list[int], Sequence[str]]:
    """Class indices, -1 where a row has none, and the classes' names.

    Raises:
        ValueError: no such column, or one that holds no classes.
    """
    from puregen_transforms.data.labels import class_indices

    if column not in _class_like(dataset):
        raise ValueError(
            f"Expected a column of classes (integers or names), one of {_class_like(dataset)}, but got {column!r}."
        )
    values = dataset.select_columns([column]).with_format("arrow")[:].column(column).to_pylist()
    present = [str(value) if isinstance(value, bool) else value for value in values if value is not None]
    indices, names = class_indices(present, getattr(dataset.features[column], "names", None) or ())
    numbers = iter(indices.tolist())
    return [-1 if value is None else next(numbers) for value in values], names


@contextmanager
def _progress_bar() -> Iterator[Progress]:
    """Of each thing that is being done."""
    from rich.console import Console

    from puregen_transforms.cli.progress import shown_progress

    with shown_progress(Console(stderr=True)) as show:
        yield show


def _command(words: Sequence[str], options: Mapping[str, object]) -> str:
    """A command to paste into a shell, with the options that have a value."""
    given = [str(part) for name, value in options.items() if value is not None for part in (name, value)]
    return shlex.join(["puregen", *words, *given])


def _purify_command(source: str, chosen: _Chosen, advice: Advice, *, device: str | None, batch_size: int | None) -> str:
    """What purifies the source as the advice has it, with all that its steps were measured with."""
    from puregen_transforms.inspection.dynamics import DEFAULT_STEPS

    options: dict[str, object] = {
        "--steps": advice.steps if advice.steps != DEFAULT_STEPS else None,
        "--checkpoint": advice.options.get("checkpoint"),
        "--seed": advice.options.get("seed"),
        "--column": chosen.column if chosen.is_one_of_several else None,
        "--split": chosen.split,
        "--device": device,
        "--batch-size": batch_size,
    }
    return _command(["purify", source, _free_destination(source)], options)


def _free_destination(source: str) -> str:
    """A name for a purified copy, beside the source where that is on this machine."""
    path = Path(source).expanduser()
    if not path.exists():
        path = Path(path.name)
    elif not path.name or path.name == "..":
        path = path.resolve()
    suffix = path.suffix if path.suffix == ".parquet" else ""
    stem = str(path).removesuffix(suffix)
    names = (f"{stem}-purified{number}{suffix}" for number in ("", *(f"-{count}" for count in range(2, 1000))))
    return next(name for name in names if not Path(name).exists())


def _report(inspection: Inspection, command: str, page: Path) -> None:
    typer.echo(inspection.headline)
    for sentence in inspection.reasons:
        typer.echo(f"  - {sentence}")
    typer.echo("What to do:")
    for sentence in inspection.advice.sentences:
        typer.echo(f"  - {sentence}")
    typer.echo(f"{'Once they are left out' if inspection.advice.action == 'remove' else 'To purify'}: {command}")
    typer.echo(f"Report with pictures: {page}")
