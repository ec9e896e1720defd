"""Cells of an image column: bytes, or the name of a file, which is opened only where the source may name files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puregen_transforms._files import below, is_of_the_system, is_regular
from puregen_transforms._text import shown
from puregen_transforms.data.images import ImageProblemError
from puregen_transforms.data.local import local_path

Cell = Mapping[str, Any]
"""An image as a table stores it: {"bytes": ..., "path": ...}, of which one may be None."""


@dataclass(frozen=True)
class Places:
    """Folders in which the cells of a source may name files.

    A table from a stranger may name a private picture, a device or a server as an image; what it names would be in the
    copy, or in a report.

    Args:
        folders: relative names are below the first of them; without any, only what is stored in the table is read. None
            is for data sets that the user's own program has opened, which may name what they like.
        follow_links: also where links lead out of them.
    """

    folders: tuple[Path, ...] | None = None
    follow_links: bool = False

    @classmethod
    def of_source(cls, source: str, *, follow_links: bool = False) -> Places:
        """Find the folders of a source as it was named: itself, or the caches of what was downloaded.

        A single file may name what lies beside it only with `follow_links`: its folder may be somebody's home.
        """
        path = local_path(source)
        if path is not None and path.is_dir():
            return cls((path.resolve(),), follow_links)
        if path is not None:
            return cls((path.resolve().parent,) if follow_links else (), follow_links)
        from datasets import config
        from huggingface_hub import constants

        return cls((Path(config.HF_DATASETS_CACHE), Path(constants.HF_HUB_CACHE)))

    def read(self, cell: Cell) -> bytes:
        """Read the bytes of an image that is stored in the table, or only named there.

        Raises:
            ImageProblemError: it names what this source may not.
            OSError: it cannot be read.
        """
        if cell["bytes"] is not None:
            return bytes(cell["bytes"])
        name = cell["path"]
        if self.folders is None:
            path = Path(name)
            if path.is_absolute() and path.is_file():  # as it is: `xopen` takes "::" and "[" in names for more
                return path.read_bytes()
            from datasets.utils.file_utils import xopen

            with xopen(name, "rb") as file:
                return bytes(file.read())
        return self._find(name).read_bytes()

    def _find(self, name: str) -> Path:
        assert self.folders is not None
        for folder in self.folders:
            for top in (folder, folder.resolve()):
                if (path := self._below(top, name)) is not None:
                    return path
        reason = (
            f"there is no such file below {self.folders[0]}, and nothing else is opened"
            if self.folders
            else "of a single file, only what is stored in it is read; --follow-links opens files beside it"
        )
        raise ImageProblemError(f"it is not stored in the table, which names {shown(name)!r}: {reason}")

    def _below(self, folder: Path, name: str) -> Path | None:
        """Find a file below the folder; a name from the root must begin with the folder's."""
        try:
            inner = str(Path(name).relative_to(folder)) if Path(name).is_absolute() else name
            path = below(folder, inner, follow_links=self.follow_links)
        except ValueError:
            return None
        return path if is_regular(path) and not is_of_the_system(path) else None


ANYWHERE = Places()


def is_empty(cell: Cell | None) -> bool:
    """Tell whether a cell holds no image."""
    return cell is None or (cell["bytes"] is None and cell["path"] is None)
