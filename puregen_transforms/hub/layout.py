"""Which files make a checkpoint, and what is wrong where some are missing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from puregen_transforms._files import is_regular, read_json
from puregen_transforms.hub.catalogue import Kind
from puregen_transforms.models.file_names import (
    CONFIG_FILE,
    DENOISER_WEIGHTS_FILE,
    EBM_WEIGHTS_FILE,
    HALF_UNET_WEIGHTS_FILE,
    INDEX_FILE,
    SCHEDULE_FILE,
    SCHEDULER_FOLDER,
    UNET_FOLDER,
    UNET_WEIGHTS_FILE,
)

CARD_FILE = "README.md"
RECORD_FILE = "record.json"
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")

ALTERNATIVES: Mapping[Kind, Sequence[str]] = {
    "ebm": (),
    "ddpm": (
        INDEX_FILE,
        *(f"{folder}{name}" for folder in (f"{UNET_FOLDER}/", "") for name in (CONFIG_FILE, UNET_WEIGHTS_FILE)),
        f"{SCHEDULER_FOLDER}/{SCHEDULE_FILE}",
        SCHEDULE_FILE,
    ),
    "denoiser": (),
}
"""Files whose absence decides which others make a checkpoint; see `files_of`."""

_ARGUMENTS: Mapping[Kind, tuple[str, str]] = {
    "ebm": ("an EBM checkpoint", "checkpoint"),
    "ddpm": ("a DDPM checkpoint", "ddpm_checkpoint"),
    "denoiser": ("a denoiser checkpoint", "denoiser_checkpoint"),
}

DESCRIPTIONS: Mapping[Kind, str] = {
    "ebm": f"{CONFIG_FILE} and {EBM_WEIGHTS_FILE}",
    "ddpm": f"a diffusers pipeline of a UNet2DModel, or with {CONFIG_FILE} and {UNET_WEIGHTS_FILE}",
    "denoiser": f"{CONFIG_FILE} and {DENOISER_WEIGHTS_FILE}",
}
"""The content of a checkpoint's folder, in words."""

Shape = tuple[int, ...]

_LARGEST_JSON = 2**24
"""Bytes of a configuration; that of a large network has a few thousand."""


