"""Answer what the review's page asks: pages of suspects, one suspect, and decisions."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

import jinja2

from puregen_transforms._text import shown
from puregen_transforms.detection.decisions import ANSWERS, Decisions
from puregen_transforms.review.neighbors import Neighbors
from puregen_transforms.review.suspects import Suspect, Suspects, describe, shows_in_energy

PAGE_SIZE = 60
UNDECIDED = "undecided"

SCORE_IS = "Share of the other images that a search finds less suspicious, plus 1 if held for poisoned"

_TEMPLATES = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which suspects to show; "" shows all.

    Args:
        class_name: of the suspects.
        kind: their verdict.
        decision: an answer, or "undecided".
    """

    class_name: str = ""
    kind: str = ""
    decision: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Desk:
    """The suspects of a report and the decisions about them, as parts of a page.

    Args:
        suspects: of the report.
        decisions: that were made, and are added to.
        headline: the verdict in a sentence.
        level: the verdict in a word.
        device: where images are compared.
    """

    suspects: Suspects
    decisions: Decisions
    headline: str
    level: str
    device: str | None = None

    @cached_property
    def neighbors(self) -> Neighbors:
        """Find what to compare suspects with."""
        return Neighbors(self.suspects, self.device)

    def chosen(self, wanted: Filter) -> list[Suspect]:
        """Choose suspects, in order."""
        listed = self.suspects.listed
        answers = self.decisions.of(one.sha256 for one in listed)
        return [
            one
            for one, answer in zip(listed, answers, strict=True)
            if wanted.class_name in ("", one.class_name)
            and wanted.kind in ("", one.verdict)
            and wanted.decision in ("", answer or UNDECIDED)
        ]

    def page(self, wanted: Filter, number: int) -> str:
        """Write a page of suspects as HTML, with the filters above it.

        Args:
            wanted: the filters.
            number: of the page, from 1; the nearest there is.
        """
        self.decisions.refresh()
        chosen = self.chosen(wanted)
        pages = max(1, ceil(len(chosen) / PAGE_SIZE))
        number = min(max(1, number), pages)
        part = chosen[(number - 1) * PAGE_SIZE : number * PAGE_SIZE]
        return self._render(
            "page.html",
            headline=self.headline,
            level=self.level,
            suspects=list(zip(part, self.decisions.of(one.sha256 for one in part), strict=True)),
            count=len(chosen),
            total=len(self.suspects),
            number=number,
            pages=pages,
            wanted=wanted,
            classes=self.suspects.classes,
            kinds=self.suspects.kinds,
            answers=(UNDECIDED, *ANSWERS),
            counts=self.counts(),
        )

    def suspect(self, digest: str) -> str:
        """Write all about a suspect as HTML.

        Raises:
            KeyError: no such suspect.
        """
        one = self.suspects.by_digest[digest]
        evidence = self.suspects.evidence_of(one)
        return self._render(
            "suspect.html",
            one=one,
            evidence=evidence,
            shows_in_energy=shows_in_energy(evidence),
            alike=self.suspects.alike(one),
            answer=self.decisions.of([digest])[0],
            place=self._outline(one),
        )

    def near(self, digest: str) -> str:
        """Write ordinary images to compare a suspect with as HTML: of its class, and of that which it looks like.

        Raises:
            KeyError: no such suspect.
            ValueError: an image that cannot be read.
        """
        one = self.suspects.by_digest[digest]
        titles = {one.class_name: f"Ordinary images of class {one.class_name}" if one.class_name else "Ordinary images"}
        for why in self.suspects.evidence_of(one):
            if why.looks_like:
                titles.setdefault(why.looks_like, f"Ordinary images of class {why.looks_like}, which it looks like")
        groups = [(title, self.neighbors.near(one, name)) for name, title in titles.items()]
        return self._render("near.html", groups=groups, by_features=self.neighbors.by_features)

    def decide(self, digest: str, answer: str | None) -> dict[str, Any]:
        """Write a decision down, and count anew.

        Raises:
            KeyError: no such suspect.
            ValueError: no such answer.
            OSError: it cannot be written.
        """
        one = self.suspects.by_digest[digest]
        self.decisions.decide(digest, answer, name=one.name)
        return {"sha256": digest, "answer": answer, "counts": self.counts()}

    def counts(self) -> dict[str, int]:
        """Count suspects by answer."""
        found = Counter(answer or UNDECIDED for answer in self.decisions.of(one.sha256 for one in self.suspects.listed))
        return {answer: found[answer] for answer in (UNDECIDED, *ANSWERS)}

    def lines(self) -> str:
        """Write a line for each suspect, with what was decided, as CSV."""
        self.decisions.refresh()
        listed = self.suspects.listed
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["row", "name", "class", "score", "verdict", "found_by", "sha256", "decision"])
        for one, answer in zip(listed, self.decisions.of(one.sha256 for one in listed), strict=True):
            about = [one.row, one.name, one.class_name, f"{one.score:.6f}", one.verdict, one.found_by, one.sha256]
            writer.writerow([*about, answer or ""])
        return out.getvalue()

    def _outline(self, one: Suspect) -> dict[str, float] | None:
        """Place the mark on the image, in percent of its sides, where it has one at one place."""
        for evidence in self.suspects.evidence_of(one):
            for _, mark in evidence.marks:
                if mark.kind in ("stamp", "local pattern"):
                    width, height = self.suspects.pictures[one.row].size
                    (top, left), (_, tall, wide) = mark.place, mark.picture.shape
                    return {
                        "left": 100 * left / width,
                        "top": 100 * top / height,
                        "width": 100 * wide / width,
                        "height": 100 * tall / height,
                    }
        return None

    def _render(self, template: str, **values: Any) -> str:
        return self._templates.get_template(template).render(score_is=SCORE_IS, **values)

    @cached_property
    def _templates(self) -> jinja2.Environment:
        # Names come from the data set, so they are escaped, and what turns the direction of text is made visible.
        loader = jinja2.FileSystemLoader(_TEMPLATES)
        made = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
        made.filters |= {"shown": shown, "described": describe}
        return made


def read_decision(body: bytes) -> tuple[str, str | None]:
    """Read a decision that the page sends: {"sha256": ..., "answer": ...}.

    Raises:
        ValueError: it is none.
    """
    try:
        found = json.loads(body)
        digest, answer = found["sha256"], found["answer"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise ValueError("Expected a sha256 and an answer.") from error
    if not isinstance(digest, str) or not (answer is None or isinstance(answer, str)):
        raise ValueError("Expected a sha256 and an answer.")
    return digest, answer
