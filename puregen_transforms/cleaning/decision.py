"""Search the splits of a data set, and decide what becomes of each row."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from puregen_transforms import __version__
from puregen_transforms._progress import Progress, silent
from puregen_transforms.cleaning.findings import reasons_of
from puregen_transforms.cleaning.rule import PURIFY, Rule
from puregen_transforms.cleaning.sources import CleaningSource
from puregen_transforms.cleaning.subjects import Subject
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection.decisions import Decisions, overrule
from puregen_transforms.detection.detector import SuspectSet
from puregen_transforms.detection.verdict import MADE_UNLEARNABLE, Verdict
from puregen_transforms.detection.whole_search import WholeSetSearch, search_set, train_small
from puregen_transforms.inspection.origin import Origin
from puregen_transforms.inspection.page import write_verdict
from puregen_transforms.purifier.device import choose_device
from puregen_transforms.whole_sets.treatment import Treatment


def suspects_of(
    subject: Subject,
    rule: Rule,
    *,
    reserved: ImageSet | None = None,
    device: str | None = None,
    state: Path | None = None,
    progress: Progress = silent,
) -> SuspectSet:
    """Describe the set that is searched.

    Raises:
        ValueError: a reserved set with other classes.
    """
    if reserved is not None and subject.class_names:
        reserved = reserved.with_classes(subject.class_names, what="reserved set")
    return SuspectSet(
        images=subject.images,
        labels=None if subject.labels is None else torch.tensor(subject.labels),
        class_names=subject.class_names,
        reserved=reserved,
        seed=rule.seed,
        device=choose_device(device),
        state=state,
        progress=progress,
    )


def search_split(
    subject: Subject,
    rule: Rule,
    *,
    reserved: ImageSet | None = None,
    decisions: Decisions | None = None,
    device: str | None = None,
    search: WholeSetSearch | None = None,
    state: Path | None = None,
    report: Path | None = None,
    command: str | None = None,
    progress: Progress = silent,
) -> Verdict:
    """Make every search of the rule's budget, and write the report.

    Args:
        subject: the split.
        rule: see `Rule`.
        reserved: see `SuspectSet`.
        decisions: of a person, which overrule the searches.
        device: where to work.
        search: makes the searches; None is `search_set`.
        state: see `SuspectSet`.
        report: folder of the report; None writes none.
        command: for the report.
        progress: told what is being done.

    Raises:
        ValueError: a set that cannot be searched.
    """
    suspects = suspects_of(subject, rule, reserved=reserved, device=device, state=state, progress=progress)
    verdict = (search or search_set)(suspects, budget=rule.budget, train=partial(train_small, epochs=rule.epochs))
    if decisions is not None:
        verdict = overrule(verdict, decisions, subject.digest_of)
    if report is not None:
        facts = {**subject.facts, **(decisions.facts() if decisions is not None else {})}
        facts |= {} if command is None else {"command": command}
        origin = Origin(images=subject.images, facts=facts, name_of=subject.name_of, opened=subject.opened)
        write_verdict(verdict, report, origin, labels=suspects.labels, class_names=subject.class_names)
    return verdict


def decide(source: CleaningSource, verdicts: Mapping[str, Verdict], rule: Rule, *, where: str = "") -> Treatment:
    """Decide by a rule what becomes of each row.

    Of a split that was made unlearnable none is left out, unless a person has reviewed what was found.

    Args:
        source: that was searched.
        verdicts: by split.
        rule: see `Rule`.
        where: to look at the verdicts, in words, for errors.

    Raises:
        ValueError: no image would be left, or the set was made unlearnable and is not to be purified.
    """
    unlearnable = [split for split, verdict in verdicts.items() if verdict.level == MADE_UNLEARNABLE]
    if unlearnable and PURIFY not in (rule.flagged, rule.others):
        raise ValueError(
            f"Expected a set of which images can be left out, but that of {unlearnable[0]!r} was made unlearnable as a "
            "whole: none of its images can be singled out. Do without it, or purify all of them (`others`, --others "
            f"purify) and train on the copy with `eclipse_compensation`. {where}"
        )
    # Searches for poison find the traces of a set made unlearnable, too, and whole classes would be lost. A person who
    # has looked at what they found knows better.
    whole = unlearnable if rule.decisions is None else []
    reasons: dict[str, dict[int, str]] = {
        split: {} if split in whole else reasons_of(verdict, doubtful=rule.doubtful)
        for split, verdict in verdicts.items()
    }
    if rule.leaves_out:
        _check_rest(verdicts, reasons, where)
        return Treatment(left_out=source.keys(reasons), purified=None if rule.others == PURIFY else {})
    if rule.others == PURIFY:
        return Treatment()
    for split in unlearnable:
        reasons[split] = dict.fromkeys(range(len(verdicts[split])), MADE_UNLEARNABLE)
    return Treatment(purified={split: frozenset(keys) for split, keys in source.keys(reasons).items()})


def _check_rest(verdicts: Mapping[str, Verdict], reasons: Mapping[str, Mapping[int, str]], where: str) -> None:
    """Refuse to leave nothing."""
    if all(len(reasons[split]) == len(verdict) for split, verdict in verdicts.items()):
        count = sum(map(len, verdicts.values()))
        raise ValueError(
            f"Expected some image to be left, but all {count:,} are flagged. Do without the set, or purify it "
            f"(`flagged`, --flagged purify). {where}"
        )


def versions_of(verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
    """List the versions of this package, and of the detectors of all searches that were made."""
    searches = {one.search.name: one.search.detector.version for verdict in verdicts.values() for one in verdict.made}
    return {"puregen-transforms": __version__, "detectors": searches}
