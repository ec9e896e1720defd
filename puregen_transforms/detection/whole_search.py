"""Search a set with every detector that it and the budget allow."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from puregen_transforms.data.mapped import copied_rows
from puregen_transforms.detection.detector import NEEDS, Detector, SuspectSet, run_detector
from puregen_transforms.detection.network import train_network
from puregen_transforms.detection.report import DetectionReport, count_by_class
from puregen_transforms.detection.searches import BUDGETS, SEARCHES, Search
from puregen_transforms.detection.verdict import MADE_UNLEARNABLE, LeftOut, Searched, Verdict, above_one, conclude

Train = Callable[[SuspectSet], nn.Module]
"""Trains the classifier that searches look into, on a set with labels."""


class WholeSetSearch(Protocol):
    """Makes every search that a set and the budget allow, as `search_set` does."""

    def __call__(self, suspects: SuspectSet, *, budget: str = ..., train: Train | None = ...) -> Verdict:
        """Search the set; see `search_set`."""
        ...


def search_set(suspects: SuspectSet, *, budget: str = "20m", train: Train | None = None) -> Verdict:
    """Make every search that the set and the budget allow, and conclude.

    A search that cannot be made is left out with the reason: it never stops the others. Those whose reports are in
    `suspects.known` count whatever the budget, and are not made again. What is finished is kept in `suspects.state`,
    from which a killed search goes on; without such a folder, a temporary one serves what several searches need.

    Args:
        suspects: the set; with a network, that one is searched, and none is trained.
        budget: out of `BUDGETS`.
        train: trains the classifier; None is a small one, for twelve epochs.

    Raises:
        ValueError: no such budget, no images, or a set in which no search can be made.
    """
    if budget not in BUDGETS:
        raise ValueError(f"Expected a budget out of {', '.join(BUDGETS)}, but got {budget!r}.")
    if not len(suspects):
        raise ValueError("Expected at least one image, but got none.")
    if suspects.state is None:
        with tempfile.TemporaryDirectory(prefix="puregen-search-") as folder:
            return search_set(replace(suspects, state=Path(folder)), budget=budget, train=train)
    suspects = read_once(suspects)
    made: list[Searched] = []
    left_out: list[LeftOut] = []
    for search in SEARCHES:
        detector = search.detector
        limit = search.without_reserved if suspects.reserved is None else ""
        if search.name in suspects.known:
            made.append(Searched(search=search, report=suspects.known[search.name], limit=limit))
            continue
        if why := why_left_out(search, suspects, budget):
            left_out.append(LeftOut(search=search, why=why))
            continue
        try:
            if "network" in detector.needs and suspects.network is None:
                suspects = replace(suspects, network=(train or train_small)(suspects))
            made.append(Searched(search=search, report=make_search(search, suspects), limit=limit))
        except (ValueError, ImportError) as error:
            left_out.append(LeftOut(search=search, why=str(error)))
    if not made:
        reasons = "; ".join(f"{one.search.name}: {one.why}" for one in left_out)
        raise ValueError(f"Expected a set that can be searched, but no search of the budget can be made. {reasons}")
    return conclude(made, left_out, len(suspects), labels=suspects.labels)


@dataclass(frozen=True, kw_only=True)
class WholeSearch(Detector):
    """Flag what any search of a whole search holds for poisoned; see `search_set` and `SEARCHES`.

    Scores and flags are those of the verdict; all images of a set made unlearnable are flagged. `details` has, by
    image, `found_by`: the place of the first search that flags it, and `doubtful` and `mislabeled`.

    Args:
        budget: out of `BUDGETS`.
        doubtful: whether to flag doubtful images, too.
    """

    version: ClassVar[int] = 2

    budget: str = "20m"
    doubtful: bool = True

    uses: ClassVar[frozenset[str]] = frozenset({"labels", "reserved", "network"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {"budget": "2m"},
        "cpu": {},
        "paper": {"budget": "full"},
    }

    def __post_init__(self) -> None:
        if self.budget not in BUDGETS:
            raise ValueError(f"Expected a `budget` out of {', '.join(BUDGETS)}, but got {self.budget!r}.")

    def identity(self) -> list[list[object]]:
        """List what decides each search: name, version and weights."""
        return [[search.name, search.detector.version, search.detector.identity()] for search in self.searches]

    @property
    def searches(self) -> tuple[Search, ...]:
        """List the searches of the budget."""
        return tuple(search for search in SEARCHES if search.is_within(self.budget))

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Make all searches.

        Raises:
            ValueError: no images.
        """
        return self.report_of(search_set(suspects, budget=self.budget), suspects)

    def report_of(self, verdict: Verdict, suspects: SuspectSet) -> DetectionReport:
        """Write a verdict on a set as the report of one detector."""
        flagged = verdict.flagged | verdict.doubtful if self.doubtful else verdict.flagged
        if verdict.level == MADE_UNLEARNABLE:
            flagged = torch.ones_like(flagged)
        return DetectionReport(
            scores=above_one(verdict.ranks, flagged),
            flagged=flagged,
            classes=count_by_class(flagged, suspects.labels, suspects.class_names),
            details={
                "found_by": verdict.found_by,
                "doubtful": verdict.doubtful,
                "mislabeled": verdict.mislabeled,
            },
        )


