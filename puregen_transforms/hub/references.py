"""References to checkpoints: a catalogue name, a folder, or a Hub repository and revision."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from puregen_transforms.hub.catalogue import CATALOGUE, CatalogueEntry, Kind
from puregen_transforms.hub.layout import DESCRIPTIONS, wrong_kind_error

Reference = str | os.PathLike[str]
"""Catalogue name, folder, or Hub repository "owner/name" or "owner/name@revision"; a path object is a folder."""

_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)[^\s~^:?*\[\\]+")
"""Names of a branch or tag that git allows, more or less; a commit hash is of this form, too."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place that a reference names, as far as that can be told without a request.

    Args:
        entry: of the catalogue, if the reference is a name there.
        repo_id: Hub repository "owner/name"; None if the checkpoint is on this machine.
        revision: branch, tag or commit of it that the reference asks for.
    """

    entry: CatalogueEntry | None = None
    repo_id: str | None = None
    revision: str | None = None


def locate(reference: Reference, kinds: Sequence[Kind]) -> Place:
    """Tell what form of reference this is, without a request.

    A catalogue name comes first, then an existing folder (also one with an @ in its name), then the Hub.

    Raises:
        ValueError: none of the accepted forms, the name of a checkpoint of another kind, an impossible revision, or
            one of a checkpoint that is not on the Hub.
        FileNotFoundError: a path object that is not a folder.
    """
    path = Path(reference)
    if not isinstance(reference, str):
        if not path.is_dir():
            raise FileNotFoundError(f"Expected a checkpoint folder, but {path} is not one.{_hint(path)}")
        return Place()
    if reference not in CATALOGUE and reference != "" and path.is_dir():
        return Place()
    name, revision = split_revision(reference)
    entry = CATALOGUE.get(name)
    if entry is not None and entry.kind not in kinds:
        raise wrong_kind_error(repr(name), entry.kind, kinds)
    if revision is not None and (Path(name).is_dir() if entry is None else entry.packaged):
        raise ValueError(
            f"Expected no revision for {name!r}, which is not on the Hub, but got {revision!r}. "
            f"Leave out {'@' + revision!r}."
        )
    if entry is not None:
        return Place(entry=entry, repo_id=entry.repo_id, revision=revision)
    if path.exists() or not _REPO_ID.fullmatch(name) or name.startswith("."):
        raise _unknown_form(reference, kinds)
    if revision is None and path.parent.is_dir():
        raise ValueError(
            f"Expected a checkpoint, but folder {str(path.parent)!r} is here and has no folder {path.name!r}. "
            f'If you mean the Hub repository, write "{name}@main".'
        )
    return Place(repo_id=name, revision=revision)


def split_revision(reference: str) -> tuple[str, str | None]:
    """Split "owner/name@revision"; without an @ there is no revision.

    Raises:
        ValueError: what follows the @ is empty, or cannot be a branch, tag or commit.
    """
    name, at, revision = reference.partition("@")
    if not at:
        return name, None
    if not _REVISION.fullmatch(revision):
        raise ValueError(
            f"Expected a branch, tag or commit after the @ of {reference!r}, but got {revision!r}. "
            'Write "owner/name@revision", or "owner/name" for the newest.'
        )
    return name, revision


def _unknown_form(reference: str, kinds: Sequence[Kind]) -> ValueError:
    names = ", ".join(name for name, entry in CATALOGUE.items() if entry.kind in kinds)
    return ValueError(
        f"Expected a checkpoint, but got {reference!r}, which is none of: a catalogue name ({names}); an existing "
        f'folder with {" or ".join(DESCRIPTIONS[kind] for kind in kinds)}; a Hub repository "owner/name" or '
        f'"owner/name@revision".{_hint(Path(reference))}'
    )


def _hint(path: Path) -> str:
    if path.is_file():
        return f" Give the folder of a file, here {str(path.parent)!r}."
    if str(path).startswith("~"):
        return f" Write ~ out, here {str(path.expanduser())!r}."
    return ""
