"""`purify_dataset`: a whole data set, purified once and kept."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset
from datasets.utils import are_progress_bars_disabled, tqdm

from puregen_transforms import PureGen
from puregen_transforms.data.sample_transforms import transforms_of
from puregen_transforms.data.sources import DatasetSplit, open_source, open_stream, split_of, splits_of
from puregen_transforms.whole_sets.cheaper import cheaper_than
from puregen_transforms.whole_sets.dataset_copy import DatasetCopy
from puregen_transforms.whole_sets.part_by_part import changed, purify_copy
from puregen_transforms.whole_sets.plan import copy_of, table_copy
from puregen_transforms.whole_sets.processes import Processes, started_processes
from puregen_transforms.whole_sets.storage import Storage
from puregen_transforms.whole_sets.stream_copy import StreamCopy
from puregen_transforms.whole_sets.summary import CopyProgress
from puregen_transforms.whole_sets.torch_sets import PurifiedDataset, TorchCopy, TorchSplit


def purify_dataset(
    dataset: Any,
    purifier: PureGen | None = None,
    *,
    output_dir: str | os.PathLike[str],
    on_error: str = "stop",
    part_rows: int | None = None,
    follow_links: bool = False,
    convert: bool = False,
    keep_names: bool = False,
    image_format: str | None = None,
    quality: int | None = None,
) -> Any:
    """Purify a data set once, and open the result.

    What is finished is kept: the same call goes on where an earlier one was killed, and opens the copy if it is
    complete. Started by `accelerate launch` or `torchrun`, all processes share the work, each with a GPU of its own
    where there are any; the bytes of the copy are the same for any number of processes.

    Args:
        dataset: a torch map-style data set with images in its samples (purified before its own transforms), a
            `datasets.Dataset`, `DatasetDict` or `IterableDataset`, or what `puregen purify` takes: a folder of
            images, Parquet files, a saved data set, or a name.
        purifier: None is `PureGen()`; without a seed, one is drawn, and kept for the calls that go on with this one.
        output_dir: a new folder: of Parquet files which `datasets.load_dataset` opens, or for a folder of images one
            of the same layout; it appears when everything is written. With it, `purified.jsonl` says what the copy
            was made from, and holds the checksums for `puregen verify`.
        on_error: "stop" at the first image that cannot be repaired, or "skip" the rows of such images.
        part_rows: rows of a part: what a killed process has to do again at most; None has parts of some minutes' work,
            and up to 1024 rows. A copy that is begun keeps its own.
        follow_links: copy also what links in a folder lead to elsewhere, and what a single table names beside it;
            without it, such a link is an image that cannot be repaired.
        convert: read an image that would be refused for its mode (1, P, PA, CMYK, YCbCr, LAB), for several frames, or
            for transparency or gray that `image_format` cannot hold, as torchvision's `ImageFolder` does: its first
            frame, in RGB. Images of 16 bits are refused all the same.
        keep_names: store every image under its own name, in the format that its ending says, so that tables of
            annotations still fit; JPEG loses some detail of the purified pixels. Images without a name become PNG.
        image_format: "png", "jpeg" or "webp" (without loss) for every image; names get the ending to match. None
            keeps formats without loss in folders, and has PNG for the rest.
        quality: of JPEG, 1 to 100; None is 95.

    Returns:
        The purified data set, of the kind that was given; for torch data sets a `PurifiedDataset` with the source's
        classes, targets and transforms.

    Raises:
        ValueError: images that cannot be found or repaired; other data, settings or weights than an earlier call's.
        FileExistsError: there is something else at `output_dir`.
        BlockingIOError: another run is at the same destination.
        OSError: the source cannot be read, or the destination not written.
    """
    purifier = PureGen() if purifier is None else purifier
    destination = Path(output_dir).expanduser()
    if destination.suffix == ".parquet":
        raise ValueError(f"Expected a folder as `output_dir`, but got {destination}.")
    columns = purifier.config.columns or ()
    storage = Storage(convert=convert, keep_names=keep_names, image_format=image_format, quality=quality)
    source = _source(dataset, destination, columns, storage, skip=on_error == "skip", follow_links=follow_links)
    if purifier.config.columns is not None:  # chosen here: it is given images alone
        purifier = changed(purifier, columns=None)
    processes = started_processes(purifier.device)
    with _bar(processes) as progress:
        outcome = purify_copy(
            source.copy,
            destination,
            purifier,
            fit=lambda purifier: purifier.fit(source.copy.pictures(skip=on_error == "skip")),
            on_error=on_error,
            part_rows=part_rows,
            processes=processes,
            progress=progress,
            say=_say,
            agree=lambda expected: _say(cheaper_than(purifier, expected)),
        )
    if outcome.skipped and processes.is_first:
        warnings.warn(
            f"{len(outcome.skipped)} images could not be repaired and were left out; {destination / 'skipped.json'} "
            "says which.",
            UserWarning,
            stacklevel=2,
        )
    if outcome.resisting and processes.is_first:
        warnings.warn(
            f"{outcome.resisting} images are still suspicious after all that method 'adaptive' does. Find them with "
            "`puregen inspect`, and look at them or leave them out.",
            UserWarning,
            stacklevel=2,
        )
    return source.open()


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A data set, planned: its copy, and how the result is opened.

    Args:
        copy: see `DatasetCopy`.
        open: the finished copy.
    """

    copy: DatasetCopy
    open: Callable[[], Any]


