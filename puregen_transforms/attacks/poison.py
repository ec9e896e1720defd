"""Record an attack: what it puts into a training set, and what it does at test time.

On disk a poison is a folder with two files. `poison.safetensors` has the tensors: `ids` (n,) int64, rows of the
training set; `images` (n, 3, H, W) uint8 and `labels` (n,) int64, what those rows become; `covers` (n,) bool; perhaps
`target_images` (k, 3, H, W) uint8, `target_labels` (k,) int64 and `trigger.*`, the tensors of the trigger. Everything
else is in `poison.json`, with the sha256 of the tensors' file. `trigger.form` there says how the trigger acts: see
`puregen_transforms/attacks/trigger_forms.py`.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from puregen_transforms.attacks.trigger import Trigger
from puregen_transforms.attacks.trigger_forms import to_trigger
from puregen_transforms.data.atomic import complete_or_absent
from puregen_transforms.data.sample_transforms import transforms_of, without_transforms

if TYPE_CHECKING:
    from datasets import Dataset

FORMAT = 1
TENSORS, DESCRIPTION = "poison.safetensors", "poison.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class Poison:
    """Hold what one attack does to one training set: apply it to the set, and its trigger to test images.

    Args:
        attack: its name.
        ids: (n,) int64, rows of the training set, increasing.
        images: (n, 3, H, W) uint8, what those rows become.
        labels: (n,) int64, the labels they then have.
        originals: `image_hash` of each row's image before, by which `apply` knows the set again.
        target_class: the class that triggered images, or those in `target_images`, are to be misread as; None for
            attacks on all that is learned.
        covers: (n,) bool, the covers: rows with the trigger that keep their label, to hide the others. None is no row.
        source_class: the only class whose triggered images are attacked; None is every class.
        trigger: put on images at test time; None for triggerless attacks, which aim at `target_images`.
        target_images: (k, 3, H, W) uint8, test images to be misread.
        target_labels: (k,) int64, their true labels.
        budget: largest change of a pixel in units of 1/255; None for attacks that have no such bound.
        recipe: every setting.
        seed: of all that is random.
        set_rows: length of the training set.
        class_names: of the training set.
        versions: of the software that crafted it.
    """

    attack: str
    ids: Tensor
    images: Tensor
    labels: Tensor
    originals: tuple[str, ...]
    target_class: int | None
    covers: Tensor = field(default=None)  # type: ignore[assignment]
    source_class: int | None = None
    trigger: Trigger | None = None
    target_images: Tensor | None = None
    target_labels: Tensor | None = None
    budget: float | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    set_rows: int = 0
    class_names: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.covers is None:
            object.__setattr__(self, "covers", torch.zeros(len(self.ids), dtype=torch.bool))
        lengths = {len(self.ids), len(self.images), len(self.labels), len(self.covers), len(self.originals)}
        if len(lengths) != 1:
            raise ValueError(f"Expected as many images, labels, covers and originals as ids, but got {lengths}.")
        if not bool((self.ids.diff() > 0).all()):
            raise ValueError("Expected `ids` in increasing order, each once.")
        if len(self.ids) and not 0 <= int(self.ids[0]) <= int(self.ids[-1]) < self.set_rows:
            raise ValueError(f"Expected `ids` of a set of {self.set_rows} rows, but got {int(self.ids[-1])}.")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        covers = int(self.covers.sum())
        about = f"{len(self) - covers} poisoned" + (f" and {covers} cover" if covers else "")
        aim = "" if self.target_class is None else f", target class {self.target_class}"
        return f"Poison({self.attack!r}, {about} rows of {self.set_rows}{aim})"

    def __getstate__(self) -> dict[str, Any]:
        # Whether the digest is known already must not change how `datasets` names a result of `map`.
        return {name: value for name, value in vars(self).items() if name != "digest"}

    @cached_property
    def digest(self) -> str:
        """Name everything in it by its sha256."""
        content = self._tensor_bytes()
        return hashlib.sha256(content + self._description(content).encode()).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write the folder of two files that is described at the top of this module.

        Raises:
            FileExistsError: there is something already.
        """
        content = self._tensor_bytes()
        with complete_or_absent(Path(folder), folder=True) as temporary:
            (temporary / TENSORS).write_bytes(content)
            (temporary / DESCRIPTION).write_text(self._description(content), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Poison:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: the files are damaged, do not belong together or are of a later version.
        """
        path = Path(folder)
        for name in (TENSORS, DESCRIPTION):
            if not (path / name).is_file():
                raise FileNotFoundError(
                    f"Expected a poison with {TENSORS} and {DESCRIPTION}, but {path} has no {name}."
                )
        content = (path / TENSORS).read_bytes()
        try:
            about = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
            tensors = parse_safetensors(content)
            if about["format"] != FORMAT:
                raise ValueError(f"it is of format {about['format']}, and this version reads {FORMAT}")
            if hashlib.sha256(content).hexdigest() != about["tensors_sha256"]:
                raise ValueError(f"{TENSORS} is not the file that {DESCRIPTION} was written with")
            own: dict[str, Any] = {name: tensors.pop(name, None) for name in _OWN_TENSORS}
            form = about.pop("trigger")
            parts = {name.removeprefix("trigger."): value for name, value in tensors.items()}
            trigger = to_trigger(form.pop("form"), form, parts) if form else None
            del about["format"], about["tensors_sha256"]
            for name in ("originals", "class_names"):
                about[name] = tuple(about[name])
            return cls(**own, **about, trigger=trigger)
        except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise ValueError(f"Expected a poison in {path}, but got: {error}.") from error

    def apply(self, dataset: Any, *, image: str = "image", label: str = "label") -> Any:
        """Poison a data set: the listed rows get their new images and labels, all others stay as they are stored.

        Args:
            dataset: the set that was attacked: a `datasets.Dataset`, or a map-style torch data set of (image, label),
                or a `Subset` of one. Its images are taken as they are stored: its own `transform`,
                `target_transform` or `transforms` act after the poison, on all images.
            image: its image column, in a `datasets.Dataset`.
            label: its label column.

        Returns:
            A `datasets.Dataset`, or a torch data set.

        Raises:
            ValueError: another set, or a stream.
        """
        if not hasattr(dataset, "__len__"):
            raise ValueError(
                f"Expected a data set with a length, but got a stream, {type(dataset).__name__}. "
                "Load it whole, without `streaming`."
            )
        self._check_rows(len(dataset))
        if hasattr(dataset, "features") and hasattr(dataset, "map"):
            return self._apply_to_rows(dataset, image, label)
        return PoisonedDataset(dataset, self)

    def apply_to_tensors(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Poison a training set in memory.

        Args:
            images: (N, 3, H, W) uint8, of the set that was attacked; not modified.
            labels: (N,) int64; not modified.

        Returns:
            Copies in which the listed rows have their new images and labels.

        Raises:
            ValueError: another set.
        """
        self._check_rows(len(images))
        for place, row in enumerate(self.ids.tolist()):
            self._check_original(place, images[row])
        images, labels = images.clone(), labels.clone()
        images[self.ids], labels[self.ids] = self.images, self.labels
        return images, labels

    def trigger_test_set(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Put the trigger on the test images that the attack wants misread as the target class.

        Args:
            images: (N, 3, H, W) uint8.
            labels: (N,) int64.

        Returns:
            (M, 3, H, W) uint8, the triggered images of all classes but the target class, or of the source class alone;
            and (M,), their true labels.

        Raises:
            ValueError: the attack has no trigger.
        """
        if self.trigger is None:
            where = "it spoils the whole set" if self.target_images is None else "its targets are in `target_images`"
            raise ValueError(f"Attack {self.attack!r} has no trigger: {where}.")
        chosen = labels != self.target_class if self.source_class is None else labels == self.source_class
        return self.trigger(images[chosen]), labels[chosen]

    def _apply_to_rows(self, dataset: Dataset, image: str, label: str) -> Dataset:
        from datasets import Image

        place_of = self._places()

        def replace(rows: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
            for position, index in enumerate(indices):
                if index in place_of:
                    place = place_of[index]
                    self._check_original(place, to_tensor(dataset[index][image]))
                    buffer = io.BytesIO()
                    to_pil(self.images[place]).save(buffer, "PNG")
                    rows[image][position] = {"bytes": buffer.getvalue(), "path": None}
                    rows[label][position] = self._label(place, rows[label][position])
            return rows

        encoded = dataset.cast_column(image, Image(decode=False))
        # `datasets` takes an earlier result of this name for the new one: all that decides it is in here.
        decided_by = json.dumps([dataset._fingerprint, self.digest, image, label])
        fingerprint = hashlib.sha256(decided_by.encode()).hexdigest()[:16]
        poisoned = encoded.map(replace, with_indices=True, batched=True, new_fingerprint=fingerprint)
        return poisoned.cast(dataset.features)

    def _label(self, place: int, before: Any) -> Any:
        """Give the new label of a row in the form of its label before: a word or a number."""
        number = int(self.labels[place])
        return self.class_names[number] if isinstance(before, str) else number

    def _places(self) -> dict[int, int]:
        return {row: place for place, row in enumerate(self.ids.tolist())}

    def _check_rows(self, rows: int) -> None:
        if rows != self.set_rows:
            raise ValueError(f"Expected the set of {self.set_rows} rows that was attacked, but got one of {rows}.")

    def _check_original(self, place: int, image: Tensor) -> None:
        if image_hash(image) != self.originals[place]:
            raise ValueError(
                f"Expected the set that was attacked, but the image in row {int(self.ids[place])} is another. "
                "Apply the poison to the same images, in the same order and size."
            )

    def _tensor_bytes(self) -> bytes:
        tensors = {name: value for name in _OWN_TENSORS if (value := getattr(self, name)) is not None}
        for name, value in (self.trigger.tensors() if self.trigger else {}).items():
            tensors[f"trigger.{name}"] = value
        return to_safetensors({name: value.contiguous().cpu() for name, value in tensors.items()})

    def _description(self, content: bytes) -> str:
        """Write the JSON of the poison whose tensors' file has this content."""
        trigger = None if self.trigger is None else {"form": self.trigger.form, **self.trigger.numbers()}
        about = {
            "format": FORMAT,
            "attack": self.attack,
            "target_class": self.target_class,
            "source_class": self.source_class,
            "budget": self.budget,
            "seed": self.seed,
            "set_rows": self.set_rows,
            "class_names": list(self.class_names),
            "trigger": trigger,
            "recipe": dict(self.recipe),
            "versions": dict(self.versions),
            "tensors_sha256": hashlib.sha256(content).hexdigest(),
            "originals": list(self.originals),
        }
        return json.dumps(about, indent=2) + "\n"


_OWN_TENSORS = ("ids", "images", "labels", "covers", "target_images", "target_labels")


class PoisonedDataset(TorchDataset):  # type: ignore[type-arg]
    """Replace some rows of a map-style torch data set; every other attribute is the data set's own."""

    def __init__(self, dataset: Any, poison: Poison) -> None:
        self.dataset = without_transforms(dataset)
        self.poison = poison
        own = transforms_of(dataset)
        self.transform, self.target_transform = own.get("transform"), own.get("target_transform")
        self.transforms = own.get("transforms")
        self._place_of = poison._places()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        index = range(len(self))[index]
        image, label, *rest = self.dataset[index]
        place = self._place_of.get(index)
        if place is not None:
            self.poison._check_original(place, to_tensor(image))
            label = self.poison._label(place, label)
            image = to_pil(self.poison.images[place]) if _is_pil(image) else self.poison.images[place].clone()
        return (*self._transformed(image, label), *rest)

    def _transformed(self, image: Any, label: Any) -> tuple[Any, Any]:
        if self.transforms is not None:
            image, label = self.transforms(image, label)
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            label = self.target_transform(label)
        return image, label

    def __getattr__(self, name: str) -> Any:
        if name in ("dataset", "poison") or name.startswith("__"):
            raise AttributeError(name)
        if name == "targets":
            targets = list(self.dataset.targets)
            for place, row in enumerate(self.poison.ids.tolist()):
                targets[row] = self.poison._label(place, targets[row])
            return targets
        return getattr(self.dataset, name)


def image_hash(image: Tensor) -> str:
    """Name a (3, H, W) uint8 image by 16 hexadecimal digits of a hash."""
    pixels = image.contiguous().cpu().numpy()
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:16]


def to_tensor(image: Any) -> Tensor:
    """Convert a stored image, PIL or (3, H, W) uint8, to a tensor.

    Raises:
        ValueError: something else, such as an image that a transform has changed.
    """
    if _is_pil(image):
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3:
        return image
    raise ValueError(
        f"Expected stored images, PIL or (3, H, W) uint8, but got {type(image).__name__}. "
        "Apply the poison to the data set without transforms, and the transforms to the result."
    )


def to_pil(image: Tensor) -> PIL.Image.Image:
    """Convert a (3, H, W) uint8 image to PIL."""
    return PIL.Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def _is_pil(image: Any) -> bool:
    return isinstance(image, PIL.Image.Image)
