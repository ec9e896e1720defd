"""Say what cleaning a data set would do, and about how long it takes, before it starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isqrt

from puregen_transforms import PureGen
from puregen_transforms._progress import duration
from puregen_transforms.cleaning.decision import suspects_of
from puregen_transforms.cleaning.places import Places, check_places
from puregen_transforms.cleaning.rule import PURIFY, QUARANTINE, Rule
from puregen_transforms.cleaning.sources import CleaningSource
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection.search_time import SearchTime, time_of
from puregen_transforms.detection.searches import SEARCHES, Search
from puregen_transforms.detection.whole_search import detectors_of, why_left_out
from puregen_transforms.whole_sets.cheaper import NAMED_FROM
from puregen_transforms.whole_sets.treatment import ALL_KEPT, ALL_PURIFIED
from puregen_transforms.whole_sets.workload import Estimate, estimate

_SECONDS: Mapping[str, float] = {"2m": 120.0, "20m": 1200.0, "full": 1200.0}
"""Time of 10,000 images of 32 px on two cores, which names a budget. Confusion Training comes on top of it."""

_START = 10.0
"""Seconds that a search takes whatever the set, most of them to load libraries."""

_NAMED_FOR = 10_000 * 32 * 32


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The work of cleaning a data set, before it is begun.

    Args:
        images: to search, by split.
        side: in pixels, of a square with the pixels of a typical image.
        made: searches to make.
        left_out: searches that are not made, each with the reason.
        seconds: that the search takes on two cores, about.
        timed: the longest parts of the search, as a few of the images took here.
        purification: how long that takes; None where no image is purified.
        rule: see `Rule`.
        places: where everything would go.
    """

    images: Mapping[str, int]
    side: int
    made: tuple[Search, ...]
    left_out: Mapping[str, str]
    seconds: float
    timed: SearchTime
    purification: Estimate | None
    rule: Rule
    places: Places

    @property
    def total(self) -> float:
        """Seconds of what was timed: parts of the search, and the purification of as many images as are known."""
        return self.timed.total + ((self.purification and self.purification.total) or 0.0)

    def sentences(self) -> Iterator[str]:
        """Say it in words."""
        counts = " and ".join(f"{count:,} images of split {split!r}" for split, count in self.images.items())
        yield f"To search: {counts}, of about {self.side}x{self.side} pixels."
        yield f"Searches: {', '.join(one.name for one in self.made)}."
        for name, why in self.left_out.items():
            yield f"Not searched by {name}: {why}."
        least = "at least " if self.rule.budget == "full" else "about "
        yield (
            f"Time of the search: {least}{duration(self.seconds)} on two cores, as a budget is named by what 10,000 "
            "images of 32 px take, and time grows with their number and pixels."
        )
        if self.timed:
            yield str(self.timed)
        yield f"Flagged images: {_WORDS[self.rule.flagged]}. Others: {_WORDS[self.rule.others]}."
        if self.purification is not None:
            yield f"Time of the purification. {self.purification}"
            if self.rule.others == PURIFY and self.purification.shown >= NAMED_FROM:
                yield (
                    "Cheaper: with --others keep, images in which nothing was found are copied as they are, and with "
                    "them any poison that no search sees."
                )
        quarantine = f", {self.places.quarantine}" if self.rule.flagged == QUARANTINE else ""
        yield f"To write: {self.places.copy}{quarantine}, and the report in {self.places.report}."


_WORDS = {
    "drop": "left out",
    "quarantine": "left out, and copied to quarantine",
    "purify": "purified",
    "keep": "kept byte for byte",
}


def plan(
    source: CleaningSource,
    places: Places,
    rule: Rule,
    *,
    reserved: ImageSet | None = None,
    device: str | None = None,
) -> Plan:
    """Find out what cleaning a data set would do; nothing is written.

    Args:
        source: from `open_to_clean`.
        places: where everything would go.
        rule: see `Rule`.
        reserved: see `SuspectSet`.
        device: where to work.

    Raises:
        ValueError: a destination that does not fit, or a reserved set with other classes.
        FileExistsError: there is something at the destination.
    """
    check_places(places, rule)
    copy = source.copy(places.copy, ALL_KEPT)
    pixels = copy.row_pixels()
    side = isqrt(sum(pixels) // len(pixels)) if pixels else 0
    suspects = [suspects_of(one, rule, reserved=reserved, device=device) for one in source.subjects.values()]
    why = {search.name: [why_left_out(search, one, rule.budget) for one in suspects] for search in SEARCHES}
    images = {split: len(subject.images) for split, subject in source.subjects.items()}
    searched = sum(images.values()) * (rule.size or side) ** 2
    parts = [time_of(one, detectors_of(one, rule.budget), epochs=rule.epochs) for one in suspects]
    return Plan(
        images=images,
        side=side,
        made=tuple(search for search in SEARCHES if not all(why[search.name])),
        left_out={name: reasons[0] for name, reasons in why.items() if all(reasons)},
        seconds=_START + _SECONDS[rule.budget] * searched / _NAMED_FOR,
        timed=sum(parts, start=SearchTime()),
        purification=_purification(source, places, rule, device),
        rule=rule,
        places=places,
    )


def _purification(source: CleaningSource, places: Places, rule: Rule, device: str | None) -> Estimate | None:
    """Estimate the purification of all images, or of a thousand where nobody knows how many it will be."""
    if PURIFY not in (rule.flagged, rule.others):
        return None
    found = estimate(source.copy(places.copy, ALL_PURIFIED), PureGen(seed=rule.seed, device=device))
    if found is None or rule.others == PURIFY:
        return found
    return Estimate(images=None, side=found.side, seconds=found.seconds)