def read_once(suspects: SuspectSet) -> SuspectSet:
    """Read the images once for all searches, if they are all there and of one size; otherwise leave them as they are.

    Images that are too many for the memory go to a file in the folder `state`; see `SuspectSet.tensor`.
    """
    if isinstance(suspects.images, Tensor):
        return suspects
    try:
        return replace(suspects, images=suspects.tensor())
    except ValueError:  # each search says what it cannot do with such a set
        return suspects


def train_small(suspects: SuspectSet, *, epochs: int = 12) -> nn.Module:
    """Train the classifier that searches look into: a small one, on the images with a label.

    Raises:
        ValueError: no labels, or images that are not all there and of one size.
    """
    if suspects.labels is None:
        raise ValueError(f"Expected {NEEDS['labels']}, but got none.")
    known = (suspects.labels >= 0).nonzero().flatten()
    images = suspects.tensor()
    return train_network(
        images if len(known) == len(images) else copied_rows(images, known),
        suspects.labels[known],
        classes=max(int(suspects.labels.max()) + 1, len(suspects.class_names)),
        epochs=epochs,
        seed=suspects.seed,
        device=suspects.device,
        state=suspects.state and suspects.state / "network",
        progress=suspects.progress,
    )


def searches_of(suspects: SuspectSet, budget: str) -> list[Search]:
    """List the searches that are made of a set, as far as that is known before, but those that are known already."""
    made = (search for search in SEARCHES if search.name not in suspects.known)
    return [search for search in made if not why_left_out(search, suspects, budget)]


def detectors_of(suspects: SuspectSet, budget: str) -> list[Detector]:
    """List the detectors of these searches."""
    return [search.detector for search in searches_of(suspects, budget)]


def why_left_out(search: Search, suspects: SuspectSet, budget: str) -> str:
    """Say why a search is not made of a set, as far as that is known before it; empty if it is made."""
    if not search.is_within(budget):
        return f"not within the budget; raise it to {search.budget}"
    missing = _missing(search.detector, suspects)
    return f"it needs {' and '.join(missing)}" if missing else ""


def _missing(detector: Detector, suspects: SuspectSet) -> list[str]:
    """Name in words what a detector needs and the set lacks; where there are labels, a network can be trained."""
    there = {
        "labels": suspects.labels is not None,
        "reserved": suspects.reserved is not None,
        "network": suspects.network is not None or suspects.labels is not None,
    }
    return [NEEDS[need] for need in sorted(detector.needs) if not there[need]]


def make_search(search: Search, suspects: SuspectSet) -> DetectionReport:
    """Run a detector, and keep what it found in `suspects.state`, or read what is kept there."""
    path: Path | None = None
    if suspects.state is not None:
        path = suspects.state / f"{search.name}-{_digest(search, suspects)}.safetensors"
        if path.exists():
            return DetectionReport.load(path)
    report = run_detector(
        search.name,
        search.detector,
        suspects.images,
        suspects.labels,
        class_names=suspects.class_names,
        reserved=suspects.reserved,
        network=suspects.network,
        seed=suspects.seed,
        device=suspects.device,
        state=suspects.state,  # all in it is named by content, and energies and features serve several searches
        progress=suspects.progress,
    )
    if path is not None:
        report.save(path)
    return report


def _digest(search: Search, suspects: SuspectSet) -> str:
    """Name a search by all that decides it."""
    about = [search.name, repr(search.detector), search.detector.version, search.detector.identity()]
    return hashlib.sha256(json.dumps([*about, suspects.fingerprint()]).encode()).hexdigest()[:16]