def _source(
    dataset: Any,
    destination: Path,
    columns: tuple[str | int, ...],
    storage: Storage,
    *,
    skip: bool,
    follow_links: bool,
) -> _Source:
    folder, names = str(destination), tuple(map(str, columns))
    if isinstance(dataset, (str, os.PathLike)):
        copy = copy_of(os.fspath(dataset), destination, columns=names, follow_links=follow_links, storage=storage)
        return _Source(copy=copy, open=lambda: open_source(folder))
    if isinstance(dataset, IterableDataset):
        stream = StreamCopy(dataset, names, storage=storage)
        return _Source(copy=stream, open=lambda: open_stream(folder, stream.split))
    if isinstance(dataset, (Dataset, DatasetDict)):
        tables = {name: DatasetSplit(dataset=split) for name, split in splits_of(dataset).items()}
        return _Source(
            copy=table_copy(tables, names, storage=storage),
            open=lambda: (
                open_source(folder) if isinstance(dataset, DatasetDict) else split_of(folder, next(iter(tables)))
            ),
        )
    if isinstance(dataset, Mapping):
        raise ValueError(
            f"Expected one data set, but got several in a {type(dataset).__name__}. Take them one at a time, or give a "
            "`datasets.DatasetDict`."
        )
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        split = TorchSplit(dataset, columns or None, skip=skip, convert=storage.convert)
        return _Source(
            copy=TorchCopy(tables={"train": split}, columns=split.image_columns, storage=storage),
            open=lambda: PurifiedDataset(folder, **transforms_of(dataset)),
        )
    raise ValueError(
        "Expected a torch map-style data set, a data set of `datasets`, or a path or name, but got "
        f"{type(dataset).__name__}. Give an iterable one as a `datasets.IterableDataset`."
    )


def _say(sentence: str | None) -> None:
    """Print a sentence, above the bar where there is one."""
    if sentence is not None and not are_progress_bars_disabled():
        tqdm.write(sentence, file=sys.stderr)


@contextmanager
def _bar(processes: Processes) -> Iterator[CopyProgress]:
    """Show a bar of the first process' share, as `datasets` draws it."""
    bar: Any = None
    before = (0, 0)

    def progress(done: int, total: int | None, kept: int) -> None:
        nonlocal bar, before
        if bar is None and processes.is_first:
            bar = tqdm(total=total and ceil(total / processes.count), desc="Purifying", unit=" images")
        if bar is not None:
            found, worked = kept - before[1], done - before[0] - (kept - before[1])
            if found and not bar.disable:  # without a part in the rate
                bar.initial, bar.n, bar.last_print_n = bar.initial + found, bar.n + found, bar.last_print_n + found
            bar.update(worked)
        before = (done, kept)

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()