@dataclass(frozen=True, kw_only=True)
class CheckpointFiles:
    """The files that make a checkpoint, by their names relative to its folder.

    Args:
        kind: of network.
        config: of the network.
        weights: of the network.
        schedule: the scheduler's configuration, where there is one.
        index: of the pipeline, where there is one.
    """

    kind: Kind
    config: str
    weights: str
    schedule: str | None = None
    index: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all files, the weights last."""
        return tuple(name for name in (self.index, self.config, self.schedule, self.weights) if name is not None)


def files_of(kind: Kind, exists: Callable[[str], bool]) -> CheckpointFiles:
    """Name the files that make a checkpoint of a kind, given which files there are.

    Files without which it would be none are named in any case, present or not.
    """
    if kind == "ebm":
        return CheckpointFiles(kind=kind, config=CONFIG_FILE, weights=EBM_WEIGHTS_FILE)
    if kind == "denoiser":
        return CheckpointFiles(kind=kind, config=CONFIG_FILE, weights=DENOISER_WEIGHTS_FILE)
    index = INDEX_FILE if exists(INDEX_FILE) else None
    pipeline = exists(f"{UNET_FOLDER}/{CONFIG_FILE}") or (index is not None and not exists(CONFIG_FILE))
    folder = f"{UNET_FOLDER}/" if pipeline else ""
    schedule: str | None = f"{SCHEDULER_FOLDER}/{SCHEDULE_FILE}"
    # Early pipelines, such as google/ddpm-cifar10-32, have an index but no subfolders: they are read as bare networks.
    if not pipeline:
        schedule = next((name for name in (f"{SCHEDULER_FOLDER}/{SCHEDULE_FILE}", SCHEDULE_FILE) if exists(name)), None)
    half = not exists(folder + UNET_WEIGHTS_FILE) and exists(folder + HALF_UNET_WEIGHTS_FILE)
    weights = folder + (HALF_UNET_WEIGHTS_FILE if half else UNET_WEIGHTS_FILE)
    return CheckpointFiles(kind=kind, config=folder + CONFIG_FILE, weights=weights, schedule=schedule, index=index)


def choose_files(kinds: Sequence[Kind], place: str, names: Collection[str]) -> CheckpointFiles:
    """Choose the files of a checkpoint among those in a place.

    Args:
        kinds: that are accepted; the first that is there is taken.
        place: described for the user, such as "folder runs/a".
        names: the files found there.

    Raises:
        ValueError: a checkpoint of another kind, or pickle files only.
        FileNotFoundError: a file is missing.
    """
    for kind in kinds:
        files = files_of(kind, names.__contains__)
        if all(name in names for name in files.names):
            return files
    kind = _apparent_kind(names) or kinds[0]
    if kind not in kinds:
        raise wrong_kind_error(place, kind, kinds)
    raise _missing_file_error(place, names, files_of(kind, names.__contains__))


def list_folder(folder: Path) -> list[str]:
    """List the names in a folder and in the subfolders of a pipeline."""
    subfolders = [folder / name for name in (UNET_FOLDER, SCHEDULER_FOLDER)]
    paths = [path for parent in (folder, *subfolders) if parent.is_dir() for path in parent.iterdir()]
    return [path.relative_to(folder).as_posix() for path in paths if path not in subfolders]


def wrong_kind_error(what: str, kind: Kind, expected: Sequence[Kind]) -> ValueError:
    """Make the error for a checkpoint given where one of another kind belongs."""
    name, argument = _ARGUMENTS[kind]
    wanted = " or ".join(_ARGUMENTS[other][0] for other in expected)
    return ValueError(f"Expected {wanted}, but {what} is {name}: give it as `{argument}=`.")


def _apparent_kind(names: Collection[str]) -> Kind | None:
    if any(PurePosixPath(name).name.startswith(("diffusion_pytorch_model.", INDEX_FILE)) for name in names):
        return "ddpm"
    if DENOISER_WEIGHTS_FILE in names:
        return "denoiser"
    return "ebm" if EBM_WEIGHTS_FILE in names else None


def _missing_file_error(place: str, names: Collection[str], files: CheckpointFiles) -> FileNotFoundError | ValueError:
    found = sorted(names)
    pickles = [name for name in found if name.endswith(PICKLE_SUFFIXES)]
    if files.weights not in found and pickles:
        stem = files.weights.removesuffix(".safetensors")
        pickle = next((name for name in pickles if name.startswith(stem)), pickles[0])
        return ValueError(
            f"Expected {files.weights} in {place}, but found only pickle files ({', '.join(pickles)}). A pickle can "
            "run any code when it is opened, so only safetensors is loaded. If you trust the file, convert it once, "
            "with torch 2.10 or newer (`weights_only` of older ones has holes): "
            f'safetensors.torch.save_file(torch.load("{pickle}", weights_only=True), "{files.weights}").'
        )
    missing = [name for name in files.names if name not in found]
    remedy = f"Check that this is the place of {_ARGUMENTS[files.kind][0]}."
    if files.kind == "ebm" and missing == [CONFIG_FILE]:
        remedy = f'Write {CONFIG_FILE} with the shape of the network, such as {{"nf": 128, "patch_size": 1}}.'
    *others, last = (name for name in files.names if name != INDEX_FILE)
    return FileNotFoundError(
        f"Expected {', '.join(others)} and {last} in {place}, but {' and '.join(missing)} "
        f"{'are' if len(missing) > 1 else 'is'} missing; found: {', '.join(found) or 'nothing'}. {remedy}"
    )


def damaged_file_error(weights: Path, reason: object) -> ValueError:
    """Make the error for a weights file that cannot be read."""
    # In the Hub cache `weights` is a link: deleting only the link would bring the same damaged blob back.
    return ValueError(
        f"Expected a whole safetensors file, but {weights} is truncated or damaged ({reason}). Delete "
        f"{weights.resolve()} and load again to download it afresh, or copy it again if it is your own file. "
        "If that gives the same error, the published file itself is damaged."
    )


def read_shapes(weights: Path) -> dict[str, Shape]:
    """Read the shapes of all tensors in a safetensors file from its header.

    Raises:
        ValueError: the file is truncated or is not safetensors.
    """
    try:
        with safe_open(weights, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise damaged_file_error(weights, error) from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: not JSON, or something else.
    """
    if path.exists() and (not is_regular(path) or path.stat().st_size > _LARGEST_JSON):
        raise ValueError(f"Expected a JSON object in {path}, but it is no file of at most {_LARGEST_JSON} bytes.")
    try:
        values = read_json(path)
    except ValueError as error:
        raise ValueError(f"Expected a JSON object in {path}, but it is not valid JSON ({error}).") from error
    if not isinstance(values, dict):
        raise ValueError(f"Expected a JSON object in {path}, but got {type(values).__name__}.")
    return values
