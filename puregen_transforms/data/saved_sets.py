"""Open data sets that `datasets` has saved to disk, after a look at what their JSON and Arrow files say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict, load_from_disk

from puregen_transforms._files import below, is_regular, read_json
from puregen_transforms._text import shown
from puregen_transforms.data.split_names import check_split_names

_SPLITS, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"


def is_saved_set(folder: Path) -> bool:
    """Tell whether a folder is a data set of `save_to_disk`."""
    return (folder / _SPLITS).exists() or (folder / _STATE).exists()


def load_saved_set(folder: Path) -> Dataset | DatasetDict:
    """Open a saved data set, all of whose files are in its folder.

    Raises:
        ValueError: it names splits or files that lead elsewhere, or is damaged.
    """
    for part in _parts(folder):
        _check_files(part)
    try:
        loaded = load_from_disk(str(folder))
    except IndexError as error:
        # datasets saves a split without rows, but cannot read it.
        raise ValueError(f"Expected at least one row in every split, but {folder} has a split without any.") from error
    except Exception as error:  # it takes its own files as they are, so anything may come up
        raise ValueError(f"Expected a data set of save_to_disk, but {folder} cannot be read: {error!r}.") from error
    for dataset in loaded.values() if isinstance(loaded, DatasetDict) else [loaded]:
        _check_rows(dataset, folder)
    return loaded


def _parts(folder: Path) -> Iterator[Path]:
    """Yield the folders of the splits, or the one of a single data set."""
    if not (folder / _SPLITS).exists():
        yield folder
        return
    about = read_json(below(folder, _SPLITS))
    splits = about.get("splits") if isinstance(about, dict) else None
    if not isinstance(splits, list):
        raise ValueError(f"Expected a list of splits in {folder / _SPLITS}, but got {shown(repr(splits))[:80]}.")
    check_split_names(splits, folder / _SPLITS)
    yield from (below(folder, split) for split in splits)


def _check_files(folder: Path) -> None:
    """Refuse files elsewhere, or JSON of another form than `datasets` writes."""
    for name in (_STATE, _INFO):
        if (folder / name).exists() and not is_regular(below(folder, name)):
            raise ValueError(f"Expected a file, but {folder / name} is none.")
    if not (folder / _STATE).exists():
        return
    state = read_json(folder / _STATE)
    files: Any = []
    if isinstance(state, dict):
        files = [*_list(state, "_data_files"), *_list(state, "_indices_files")]
    if not isinstance(state, dict) or not all(isinstance(file, dict) and "filename" in file for file in files):
        raise ValueError(f"Expected the state of a saved data set in {folder / _STATE}, but got another form.")
    for file in files:
        if not is_regular(below(folder, file["filename"])):
            raise ValueError(f"Expected the file {shown(file['filename'])!r} in {folder}, but it is not there.")


def _list(state: dict[str, Any], name: str) -> list[Any]:
    found = state.get(name) or []
    return found if isinstance(found, list) else [found]


def _check_rows(dataset: Dataset, folder: Path) -> None:
    """Refuse offsets that lead out of the file: Arrow follows them without a look, and the process dies."""
    try:
        for table in filter(None, (dataset.data, dataset._indices)):
            table.table.validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"Expected Arrow files that are whole, but those in {folder} are damaged: {error}") from error
