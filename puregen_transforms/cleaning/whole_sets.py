"""`clean_dataset`: a data set without the images that should not be learned."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puregen_transforms import PureGen
from puregen_transforms._progress import Progress, silent
from puregen_transforms.cleaning.decision import decide, search_split, versions_of
from puregen_transforms.cleaning.findings import CleaningReport, Findings
from puregen_transforms.cleaning.places import Places
from puregen_transforms.cleaning.rule import DROP, KEEP, Rule, check_storage, name_of_reserved
from puregen_transforms.cleaning.sources import CleaningSource, open_to_clean
from puregen_transforms.cleaning.work import clean
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.local import local_path
from puregen_transforms.detection.decisions import Decisions
from puregen_transforms.whole_sets.plan import check_apart
from puregen_transforms.whole_sets.storage import Storage


@dataclass(frozen=True, kw_only=True)
class CleanedDataset:
    """A data set, parted into what can be learned and what was left out.

    Args:
        kept: of the kind that was given; for torch data sets that were copied, a `PurifiedDataset`.
        removed: the rows of the source that are not in it.
        report: what was found, and what was not looked for.
    """

    kept: Any
    removed: Any
    report: CleaningReport


def clean_dataset(
    dataset: Any,
    *,
    output_dir: str | os.PathLike[str] | None = None,
    flagged: str = DROP,
    others: str = KEEP,
    doubtful: bool = False,
    budget: str = "20m",
    reserved: ImageSet | None = None,
    decisions: Decisions | None = None,
    column: str | int | None = None,
    label_column: str | int | None = None,
    splits: Collection[str] = (),
    size: int | None = None,
    epochs: int = 12,
    seed: int = 0,
    device: str | None = None,
    purifier: PureGen | None = None,
    part_rows: int | None = None,
    follow_links: bool = False,
    convert: bool = False,
    keep_names: bool = False,
    image_format: str | None = None,
    quality: int | None = None,
    progress: Progress = silent,
) -> CleanedDataset:
    """Search a data set for poison, and leave out what is held for it.

    What is kept, and neither purified nor converted, stays as it is, byte for byte, with its labels, names, order and
    other columns. With `output_dir`, what is finished is kept: the same call goes on where an earlier one was killed,
    and answers from the records of a finished copy.

    Args:
        dataset: a torch map-style data set, a `datasets.Dataset` or `DatasetDict`, or what `puregen clean` takes: a
            folder of images, Parquet files, a saved data set, or a name.
        output_dir: a new folder for the copy, as of `purify_dataset`; the report goes beside it, into `NAME.report`,
            and what is put in quarantine into `NAME.quarantine`. None writes nothing, and chooses rows of the data set.
        flagged: what becomes of images that are held for poisoned: "drop", "quarantine" (they are copied beside), or
            "purify".
        others: what becomes of all others: "keep" or "purify".
        doubtful: whether images that are merely doubtful count as flagged.
        budget: how much is searched: "2m", "20m" or "full"; see `search_set`.
        reserved: clean images of the same classes, for searches that can use them.
        decisions: of a person, which overrule the searches, by the content of files and cells, which a torch data set
            does not tell; None takes those in the folder of the report.
        column: of images, or their position in a sample of torch; None takes the only one.
        label_column: of classes, or their position in a sample; None takes the one marked as such.
        splits: to clean, each searched on its own; empty takes all.
        size: in pixels, to which images of several sizes are resized for the search; the copy has them as they are.
        epochs: of the classifier that some searches look into.
        seed: of all that is random.
        device: where to work; None takes an accelerator if there is one.
        purifier: where images are purified; None is `PureGen(seed=seed)`, of the method "eclipse" if the set was made
            unlearnable.
        part_rows: see `purify_dataset`.
        follow_links: see `purify_dataset`.
        convert: read images that would be refused as `purify_dataset` does, search them so, and store them so in the
            copy; rows that are merely chosen stay as they are.
        keep_names: see `purify_dataset`; as the two that follow, of images that are purified or converted.
        image_format: see `purify_dataset`.
        quality: see `purify_dataset`.
        progress: told what is being done.

    Returns:
        What is kept, what was left out, and the report.

    Raises:
        ValueError: a set that cannot be searched, of which no image would be left, or that was made unlearnable and is
            not to be purified; other data or settings than those of an earlier call.
        FileExistsError: there is something else at `output_dir`.
        BlockingIOError: another run is at the same destination.
        OSError: the source cannot be read, or the destination not written.
    """
    destination = None if output_dir is None else Path(output_dir).expanduser()
    if decisions is None and destination is not None:
        decisions = Places.of(destination).decisions()
    rule = Rule(
        flagged=flagged,
        others=others,
        doubtful=doubtful,
        budget=budget,
        epochs=epochs,
        seed=seed,
        size=size,
        column=column,
        label_column=label_column,
        reserved=name_of_reserved(reserved),
        decisions=None if decisions is None else decisions.name(),
    )
    storage = Storage(convert=convert, keep_names=keep_names, image_format=image_format, quality=quality)
    check_storage(storage, rule)
    if output_dir is None and (flagged, others) != (DROP, KEEP):
        raise ValueError("Expected an `output_dir`, as images are to be purified or copied, but got none.")
    if destination is not None and destination.suffix == ".parquet":
        raise ValueError(f"Expected a folder as `output_dir`, but got {destination}.")
    if destination is not None and isinstance(dataset, (str, os.PathLike)):
        check_apart(local_path(os.fspath(dataset)), destination)
    source = open_to_clean(
        dataset,
        column=column,
        label_column=label_column,
        splits=splits,
        size=size,
        follow_links=follow_links,
        storage=storage,
    )
    if destination is None:
        return _selected(source, rule, reserved=reserved, decisions=decisions, device=device, progress=progress)
    found = clean(
        source,
        Places.of(destination),
        rule,
        purifier=purifier,
        reserved=reserved,
        decisions=decisions,
        device=device,
        part_rows=part_rows,
        progress=progress,
    )
    return CleanedDataset(
        kept=source.open(destination, found.treatment),
        removed=source.select(source.rows(found.treatment)),
        report=found.report,
    )


def _selected(
    source: CleaningSource,
    rule: Rule,
    *,
    reserved: ImageSet | None,
    decisions: Decisions | None,
    device: str | None,
    progress: Progress,
) -> CleanedDataset:
    """Search, and choose rows of the data set itself."""
    verdicts = {
        split: search_split(subject, rule, reserved=reserved, decisions=decisions, device=device, progress=progress)
        for split, subject in source.subjects.items()
    }
    removed = source.rows(decide(source, verdicts, rule))
    gone = {split: frozenset(rows) for split, rows in removed.items()}
    counts = {split: len(subject.images) for split, subject in source.subjects.items()}
    kept = {split: [row for row in range(counts.get(split, 0)) if row not in gone[split]] for split in removed}
    report = CleaningReport(
        splits={split: Findings.of_verdict(verdict) for split, verdict in verdicts.items()},
        rule=rule.to_dict(),
        versions=versions_of(verdicts),
    )
    return CleanedDataset(kept=source.select(kept), removed=source.select(removed), report=report)
