"""Purify a data set part by part, in as many processes as there are, and go on where a run before has stopped."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from puregen_transforms import PureGen
from puregen_transforms.data.images import Purify
from puregen_transforms.purifier.device import choose_device
from puregen_transforms.whole_sets.dataset_copy import PART_ROWS, DatasetCopy, Part, PartRecord, PurifyOptions
from puregen_transforms.whole_sets.disk_space import check_room
from puregen_transforms.whole_sets.manifest import (
    PART_ROWS_SETTING,
    SETTLED,
    filled_in,
    manifest_path,
    read_hash,
    read_records,
    settings_of,
)
from puregen_transforms.whole_sets.processes import ONE_PROCESS, Processes
from puregen_transforms.whole_sets.summary import CopyProgress, Skipped, Summary
from puregen_transforms.whole_sets.unfinished_copy import UnfinishedCopy, holds
from puregen_transforms.whole_sets.workload import Estimate, estimate, images_at_once, part_rows_for

ON_ERROR = ("stop", "skip")

CHUNK_ON_CPU, CHUNK_ON_GPU = 64, 1024
"""Images decoded at once, while those before are purified."""


def purify_copy(
    source: DatasetCopy,
    destination: Path,
    purifier: PureGen | None,
    *,
    fit: Callable[[PureGen], object] = lambda purifier: None,
    about: Mapping[str, Any] | None = None,
    content: Mapping[str, str] | None = None,
    on_error: str = "stop",
    part_rows: int | None = None,
    processes: Processes = ONE_PROCESS,
    progress: CopyProgress = lambda done, total, kept: None,
    say: Callable[[str], None] = lambda sentence: None,
    agree: Callable[[Estimate], None] = lambda expected: None,
) -> Summary:
    """Write a purified copy of a data set.

    Finished parts are kept in a folder beside the destination, whose name ends in ".unfinished", and a run with the
    same settings goes on from there; the destination appears when everything is written. If the copy is there
    already, nothing is done.

    Args:
        source: see `DatasetCopy`.
        destination: a new folder, or a new .parquet file.
        purifier: without a seed, one is drawn, and kept for the runs that go on with this one. None where the source
            has all of its images kept as they are.
        fit: sets the purifier's energy threshold from the whole source, where its method needs that.
        about: further settings to record in the manifest, by name.
        content: sha256 of the rows that each part must be made from, by its name; None takes any.
        on_error: "stop" at the first image that cannot be repaired, or "skip" such images.
        part_rows: rows of a part; None has parts of some minutes' work. What an earlier run has begun with stays.
        processes: of this run.
        progress: told of images done, and in all.
        say: told, in the first process, what a user should know before the work.
        agree: told, in the first process, how long the work will take, before it begins. What it raises ends the run,
            and leaves what was there before.

    Returns:
        What was done, by all runs together.

    Raises:
        ValueError: settings, weights or data other than those of the run before; options that do not fit the
            source; an image that cannot be repaired.
        FileExistsError: there is something else at the destination.
        BlockingIOError: another run is at the same destination.
        OSError: the source cannot be read, or the destination not written.
    """
    if on_error not in ON_ERROR:
        raise ValueError(f"Expected on-error to be one of {list(ON_ERROR)}, but got {on_error!r}.")
    unfinished = UnfinishedCopy(destination.absolute())
    purifier = _placed(purifier, processes)
    say = say if processes.is_first else lambda sentence: None
    source = _cut(source, purifier, asked=part_rows, begun=unfinished.part_rows, say=say)
    settings = settings_of(purifier, source.describe(), on_error=on_error, **(about or {}))
    work = _Work(source, unfinished, purifier, settings, on_error, progress, content)
    if unfinished.found_complete(settings):
        work.check_source()
        processes.wait()
        return work.summary(f"{unfinished.destination} was complete already.")
    with unfinished.locked() if processes.is_first else nullcontext():
        if processes.is_first:
            if (warning := work.look_for_room()) is not None:
                say(warning)
            work.check()
            if (expected := work.estimate(processes.count)) is not None:
                say(str(expected))
                agree(expected)
            work.begin(fit)
        processes.wait()
        work.take_over_settings()
        work.purify_parts(processes)
        processes.wait()
        if processes.is_first:
            work.complete()
    processes.wait()
    return work.summary()


class _Work:
    """The work of one process of a run."""

    def __init__(
        self,
        source: DatasetCopy,
        unfinished: UnfinishedCopy,
        purifier: PureGen | None,
        settings: dict[str, Any],
        on_error: str,
        progress: CopyProgress,
        content: Mapping[str, str] | None,
    ) -> None:
        self.source = source
        self.content = content
        self.unfinished = unfinished
        self.purifier = purifier
        self.settings = settings
        self.skip = on_error == "skip"
        self._bar = _Bar(source.images, progress)
        self._notes: tuple[str, ...] = ()

    def look_for_room(self) -> str | None:
        """Compare the room that the rest of the copy will take with what is free; return a warning if it is little.

        Raises:
            OSError: it is surely too little.
        """
        needed = self.source.stored_bytes()
        if not needed or not self.source.images:
            return None
        finished = sum(record.images + len(record.skipped) for record in self.unfinished.records())
        # The parts of a single file are joined while they are still there.
        needed *= (2 if self.unfinished.is_file else 1) - finished / self.source.images
        return check_room(self.unfinished.folder, needed)

    def check(self) -> None:
        """Check that this run can begin, or go on with what an earlier one has left.

        Raises:
            FileExistsError, ValueError: see `UnfinishedCopy.check`.
        """
        self.unfinished.check(filled_in(self.settings, self.unfinished.earlier()))

    def begin(self, fit: Callable[[PureGen], object]) -> None:
        """Make or find the folder of the unfinished copy, and settle what this run has left open."""
        settings = filled_in(self.settings, self.unfinished.earlier())
        options = settings["purifier"]
        if self.purifier is not None:
            if options["seed"] is None:
                options["seed"] = draw_seed()
            if self.purifier.config.uses_threshold and options["energy_threshold"] is None:
                fit(self.purifier)
                options["energy_threshold"] = self.purifier.config.energy_threshold
        self.unfinished.begin(settings)
        self.source.prepare(self.unfinished.files, self._options())

    def check_source(self) -> None:
        """Check that a complete copy is of these data and unchanged, by its first and its last part.

        Raises:
            FileExistsError: it is not.
        """
        everything = list(read_records(manifest_path(self.unfinished.destination)))
        home = self.unfinished.destination.parent if self.unfinished.is_file else self.unfinished.destination
        for record in (*everything[:1], *everything[-1:]):
            if not all(holds(home, name, checksum) for name, checksum in record.files.items()):
                raise FileExistsError(
                    f"Expected a whole copy in {self.unfinished.destination}, but it was damaged or changed since it "
                    f"was written; `puregen verify {self.unfinished.destination}` says where. Remove it to purify "
                    "again."
                )
        records = [record for record in everything if record.source]
        for record in {record.name: record for record in (*records[:1], *records[-1:])}.values():
            part = Part(name=record.name, split=record.split, start=record.start, stop=record.stop)
            if self.source.source_digest(part) not in (None, record.source):
                raise FileExistsError(
                    f"Expected a copy of these data in {self.unfinished.destination}, but {_rows(part)} have changed "
                    "since it was written. Choose another destination, or remove that copy."
                )

    def take_over_settings(self) -> None:
        """Use the seed, the threshold and the parts that the first process has settled."""
        self.settings = self.unfinished.earlier() or self.settings
        self.source = self.source.cut(self.settings["source"][PART_ROWS_SETTING])
        if self.purifier is None:
            return
        settled = {name: self.settings["purifier"][name] for name in SETTLED}
        if any(getattr(self.purifier.config, name) != value for name, value in settled.items()):
            self.purifier = changed(self.purifier, **settled)

    def estimate(self, processes: int) -> Estimate | None:
        """Estimate how long the rest will take."""
        if (purifier := self.purifier) is None:
            return None
        if purifier.config.uses_threshold and purifier.config.energy_threshold is None:
            purifier = changed(purifier, energy_threshold=0.0)  # which images reach it does not matter here
        finished = sum(record.images + len(record.skipped) for record in self.unfinished.records())
        return estimate(self.source, purifier, finished=finished, processes=processes)

    def purify_parts(self, processes: Processes) -> None:
        """Purify the parts that fall to this process, and check those that are finished already."""
        counting = None if self.purifier is None else _Counting(self.purifier)
        options = self._options(counting)
        self._bar.begin()
        for part in self.source.parts_of(processes.rank, processes.count, self.unfinished.record):
            record = self.unfinished.record(part.name)
            if record is not None and self._still_holds(record, part):
                self._bar.add(record.images + len(record.skipped), kept=True)
                continue
            before = 0 if counting is None else counting.resisting
            record = self.source.write(part, self.unfinished.files, options)
            self._check_content(record, part)
            self._check_folder()
            self.unfinished.add(record if counting is None else replace(record, resisting=counting.resisting - before))

    def complete(self) -> None:
        """Put the parts together, in the first process, once all have finished theirs.

        Raises:
            ValueError: not one image could be repaired.
        """
        records = sorted(self.unfinished.records(), key=lambda record: (record.split, record.start))
        summary = _summary(records)
        if not summary.images:
            self.unfinished.remove()
            found = f"none in {len(summary.skipped)}; the first: {summary.skipped[0]}" if summary.skipped else "none"
            raise ValueError(f"Expected at least one image that can be repaired, but got {found}.")
        records, self._notes = self.source.finish(self.unfinished.files, records)
        # Where in a stream parts ended is of no use any more.
        self.unfinished.complete(self.settings, [replace(record, state={}) for record in records], summary.skipped)

    def summary(self, *notes: str) -> Summary:
        """Read the summary from the manifest."""
        manifest = manifest_path(self.unfinished.destination)
        summary = _summary(read_records(manifest))
        return replace(summary, notes=(*notes, *self._notes), manifest_sha256=read_hash(manifest) or "")

    def _check_content(self, record: PartRecord, part: Part) -> None:
        """Check that a part was made from the rows that were asked for.

        Raises:
            ValueError: they have changed.
        """
        if self.content is not None and self.content.get(part.name) != record.source:
            raise ValueError(
                f"Expected the data that were searched, but {_rows(part)} have changed since. Put them back, or remove "
                f"{self.unfinished.folder} to begin anew."
            )

    def _check_folder(self) -> None:
        """Check that this is still the run's own folder: a process may outlive the first, which keeps others away.

        Raises:
            BlockingIOError: another run has begun there.
        """
        if self.unfinished.earlier() != self.settings:
            raise BlockingIOError(f"Expected to be alone in {self.unfinished.folder}, but another run has begun there.")

    def _still_holds(self, record: PartRecord, part: Part) -> bool:
        """Tell whether a finished part is whole, which is false if it is to be done again.

        Raises:
            ValueError: its rows are no longer those it was made from.
        """
        if not self.unfinished.is_whole(record):
            return False
        if self.source.source_digest(part) not in (None, record.source):
            raise ValueError(
                f"Expected the data that an earlier run has begun with, but {_rows(part)} have changed since. Put them "
                f"back, or remove {self.unfinished.folder} to begin anew. (Random transforms give other images every "
                "time: purify the images before them.)"
            )
        return True

    def _options(self, purify: Purify | None = None) -> PurifyOptions:
        if self.purifier is None:
            return PurifyOptions(purify=list, skip=self.skip, done=self._bar.add)
        place = choose_device(self.purifier.device)
        chunk = CHUNK_ON_CPU if place.type == "cpu" else CHUNK_ON_GPU
        return PurifyOptions(
            purify=purify or self.purifier,
            chunk_images=max(self.purifier.batch_size or 0, chunk),
            at_once=partial(images_at_once, self.purifier),
            skip=self.skip,
            done=self._bar.add,
        )


class _Counting:
    """A purifier that counts the images that resist it, rather than warn at every chunk."""

    def __init__(self, purifier: PureGen) -> None:
        self.purifier = purifier
        self.resisting = 0

    def __call__(self, images: list[Image.Image]) -> list[Image.Image]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*still suspicious")
            purified: list[Image.Image] = self.purifier(images)
        if self.purifier.config.method == "adaptive":
            self.resisting += int(self.purifier.suspicious(purified).sum())
        return purified


class _Bar:
    """A count of the images that are done."""

    def __init__(self, total: int | None, progress: CopyProgress) -> None:
        self._total = total
        self._done = self._kept = 0
        self._progress = progress

    def begin(self) -> None:
        """Report that the work begins."""
        self._progress(0, self._total, 0)

    def add(self, count: int, *, kept: bool = False) -> None:
        """Count images that are done, or were by an earlier run."""
        self._done += count
        self._kept += count if kept else 0
        if count:
            self._progress(self._done, self._total, self._kept)


def _cut(
    source: DatasetCopy, purifier: PureGen | None, *, asked: int | None, begun: int | None, say: Callable[[str], None]
) -> DatasetCopy:
    """Cut the source into the parts that an earlier run has begun with, those asked for, or parts of some minutes."""
    chosen = None if asked is None else source.cut(asked)
    if begun is None:
        rows = PART_ROWS if purifier is None else part_rows_for(source, purifier.config)
        return chosen or source.cut(rows)
    if asked not in (None, begun):
        say(
            f"Parts stay at {begun} rows, as an earlier run has begun this copy, rather than {asked}: its bytes depend "
            "on them, but no image does."
        )
    return source.cut(begun)


def _rows(part: Part) -> str:
    return f"rows {part.start} to {part.stop - 1}" + (f" of split {part.split!r}" if part.split else "")


def draw_seed() -> int:
    """Draw a seed from torch's global generator."""
    return int(torch.randint(2**31, ()))


def _summary(records: Iterable[PartRecord]) -> Summary:
    images, resisting = 0, 0
    skipped: list[Skipped] = []
    for record in records:
        images += record.images
        resisting += record.resisting
        skipped += record.skipped
    return Summary(images=images, resisting=resisting, skipped=tuple(skipped))


def _placed(purifier: PureGen | None, processes: Processes) -> PureGen | None:
    """Move a purifier to the device of this process, unless it was given one by number."""
    if (
        purifier is None
        or processes.device is None
        or (purifier.device is not None and purifier.device.index is not None)
    ):
        return purifier
    return changed(purifier, device=processes.device)


def changed(purifier: PureGen, **changes: Any) -> PureGen:
    """Copy a purifier with other options."""
    return PureGen(**{**purifier.to_dict(), **purifier.runtime, **changes})
