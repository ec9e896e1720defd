"""Classifiers in a folder: weights as safetensors, and what is needed to build the network and to read its scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from puregen_transforms._files import write_atomically
from puregen_transforms.models.classifiers import build_classifier
from puregen_transforms.models.file_names import CLASSIFIER_WEIGHTS_FILE, CONFIG_FILE
from puregen_transforms.models.saving import pack_weights, to_json


@dataclass(frozen=True, eq=False)
class SavedClassifier:
    """A trained classifier, and what its scores stand for.

    Args:
        model: in evaluation mode: (N, 3, H, W) in [-1, 1] -> (N, classes) scores.
        class_names: by score.
        image_size: height and width that it was trained on.
    """

    model: nn.Module
    class_names: tuple[str, ...]
    image_size: tuple[int, int]


def save_classifier(
    model: nn.Module, folder: Path, *, name: str, class_names: Sequence[str], image_size: tuple[int, int]
) -> None:
    """Write a classifier (float32), each file whole or not at all.

    Args:
        model: that `build_classifier` has built.
        folder: made if it is not there; files of these names are replaced.
        name: of the network; see `build_classifier`.
        class_names: by score.
        image_size: height and width that it was trained on.

    Raises:
        ValueError: a weight is not finite.
    """
    config = {"classifier": name, "class_names": list(class_names), "image_size": list(image_size)}
    write_atomically(folder / CLASSIFIER_WEIGHTS_FILE, pack_weights(model))
    write_atomically(folder / CONFIG_FILE, to_json(config))


def load_classifier(folder: str | Path) -> SavedClassifier:
    """Load what `save_classifier` wrote; nothing in the files is executed.

    Raises:
        FileNotFoundError: no such files.
        ValueError: files that are no classifier.
    """
    config_file, weights_file = (Path(folder) / name for name in (CONFIG_FILE, CLASSIFIER_WEIGHTS_FILE))
    for file in (config_file, weights_file):
        if not file.is_file():
            raise FileNotFoundError(f"Expected a classifier in {str(folder)!r}, but there is no file {file.name}.")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        names = tuple(str(name) for name in config["class_names"])
        height, width = (int(side) for side in config["image_size"])
        model = build_classifier(config["classifier"], len(names), image_size=(height, width))
        model.load_state_dict(load_file(weights_file))
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"Expected a classifier in {str(folder)!r}, but it is none: {error}") from error
    return SavedClassifier(model.eval(), names, (height, width))
