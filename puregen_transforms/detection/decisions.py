"""Keep what a person decided about images, by what their files hold."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from puregen_transforms._files import parse_json
from puregen_transforms._text import shown
from puregen_transforms.detection.verdict import CLEAN_ROW, Searched, Verdict

KEEP, DROP, UNSURE = "keep", "drop", "unsure"
ANSWERS = (KEEP, DROP, UNSURE)

FILE = "decisions.jsonl"
"""Name of the file in the folder of a report."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was decided about one image.

    Args:
        sha256: of the image's file, or of the bytes in the cell of a table, in hexadecimal.
        answer: out of `ANSWERS`; None takes back what was decided before.
        name: of the image when it was decided, for people.
        time: of the decision, UTC, as ISO 8601.

    Raises:
        ValueError: another answer, or no sha256.
    """

    sha256: str
    answer: str | None
    name: str = ""
    time: str = ""

    def __post_init__(self) -> None:
        if self.answer is not None and self.answer not in ANSWERS:
            raise ValueError(f"Expected an answer out of {', '.join(ANSWERS)}, but got {shown(repr(self.answer))}.")
        if not isinstance(self.sha256, str) or not _DIGEST.fullmatch(self.sha256):
            raise ValueError(f"Expected 64 hexadecimal digits as sha256, but got {shown(repr(self.sha256))}.")


class Decisions:
    """Remember decisions about images in a file that only grows: one line each, the last one about an image counts.

    A line is on the disk before `decide` returns, and nothing that stands there is ever written again: a crash can cut
    off the line that was being written, and no other. Several processes can write to one file.

    Args:
        path: of the file, which the first decision makes; None keeps everything in memory.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._last: dict[str, Decision] = {}
        self._read = 0
        self._lock = Lock()

    @classmethod
    def load(cls, path: str | Path) -> Decisions:
        """Read a file of decisions; one that is not there has none.

        Args:
            path: of the file, or of the folder of a report.

        Raises:
            ValueError: a line that is no decision.
            OSError: it cannot be read.
        """
        found = cls(Path(path) / FILE if Path(path).is_dir() else path)
        found.refresh()
        return found

    def __len__(self) -> int:
        return sum(one.answer is not None for one in self._last.values())

    def __iter__(self) -> Iterator[Decision]:
        return iter([one for one in self._last.values() if one.answer is not None])

    def of(self, digests: Iterable[str | None]) -> list[str | None]:
        """Look up the answer for each image; None where there is none.

        Args:
            digests: sha256 of the images; None for a row without one.
        """
        found = (None if digest is None else self._last.get(digest) for digest in digests)
        return [None if one is None else one.answer for one in found]

    def decide(self, digest: str, answer: str | None, *, name: str = "") -> Decision:
        """Write a decision down.

        Args:
            digest: sha256 of the image.
            answer: out of `ANSWERS`; None takes an earlier one back.
            name: of the image.

        Raises:
            ValueError: another answer, or no sha256.
            OSError: it cannot be written; nothing is decided then.
        """
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        made = Decision(sha256=digest, answer=answer, name=name, time=now)
        self._add([made])
        return made

    def merge(self, other: Iterable[Decision]) -> int:
        """Take over decisions that were made elsewhere, where they are later than those here; return how many."""
        newer = [one for one in other if (known := self._last.get(one.sha256)) is None or (one.time > known.time)]
        self._add(newer)
        return len(newer)

    def refresh(self) -> None:
        """Read what other processes have written since; a file that was removed has no decisions any more.

        Raises:
            ValueError: a line that is no decision.
            OSError: it cannot be read.
        """
        if self.path is None:
            return
        with self._lock:
            size = self.path.stat().st_size if self.path.exists() else 0
            if size < self._read:
                self._read, self._last = 0, {}
            if size > self._read:
                self._read_on(self.path)

    def _read_on(self, path: Path) -> None:
        with path.open("rb") as file:
            file.seek(self._read)
            lines = file.read().splitlines(keepends=True)
            for line in lines:
                if not line.endswith(b"\n"):  # still being written, or cut off
                    break
                self._read += len(line)
                if (one := _parse(line, path)) is not None:
                    self._last[one.sha256] = one

    def _add(self, decisions: Sequence[Decision]) -> None:
        if self.path is None:
            self._last.update({one.sha256: one for one in decisions})
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(asdict(one)) + "\n" for one in decisions)
        with self._lock:
            with self.path.open("ab+") as file:
                if file.seek(0, os.SEEK_END) and not _ends_a_line(self.path):
                    lines = "\n" + lines  # so that a line that was cut off spoils no other
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
            self._read_on(self.path)

    def name(self) -> str | None:
        """Name what was decided by its content: other names, other verdicts; None where nothing counts."""
        lines = sorted(f"{one.sha256} {one.answer}" for one in self if one.answer != UNSURE)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] if lines else None

    def facts(self) -> dict[str, str]:
        """Say among the facts of a report that a person has overruled it, if so."""
        return {"decisions": f"{len(self):,} of a person, by content"} if len(self) else {}


def overrule(verdict: Verdict, decisions: Decisions, digest_of: Callable[[int], str | None]) -> Verdict:
    """Let a person overrule a verdict, wherever the images lie by now.

    Only suspects are read again, if no image is to be dropped.

    Args:
        verdict: of a set.
        decisions: of a person.
        digest_of: sha256 of the image in a row, None where there is none.
    """
    if not len(decisions):
        return verdict
    asked = verdict.flagged | verdict.doubtful | verdict.mislabeled
    if any(one.answer == DROP for one in decisions):
        asked = torch.ones_like(asked)
    return honor(verdict, decisions.of(digest_of(row) if wanted else None for row, wanted in enumerate(asked.tolist())))


def honor(verdict: Verdict, answers: Sequence[str | None]) -> Verdict:
    """Let a person overrule a verdict: images to keep are held for clean, those to drop for poisoned.

    Args:
        verdict: of a set.
        answers: for each image, out of `ANSWERS`, or None.

    Raises:
        ValueError: not as many answers as images.
    """
    if len(answers) != len(verdict):
        raise ValueError(f"Expected an answer or None for each of {len(verdict)} images, but got {len(answers)}.")
    keep, drop = (torch.tensor([answer == wanted for answer in answers]) for wanted in (KEEP, DROP))
    if not (keep | drop).any():
        return verdict
    return replace(
        verdict,
        made=tuple(_without(one, keep) for one in verdict.made),
        flagged=(verdict.flagged | drop) & ~keep,
        doubtful=verdict.doubtful & ~(keep | drop),
        mislabeled=verdict.mislabeled & ~(keep | drop),
        found_by=verdict.found_by.masked_fill(keep, CLEAN_ROW),
    )


def _without(one: Searched, keep: Tensor) -> Searched:
    return replace(one, report=replace(one.report, flagged=one.report.flagged & ~keep))


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _parse(line: bytes, path: Path) -> Decision | None:
    """Read a line; None if it is empty or was cut off."""
    try:
        found = parse_json(line, path)
    except ValueError:
        return None
    try:
        return Decision(**found)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected decisions in {path}, one a line, but got {shown(line.decode(errors='replace').strip())}: {error}"
        ) from error
