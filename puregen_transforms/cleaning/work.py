"""Clean a data set: search it, decide, copy what is kept, and verify the copy; killed at any moment, go on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from puregen_transforms import PureGen
from puregen_transforms._files import below
from puregen_transforms._progress import Progress, silent
from puregen_transforms.cleaning.decision import decide, search_split, versions_of
from puregen_transforms.cleaning.findings import CleaningReport, Findings
from puregen_transforms.cleaning.rule import QUARANTINE, Rule
from puregen_transforms.cleaning.sources import CleaningSource
from puregen_transforms.data.atomic import check_free
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.parts import DatasetCopy
from puregen_transforms.data.treatment import ALL_KEPT, ALL_PURIFIED, TREATMENT, Treatment
from puregen_transforms.distributed.job import Job
from puregen_transforms.distributed.manifest import differences
from puregen_transforms.distributed.processes import started_processes
from puregen_transforms.distributed.run import changed, purify_copy
from puregen_transforms.distributed.verify import problems_of
from puregen_transforms.inspection.page import PAGE

CLEANING = "cleaning"
"""Its name in a manifest."""

STATE = ".unfinished"
"""Folder in the report's, for what is finished of a search that may be killed; no split has such a name."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a clean copy and what belongs to it go.

    Args:
        copy: a new folder, or for tables a new .parquet file.
        report: the folder of the report.
    """

    copy: Path
    report: Path

    @classmethod
    def of(cls, destination: Path, report: Path | None = None) -> Places:
        """Name the report after the destination, unless it has a name."""
        return cls(copy=destination, report=report or _beside(destination, "report", suffix=""))

    @property
    def quarantine(self) -> Path:
        """The copy of what is left out, beside the clean one, which any program can open as it is."""
        return _beside(self.copy, "quarantine", suffix=".parquet" if self.copy.suffix == ".parquet" else "")

    @property
    def page(self) -> Path | None:
        """The report to look at, or the folder of several; None if there is none."""
        page = self.report / PAGE
        return page if page.exists() else self.report if self.report.is_dir() else None


def _beside(destination: Path, word: str, *, suffix: str) -> Path:
    stem = destination.stem if destination.suffix == ".parquet" else destination.name
    return destination.with_name(f"{stem}.{word}{suffix}")


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """A data set that was cleaned.

    Args:
        report: what was found.
        treatment: what became of each row.
        images: that the copy has.
        is_new: whether this call has written it.
        manifest_sha256: see `Outcome`.
    """

    report: CleaningReport
    treatment: Treatment
    images: int
    is_new: bool
    manifest_sha256: str


def clean(
    source: CleaningSource,
    places: Places,
    rule: Rule,
    *,
    purifier: PureGen | None = None,
    reserved: ImageSet | None = None,
    device: str | None = None,
    part_rows: int | None = None,
    command: str | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda sentence: None,
) -> Cleaned:
    """Search a data set, copy what is kept, and verify the copy.

    What is finished is kept, of the search in the report's folder and of the copy beside it: the same call goes on. A
    finished copy answers from its manifest, without a search.

    Args:
        source: from `open_to_clean`.
        places: where everything goes.
        rule: see `Rule`.
        purifier: None is `PureGen` with the rule's seed; made only if an image is purified.
        reserved: see `SuspectSet`.
        device: where to work; None takes an accelerator if there is one.
        part_rows: see `purify_copy`.
        command: for the report.
        progress: told what is being done.
        say: told what a user should know on the way.

    Raises:
        ValueError: a set that cannot be searched, of which no image would be left, or that was made unlearnable and is
            not to be purified; other data or settings than those of an earlier call.
        FileExistsError: there is something else at the destination.
        BlockingIOError: another run is at the same destination.
        OSError: the source cannot be read, the destination not written, or the copy is not what was written.
    """
    if started_processes(device).count > 1:
        raise ValueError("Expected one process, but a launcher has started several: a set is searched as a whole.")
    source.copy(places.copy, ALL_KEPT)  # what does not fit is said before the search
    job = Job(places.copy.absolute())
    is_new = not places.copy.exists() or job.folder.exists()
    found = recorded(places.copy, rule)
    if found is None:
        check_places(places, rule)
        found = _searched(source, places, rule, reserved, device, command, progress)
    report, treatment = found
    about = {CLEANING: report.to_dict()}
    if rule.flagged == QUARANTINE and is_new and any(treatment.left_out.values()):
        quarantined = source.quarantine(places.quarantine, treatment)
        purify_copy(
            quarantined, places.quarantine, None, about=about, progress=_told(progress, "copying to quarantine")
        )
    copy = source.copy(places.copy, treatment)
    outcome = purify_copy(
        copy,
        places.copy,
        _purifier(treatment, purifier, rule, device),
        fit=partial(_fit, copy),
        about=about,
        part_rows=part_rows,
        progress=_told(progress, "writing the clean copy"),
        say=say,
    )
    if is_new and (problem := next(problems_of(places.copy), None)):
        raise OSError(f"Expected the copy in {places.copy} to be what was written, but {problem}.")
    shutil.rmtree(places.report / STATE, ignore_errors=True)
    return Cleaned(
        report=replace(report, page=places.page, notes=outcome.notes if is_new else ()),
        treatment=treatment,
        images=outcome.images,
        is_new=is_new,
        manifest_sha256=outcome.manifest_sha256,
    )


def recorded(copy: Path, rule: Rule) -> tuple[CleaningReport, Treatment] | None:
    """Read what an earlier run has decided, finished or not; None if there was none.

    Raises:
        FileExistsError: it was no cleaning, or one by another rule.
        ValueError: its record is damaged.
    """
    settings = Job(copy.absolute()).recorded()
    if settings is None:
        return None
    if CLEANING not in settings:
        raise FileExistsError(f"Expected a clean copy in {copy}, but that is another one. Choose another destination.")
    report = CleaningReport.from_dict(settings[CLEANING])
    if changes := differences({"rule": report.rule}, {"rule": rule.to_dict()}):
        raise FileExistsError(
            f"Expected the rule by which an earlier run has cleaned to {copy}, but {'; '.join(changes)}. Repeat that "
            "run's options, or choose another destination."
        )
    described = settings["source"].get(TREATMENT)
    return report, ALL_PURIFIED if described is None else Treatment.from_dict(described)


def check_places(places: Places, rule: Rule) -> None:
    """Refuse to write over anything, before a search.

    Raises:
        FileExistsError: there is something else than what an earlier run has left.
        NotADirectoryError: there is a file where the folder of the report goes.
    """
    is_folder = places.copy.suffix != ".parquet"
    check_free(places.copy, folder=is_folder)
    if rule.flagged == QUARANTINE and recorded(places.quarantine, rule) is None:
        check_free(places.quarantine, folder=is_folder)
    if places.report.exists() and not places.report.is_dir():
        raise NotADirectoryError(f"Expected a folder for the report, but {places.report} is a file.")


def _searched(
    source: CleaningSource,
    places: Places,
    rule: Rule,
    reserved: ImageSet | None,
    device: str | None,
    command: str | None,
    progress: Progress,
) -> tuple[CleaningReport, Treatment]:
    """Search every split, write the reports, and decide."""
    verdicts, several = {}, len(source.subjects) > 1
    for split, subject in source.subjects.items():
        folder = below(places.report, split) if several else places.report
        verdicts[split] = search_split(
            subject,
            rule,
            reserved=reserved,
            device=device,
            state=places.report / STATE,
            report=folder,
            command=command,
            progress=progress,
        )
    report = CleaningReport(
        splits={split: Findings.of_verdict(verdict) for split, verdict in verdicts.items()},
        rule=rule.to_dict(),
        versions=versions_of(verdicts),
        page=places.page,
    )
    return report, decide(source, verdicts, rule, where=f"Look at {places.page}.")


def _purifier(treatment: Treatment, purifier: PureGen | None, rule: Rule, device: str | None) -> PureGen | None:
    if not treatment.purifies_any:
        return None
    if purifier is None:
        return PureGen(seed=rule.seed, device=device)
    # The column was chosen already: it is given images alone.
    return purifier if purifier.config.columns is None else changed(purifier, columns=None)


def _fit(copy: DatasetCopy, purifier: PureGen) -> object:
    return purifier.fit(copy.pictures(skip=False))


def _told(progress: Progress, what: str) -> Callable[[int, int | None, int], None]:
    """Tell of a copy as of a search."""

    def tell(done: int, total: int | None, kept: int) -> None:
        progress(what, done, done if total is None else total)

    return tell
