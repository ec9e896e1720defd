"""Select some images of a folder for a copy of their own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import PurePosixPath

from puregen_transforms.data.reserved_names import METADATA_NAMES
from puregen_transforms.whole_sets.folder_copy import FolderCopy
from puregen_transforms.whole_sets.folder_plan import folders_of


def select_images(folder: FolderCopy, paths: Collection[str]) -> FolderCopy:
    """Plan a copy of some images alone, with names and folders as they are, and their rows of the metadata.

    Args:
        folder: a planned copy that keeps all images as they are.
        paths: of the images, those of other columns included.
    """
    plan, chosen = folder.plan, frozenset(paths)
    used = folders_of(chosen)
    others = [
        path
        for path in plan.others
        if path in chosen or (PurePosixPath(path).name in METADATA_NAMES and str(PurePosixPath(path).parent) in used)
    ]
    images = {path: target for path, target in plan.targets.items() if path in chosen}
    return replace(
        folder,
        plan=replace(
            plan,
            targets=images,
            others=tuple(others),
            folders=tuple(path for path in plan.folders if path in used),
            absent=frozenset(plan.targets) - chosen,
            hidden=(),
        ),
    )
