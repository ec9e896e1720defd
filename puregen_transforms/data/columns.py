"""Choose the columns of images to work on: those that were named, or the only one there is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from datasets import Features, Image


def image_columns(features: Mapping[str, Any]) -> list[str]:
    """Name the columns that hold an image in each row."""
    return [name for name, feature in features.items() if isinstance(feature, Image)]


def choose_image_columns(
    features: Mapping[str, Any], columns: Collection[str] | None = None, *, lists: bool = False
) -> list[str]:
    """Choose columns of images: those named, or the only one there is.

    Args:
        features: types by column.
        columns: image columns wanted; None or none of them takes the only one.
        lists: whether a column with images inside lists or structures may be chosen, too.

    Raises:
        ValueError: a name that is no image column, no image column at all, several of which none was named, or images
            inside lists, where these are not to be chosen.
    """
    nested = [name for name, feature in features.items() if not isinstance(feature, Image) and _holds_images(feature)]
    found = [name for name in features if name in image_columns(features) or (lists and name in nested)]
    if columns:
        if wrong := [name for name in columns if name not in found]:
            raise ValueError(f"Expected image columns (`columns=`, --column) out of {found}, but got {wrong}.")
        return [name for name in found if name in columns]
    if nested and not lists:
        raise ValueError(
            f"Expected each image in a column of its own, but {nested} hold images inside lists or "
            "structures, which would stay as they are. Unpack these columns, or name those to purify."
        )
    if not found:
        raise ValueError(
            f"Expected a column of images, but found only {_column_types(features)}. "
            "Cast the column with images to datasets.Image() first."
        )
    if len(found) > 1:
        raise ValueError(
            f"Expected one column of images, but found {found}, and cannot tell which are inputs and which are labels, "
            f"such as masks. Name those meant: columns=[{found[0]!r}], or --column {found[0]}."
        )
    return found


def check_same_features(splits: Mapping[str, Features]) -> None:
    """Check that all splits have the same columns, of the same types: `datasets` could not open a copy otherwise.

    Raises:
        ValueError: they have not; names the first column that differs.
    """
    (first, expected), *others = splits.items()
    for split, features in others:
        for name in {**expected, **features}:
            if expected.get(name) != features.get(name):
                raise ValueError(
                    f"Expected the same columns in every split, but {name!r} is {_in_words(expected.get(name))} in "
                    f"{first!r} and {_in_words(features.get(name))} in {split!r}. Make them equal, or take one split "
                    "at a time."
                )


def _in_words(feature: Any) -> str:
    return "missing" if feature is None else str(feature)


def _holds_images(feature: Any) -> bool:
    if isinstance(feature, Image):
        return True
    if isinstance(feature, dict):
        return any(map(_holds_images, feature.values()))
    if isinstance(feature, (list, tuple)):
        return any(map(_holds_images, feature))
    return hasattr(feature, "feature") and _holds_images(feature.feature)


def _column_types(features: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} ({getattr(feature, 'dtype', type(feature).__name__)})" for name, feature in features.items()
    )
