"""Clean a data set: search it, decide, copy what is kept, and verify the copy; killed at any moment, go on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from puregen_transforms import PureGen
from puregen_transforms._files import below
from puregen_transforms._progress import Progress, silent
from puregen_transforms.cleaning.decision import decide, search_split, versions_of
from puregen_transforms.cleaning.findings import CleaningReport, Findings
from puregen_transforms.cleaning.places import STATE, Places, check_places
from puregen_transforms.cleaning.records import CLEANING, Decision, recorded
from puregen_transforms.cleaning.rule import PURIFY, QUARANTINE, Rule
from puregen_transforms.cleaning.sources import CleaningSource
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection.decisions import Decisions
from puregen_transforms.detection.verdict import MADE_UNLEARNABLE
from puregen_transforms.detection.whole_search import WholeSetSearch
from puregen_transforms.whole_sets.dataset_copy import PART_ROWS, DatasetCopy
from puregen_transforms.whole_sets.manifest import PART_ROWS_SETTING
from puregen_transforms.whole_sets.part_by_part import changed, purify_copy
from puregen_transforms.whole_sets.processes import started_processes
from puregen_transforms.whole_sets.treatment import ALL_KEPT, Treatment
from puregen_transforms.whole_sets.unfinished_copy import UnfinishedCopy
from puregen_transforms.whole_sets.verify import problems_of
from puregen_transforms.whole_sets.workload import part_rows_for


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
    decisions: Decisions | None = None,
    device: str | None = None,
    search: WholeSetSearch | None = None,
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
        purifier: None is `PureGen` with the rule's seed, of the method "eclipse" if a split was made unlearnable; made
            only if an image is purified.
        reserved: see `SuspectSet`.
        decisions: of a person, which overrule the searches.
        device: where to work; None takes an accelerator if there is one.
        search: makes the searches; None is `search_set`.
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
    everything = source.copy(places.copy, ALL_KEPT)  # what does not fit is said before the search
    is_new = not places.copy.exists() or UnfinishedCopy(places.copy.absolute()).folder.exists()
    decision = recorded(places.copy, rule)
    if decision is None:
        check_places(places, rule)
        cut = everything.cut(part_rows or _part_rows(everything, rule, purifier))
        decision = _searched(source, cut, places, rule, reserved, decisions, device, search, command, progress)
    treatment = decision.treatment
    if rule.flagged == QUARANTINE and is_new and any(treatment.left_out.values()):
        _put_aside(source, places, decision, progress)
    copy = source.copy(places.copy, treatment)
    outcome = purify_copy(
        copy,
        places.copy,
        _purifier(decision, purifier, rule, device),
        fit=partial(_fit, copy),
        about=decision.to_dict(),
        content=decision.content,
        part_rows=decision.part_rows,
        progress=_told(progress, "writing the clean copy"),
        say=say,
    )
    if is_new and (problem := next(problems_of(places.copy), None)):
        raise OSError(f"Expected the copy in {places.copy} to be what was written, but {problem}.")
    shutil.rmtree(places.report / STATE, ignore_errors=True)
    notes = list(outcome.notes if is_new else ())
    if decision.report.level == MADE_UNLEARNABLE:
        notes.append(TRAIN_ON_IT)
    return Cleaned(
        report=replace(decision.report, page=places.page, notes=tuple(notes)),
        treatment=treatment,
        images=outcome.images,
        is_new=is_new,
        manifest_sha256=outcome.manifest_sha256,
    )


TRAIN_ON_IT = (
    "The set was made unlearnable. Purification weakens the traces in its images and does not remove them: train with "
    "`eclipse_compensation` as a transform, too, which covers up what is left."
)


def _put_aside(source: CleaningSource, places: Places, decision: Decision, progress: Progress) -> None:
    """Copy what is left out to quarantine, as it is."""
    purify_copy(
        source.quarantine(places.quarantine, decision.treatment),
        places.quarantine,
        None,
        about={CLEANING: decision.report.to_dict()},
        progress=_told(progress, "copying to quarantine"),
    )


def _searched(
    source: CleaningSource,
    cut: DatasetCopy,
    places: Places,
    rule: Rule,
    reserved: ImageSet | None,
    decisions: Decisions | None,
    device: str | None,
    search: WholeSetSearch | None,
    command: str | None,
    progress: Progress,
) -> Decision:
    """Search every split, write the reports, and decide."""
    content = {part.name: cut.source_digest(part) or "" for part in cut.parts_of(0, 1, lambda name: None)}
    # Named by all rows: what was found in others is of no use here.
    state = places.report / STATE / hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    verdicts, several = {}, len(source.subjects) > 1
    for split, subject in source.subjects.items():
        verdicts[split] = search_split(
            subject,
            rule,
            reserved=reserved,
            decisions=decisions,
            device=device,
            search=search,
            state=state,
            report=below(places.report, split) if several else places.report,
            command=command,
            progress=progress,
        )
    report = CleaningReport(
        splits={split: Findings.of_verdict(verdict) for split, verdict in verdicts.items()},
        rule=rule.to_dict(),
        versions=versions_of(verdicts),
    )
    treatment = decide(source, verdicts, rule, where=f"Look at {places.page}.")
    rows = cut.describe()[PART_ROWS_SETTING]
    return Decision(report=report, treatment=treatment, content=content, part_rows=rows)


def _part_rows(copy: DatasetCopy, rule: Rule, purifier: PureGen | None) -> int:
    """Choose the rows of a part: fewer where images may be purified, which takes longer."""
    if PURIFY not in (rule.flagged, rule.others):
        return PART_ROWS
    return part_rows_for(copy, (purifier or PureGen(seed=rule.seed)).config)


def _purifier(decision: Decision, purifier: PureGen | None, rule: Rule, device: str | None) -> PureGen | None:
    if not decision.treatment.purifies_any:
        return None
    if purifier is None:
        return PureGen("eclipse" if decision.report.level == MADE_UNLEARNABLE else "ebm", seed=rule.seed, device=device)
    # The column was chosen already: it is given images alone.
    return purifier if purifier.config.columns is None else changed(purifier, columns=None)


def _fit(copy: DatasetCopy, purifier: PureGen) -> object:
    return purifier.fit(copy.pictures(skip=False))


def _told(progress: Progress, what: str) -> Callable[[int, int | None, int], None]:
    """Tell of a copy as of a search."""

    def tell(done: int, total: int | None, kept: int) -> None:
        progress(what, done, done if total is None else total)

    return tell
