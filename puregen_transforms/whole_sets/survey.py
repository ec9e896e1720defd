"""Look at every sample of a torch data set before the work: what does not fit is said then, by its row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from PIL import Image as PILImage
from torchvision.datasets import DatasetFolder

from puregen_transforms.data.images import CONVERTED, MODES
from puregen_transforms.data.sample_transforms import leaves_of
from puregen_transforms.transforms.samples import Slot, choose_slots, find_slots
from puregen_transforms.whole_sets.sample_layout import (
    JSON,
    Layout,
    check_storable,
    encoded_image,
    form_of,
    merged_form,
    values_of,
)

_READ_TWICE = 8
"""Samples that are read twice."""

_INTEGERS = ("int64", "tensor 0 int64", "tensor 0 int32", "number int64", "number int32")
"""Forms of numbers that may be classes."""


def survey(
    dataset: Any, columns: tuple[str | int, ...] | None, *, skip: bool = False, convert: bool = False
) -> tuple[Layout, Callable[[int], bool]]:
    """Find out how the samples of a data set look.

    Args:
        dataset: without its transforms.
        columns: positions or keys of the images to purify, where that is ambiguous.
        skip: whether images that cannot be purified are left out later, rather than refused here.
        convert: whether those of the modes `CONVERTED` are to become RGB.

    Returns:
        The layout; and whether all labels are classes, or -1, of so many.

    Raises:
        ValueError: no rows, no image, samples that differ, what cannot be stored, or images that are others each time.
        OSError: a sample cannot be read.
    """
    if not len(dataset):
        raise ValueError("Expected at least one row, but the data set is empty.")
    kind, keys, inputs = _parts_of(dataset, columns)
    forms: list[set[str]] = [set() for _ in keys]
    numbers: list[set[int]] = [set() for _ in keys]
    for row, sample in _samples(dataset):
        for place, value in enumerate(values_of(sample, kind, keys, row)):
            if value is None:
                continue
            form = form_of(value, keys[place] in inputs)
            try:
                merged_form({form, *forms[place]})
            except ValueError as error:
                raise ValueError(
                    f"Expected images of one form in every sample, but at {keys[place]!r} {error} (sample {row})."
                ) from error
            if form == JSON:
                check_storable(value, _name(keys[place]))
            if keys[place] in inputs and not skip:
                _check_mode(value, row, (*MODES, *CONVERTED) if convert else MODES)
            if form in _INTEGERS:
                numbers[place].add(int(value))
            forms[place].add(form)
    _check_the_same_again(dataset, kind, keys, inputs)
    merged = tuple(merged_form(found) if found else JSON for found in forms)
    names = _names_of(kind, keys, merged, inputs)
    layout = Layout(
        kind=kind, names=names, forms=merged, inputs=tuple(names[keys.index(key)] for key in keys if key in inputs)
    )
    labels = numbers[names.index("label")] if "label" in names else set()
    return layout, lambda classes: bool(labels) and min(labels) >= -1 and max(labels) < classes


def _parts_of(dataset: Any, columns: tuple[str | int, ...] | None) -> tuple[str, list[Any], set[Any]]:
    """Find the kind of the samples, their keys or positions, and which of these are images to purify."""
    row = next((row for row in range(len(dataset)) if _slots_of(_read(dataset, row))), 0)
    sample = _read(dataset, row)
    slots = choose_slots(_slots_of(sample), sample, columns)
    if slots[0].path == ():
        return "image", ["image"], {"image"}
    if any(len(slot.path) > 1 for slot in slots) or not isinstance(sample, (tuple, list, Mapping)):
        raise ValueError(
            "Expected samples that are an image, or a flat tuple, list or dict with images, but got an image at "
            f"{slots[0].name}. Give out flat samples, or use `PureGen` as a transform."
        )
    keys = list(sample) if isinstance(sample, Mapping) else list(range(len(sample)))
    if isinstance(sample, Mapping) and not all(isinstance(key, str) for key in keys):
        raise ValueError(f"Expected samples with texts as keys, but got {keys}.")
    kind = "dict" if isinstance(sample, Mapping) else "list" if isinstance(sample, list) else "tuple"
    return kind, keys, {slot.path[0] for slot in slots}


def _slots_of(sample: Any) -> list[Slot]:
    """Find the images of a sample; a list of images is one with several parts, and no batch."""
    if isinstance(sample, list):
        return [slot for place, part in enumerate(sample) for slot in find_slots(part, (place,))]
    return find_slots(sample)


def _samples(dataset: Any) -> Iterator[tuple[int, Any]]:
    """Yield every sample; of folders of classes, whose labels are known, one with each label, and no other image."""
    leaves, _ = leaves_of(dataset)
    if all(is_folder_of_classes(leaf) for leaf in leaves):
        image = _read(dataset, 0)[0]
        yield from ((row, (image, label)) for leaf in leaves for row, label in enumerate(sorted(set(leaf.targets))))
        return
    for row in range(len(dataset)):
        yield row, _read(dataset, row)


def is_folder_of_classes(dataset: Any) -> bool:
    """Tell whether the labels of all samples are known without reading an image."""
    return isinstance(dataset, DatasetFolder) and type(dataset).__getitem__ is DatasetFolder.__getitem__


def _read(dataset: Any, row: int) -> Any:
    try:
        return dataset[row]
    except (OSError, SyntaxError) as error:  # Pillow reports broken files by either.
        raise OSError(f"Expected an image in sample {row}, but got: {error}") from error


def _check_mode(image: Any, row: int, modes: Sequence[str]) -> None:
    if isinstance(image, PILImage.Image) and image.mode not in modes:
        raise ValueError(
            f"Expected images of mode {', '.join(modes)}, but sample {row} has mode {image.mode!r}. Convert it in the "
            'data set, as with .convert("RGB").'
        )


def _check_the_same_again(dataset: Any, kind: str, keys: Sequence[Any], inputs: set[Any]) -> None:
    """Read some samples twice: random transforms, which nothing has taken off, give other images.

    Raises:
        ValueError: they do.
    """
    for row in sorted({len(dataset) * part // _READ_TWICE for part in range(_READ_TWICE)}):
        both = [values_of(_read(dataset, row), kind, keys, row) for _ in range(2)]
        for place, key in enumerate(keys):
            images = [values[place] for values in both]
            if key not in inputs or any(image is None for image in images):
                continue
            first, second = (encoded_image(image, row) for image in images)
            if first != second:
                raise ValueError(
                    f"Expected the same image each time it is read, but that of sample {row} is another: a random "
                    "transform would be kept for good. Give the data set its transforms as `transform` or "
                    "`transforms`, or a method without_transforms() that returns it without them."
                )


def _names_of(kind: str, keys: Sequence[Any], forms: Sequence[str], inputs: set[Any]) -> tuple[str, ...]:
    """Name the columns: by keys, or image and label where these are clear, else with numbers."""
    if kind in ("dict", "image"):
        return tuple(keys)
    words = []
    for key, form in zip(keys, forms, strict=True):
        words.append("image" if key in inputs else "label" if form in _INTEGERS else "field")
    return tuple(
        word if words.count(word) == 1 and word != "field" else f"{word}_{place}" for place, word in enumerate(words)
    )


def _name(key: Any) -> str:
    return key if isinstance(key, str) else f"field_{key}"
