"""The manifest of a purified copy: source, settings and parts, kept beside it as JSON lines.

The last line is the sha256 of all before, so that a changed byte of it is noticed. Whoever can rewrite the copy can
rewrite that, too: only the same hash kept elsewhere, for which `puregen purify` prints it, proves more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puregen_transforms._files import is_regular, parse_json
from puregen_transforms._text import shown
from puregen_transforms.data.reserved_names import MANIFEST
from puregen_transforms.purifier.puregen_config import ALGORITHM_VERSION, CHECKPOINTS
from puregen_transforms.whole_sets.dataset_copy import PartRecord

if TYPE_CHECKING:
    from puregen_transforms import PureGen

FORMAT = 2
"""Manifests of format 1 have no last line with the hash of the others."""

HASH = "sha256 of the lines above"


def manifest_path(destination: Path) -> Path:
    """Return the path of a copy's manifest: in its folder, or beside its file."""
    if destination.suffix == ".parquet":
        return destination.with_suffix("." + MANIFEST)
    return destination / MANIFEST


def manifest_of(settings: Mapping[str, Any], records: Iterable[PartRecord]) -> bytes:
    """Encode a manifest: a line of settings, one for each record, and one with their hash."""
    rows = [{"format": FORMAT, **settings}, *(record.to_dict() for record in records)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return content + _last_line(hashlib.sha256(content).hexdigest())


def read_hash(path: Path) -> str | None:
    """Read the hash of a manifest from its last line; None if the manifest was changed since it was written.

    Raises:
        ValueError: it is no manifest.
        OSError: it cannot be read.
    """
    read_settings(path)
    found, last = hashlib.sha256(), b""
    with path.open("rb") as file:
        for line in file:
            found.update(last)
            last = line
    sha256 = found.hexdigest()
    return sha256 if last == _last_line(sha256) else None


def _last_line(sha256: str) -> bytes:
    return json.dumps({HASH: sha256}).encode() + b"\n"


def read_settings(path: Path) -> dict[str, Any]:
    """Read the settings from a manifest.

    Raises:
        ValueError: it is no manifest, or of another format.
        OSError: it cannot be read.
    """
    if path.exists() and not is_regular(path):
        raise ValueError(f"Expected a manifest of puregen purify, but {path} is no file.")
    with path.open("rb") as file:
        return _settings(file.readline(), path)


def read_records(path: Path) -> Iterator[PartRecord]:
    """Read the records of a manifest, one at a time; raises as `read_settings`."""
    read_settings(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1 or line.startswith(b'{"' + HASH.encode()):
                continue
            try:
                yield PartRecord.from_dict(parse_json(line, f"line {number}"))
            except ValueError as error:
                raise ValueError(f"Expected a record in line {number} of {path}, but it is damaged: {error}") from error


def _settings(line: bytes, path: Path) -> dict[str, Any]:
    try:
        settings = parse_json(line, path)
        found = settings["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"Expected a manifest of puregen purify, but {path} is none.") from error
    if found != FORMAT:
        raise ValueError(
            f"Expected a manifest of format {FORMAT}, but {path} has {shown(repr(found))[:40]}. "
            "The copy was written by another version of puregen-transforms: check it with that one, or purify again."
        )
    if not isinstance(settings.get("source"), dict) or not isinstance(settings.get("purifier"), dict):
        raise ValueError(f"Expected the source and the purifier in the first line of {path}, but they are not there.")
    return {name: value for name, value in settings.items() if name != "format"}


SETTLED = ("seed", "energy_threshold")
"""Options that a run settles at its beginning, where they were left open."""

PART_ROWS_SETTING = "rows of a part"
"""Setting of the source that says how its copy is cut, which changes no image."""


def settings_of(purifier: PureGen | None, source: Mapping[str, Any], **others: Any) -> dict[str, Any]:
    """Collect all settings that decide the content of a copy; without a purifier, none of its images is changed."""
    options: dict[str, Any] = {"purifier": {}}
    if purifier is not None:
        options = {"purifier": purifier.to_dict(), "weights": purifier.weights, "algorithm": ALGORITHM_VERSION}
    # As they will be read again: without tuples.
    settings: dict[str, Any] = json.loads(json.dumps({**options, "source": source, **others}))
    return settings


def filled_in(settings: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> dict[str, Any]:
    """Fill in what settings leave open, as an earlier run has settled it."""
    options, source = dict(settings["purifier"]), dict(settings["source"])
    if earlier is not None:
        before = earlier["purifier"]
        if options and before:
            options |= {name: before[name] for name in SETTLED if options[name] is None}
            # Another place for the same weights is the same purifier.
            options |= {name: before.get(name) for name in CHECKPOINTS if name in options}
        if PART_ROWS_SETTING in earlier["source"]:
            source[PART_ROWS_SETTING] = earlier["source"][PART_ROWS_SETTING]
    return {**settings, "purifier": options, "source": source}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say in words which settings are not the same."""
    old, new = dict(_flat(before)), dict(_flat(now))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [f"{name} was {_short(old.get(name))} and is {_short(new.get(name))}" for name in names]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}, ")
        else:
            yield prefix + name, value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
