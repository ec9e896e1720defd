"""Record an attack: what it puts into a training set, and what it does at test time.

On disk a poison is a folder with two files. `poison.safetensors` has the tensors: `ids` (n,) int64, rows of the
training set; `images` (n, 3, H, W) uint8 and `labels` (n,) int64, what those rows become; `covers` (n,) bool; perhaps
`target_images` (k, 3, H, W) uint8, `target_labels` (k,) int64 and `trigger.*`, the tensors of the trigger. Everything
else is in `poison.json`, with the sha256 of the tensors' file. `trigger.form` there says how the trigger acts: see
`puregen_transforms/attacks/trigger_forms.py`. Format 2 adds `goal`, which says what triggered images are to be taken
for (see `puregen_transforms/attacks/aims.py`), and `others`, further triggers with their own aims, whose tensors are
`trigger1.*`, `trigger2.*` and so on; and `norm`, where the budget is of another norm than the largest change of a
pixel. A poison that needs none of them is written in format 1.
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

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from puregen_transforms._files import is_regular, read_json
from puregen_transforms.attacks.aims import ALL_TO_ONE, Aim, check_goal
from puregen_transforms.attacks.poison_checks import check_values
from puregen_transforms.attacks.poisoned_dataset import PoisonedDataset
from puregen_transforms.attacks.stored_images import image_hash, to_pil, to_tensor
from puregen_transforms.attacks.trigger import Trigger
from puregen_transforms.attacks.trigger_forms import to_trigger
from puregen_transforms.data.atomic import complete_or_absent
from puregen_transforms.data.mapped import copied_rows

if TYPE_CHECKING:
    from datasets import Dataset

FORMATS = (1, 2)
NORMS = {
    "linf": "largest change of a pixel, in units of 1/255",
    "l2": "Euclidean length of an image's change, for pixels in [0, 1]",
    "l0": "changed pixels of an image",
}
"""By name, what a budget bounds in each image."""

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
            another goal, and for attacks on all that is learned.
        covers: (n,) bool, the covers: rows with the trigger that keep their label, to hide the others. None is no row.
        source_class: the only class whose triggered images are attacked; None is every class.
        trigger: put on images at test time; None for triggerless attacks, which aim at `target_images`.
        goal: what triggered images are to be taken for, out of `GOALS`.
        others: further triggers, each with its own aim.
        target_images: (k, 3, H, W) uint8, test images to be misread.
        target_labels: (k,) int64, their true labels.
        budget: most that an image is changed, in `norm`; None for attacks that have no such bound.
        norm: what the budget bounds, out of `NORMS`.
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
    goal: str = ALL_TO_ONE
    others: tuple[Aim, ...] = ()
    target_images: Tensor | None = None
    target_labels: Tensor | None = None
    budget: float | None = None
    norm: str = "linf"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    set_rows: int = 0
    class_names: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.covers is None:
            object.__setattr__(self, "covers", torch.zeros(len(self.ids), dtype=torch.bool))
        check_values(self)
        lengths = {len(self.ids), len(self.images), len(self.labels), len(self.covers), len(self.originals)}
        if len(lengths) != 1:
            raise ValueError(f"Expected as many images, labels, covers and originals as ids, but got {lengths}.")
        if not bool((self.ids[1:] > self.ids[:-1]).all()):
            raise ValueError("Expected `ids` in increasing order, each once.")
        if len(self.ids) and not 0 <= int(self.ids[0]) <= int(self.ids[-1]) < self.set_rows:
            raise ValueError(f"Expected `ids` of a set of {self.set_rows} rows, but got {int(self.ids[-1])}.")
        check_goal(self.goal)
        if self.norm not in NORMS:
            raise ValueError(f"Expected a norm out of {', '.join(NORMS)}, but got {self.norm!r}.")
        if self.trigger is None and (self.others or self.goal != ALL_TO_ONE):
            raise ValueError(
                f"Expected a trigger for the goal {self.goal} with {len(self.others)} others, but got none."
            )
        for aim in self.aims:
            aim.check(len(self.class_names))

    @property
    def aims(self) -> tuple[Aim, ...]:
        """List what each trigger is to do, that of `trigger` first; empty without one."""
        if self.trigger is None:
            return ()
        own = Aim(trigger=self.trigger, goal=self.goal, target_class=self.target_class, source_class=self.source_class)
        return (own, *self.others)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        covers = int(self.covers.sum())
        about = f"{len(self) - covers} poisoned" + (f" and {covers} cover" if covers else "")
        aim = f", {self.goal}" if self.goal != ALL_TO_ONE else ""
        aim += "" if self.target_class is None else f", target class {self.target_class}"
        aim += "".join(f" and {other.target_class}" for other in self.others)
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
            if not is_regular(path / name):
                raise FileNotFoundError(
                    f"Expected a poison with {TENSORS} and {DESCRIPTION}, but {path} has no {name}."
                )
        content = (path / TENSORS).read_bytes()
        try:
            about = read_json(path / DESCRIPTION)
            tensors = parse_safetensors(content)
            if about["format"] not in FORMATS:
                raise ValueError(f"it is of format {about['format']}, and this version reads up to {FORMATS[-1]}")
            if hashlib.sha256(content).hexdigest() != about["tensors_sha256"]:
                raise ValueError(f"{TENSORS} is not the file that {DESCRIPTION} was written with")
            own: dict[str, Any] = {name: tensors.pop(name, None) for name in _OWN_TENSORS}
            form = about.pop("trigger")
            trigger = _read_trigger(form, "trigger", tensors) if form else None
            others = tuple(
                Aim(trigger=_read_trigger(aim.pop("trigger"), f"trigger{number}", tensors), **aim)
                for number, aim in enumerate(about.pop("others", ()), 1)
            )
            if tensors:
                raise ValueError(f"{TENSORS} has {', '.join(tensors)}, which {DESCRIPTION} does not speak of")
            del about["format"], about["tensors_sha256"]
            for name in ("originals", "class_names"):
                about[name] = tuple(about[name])
            return cls(**own, **about, trigger=trigger, others=others)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, SafetensorError) as error:
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
            self.check_original(place, images[row])
        if len(self) and self.images.shape[1:] != images.shape[1:]:
            raise ValueError(f"Expected images of {tuple(self.images.shape[1:])}, but got {tuple(images.shape[1:])}.")
        images, labels = copied_rows(images), labels.clone()
        images[self.ids], labels[self.ids] = self.images, self.labels
        return images, labels

    def trigger_test_set(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Put the trigger on the test images that the attack wants misread; of several triggers, the first.

        Args:
            images: (N, 3, H, W) uint8.
            labels: (N,) int64.

        Returns:
            (M, 3, H, W) uint8, the triggered images of all classes but the target class, or of the source class alone;
            and (M,), their true labels. `wanted_labels` gives the classes as which they are to be misread.

        Raises:
            ValueError: the attack has no trigger.
        """
        return self._first_aim().triggered(images, labels)

    def wanted_labels(self, labels: Tensor) -> Tensor | None:
        """Give the classes as which images from `trigger_test_set`, of these true labels (M,), are to be misread.

        Returns:
            (M,) classes; None where any wrong class will do.

        Raises:
            ValueError: the attack has no trigger.
        """
        return self._first_aim().wanted(labels, len(self.class_names))

    def _first_aim(self) -> Aim:
        if not self.aims:
            where = "it aims at no class" if self.target_images is None else "its targets are in `target_images`"
            raise ValueError(f"Attack {self.attack!r} has no trigger: {where}.")
        return self.aims[0]

    def _apply_to_rows(self, dataset: Dataset, image: str, label: str) -> Dataset:
        from datasets import Image

        place_of = self.places()

        def replace(rows: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
            for position, index in enumerate(indices):
                if index in place_of:
                    place = place_of[index]
                    before = to_tensor(dataset[index][image])
                    self.check_original(place, before)
                    if not torch.equal(before, self.images[place]):  # attacks on labels alone leave the files alone
                        buffer = io.BytesIO()
                        to_pil(self.images[place]).save(buffer, "PNG")
                        rows[image][position] = {"bytes": buffer.getvalue(), "path": None}
                    rows[label][position] = self.label_of(place, rows[label][position])
            return rows

        encoded = dataset.cast_column(image, Image(decode=False))
        # `datasets` takes an earlier result of this name for the new one: all that decides it is in here.
        decided_by = json.dumps([dataset._fingerprint, self.digest, image, label])
        fingerprint = hashlib.sha256(decided_by.encode()).hexdigest()[:16]
        poisoned = encoded.map(replace, with_indices=True, batched=True, new_fingerprint=fingerprint)
        return poisoned.cast(dataset.features)

    def label_of(self, place: int, before: Any) -> Any:
        """Give the new label of a row in the form of its label before: a word or a number."""
        number = int(self.labels[place])
        return self.class_names[number] if isinstance(before, str) else number

    def places(self) -> dict[int, int]:
        """Give the place of each poisoned row in `ids`."""
        return {row: place for place, row in enumerate(self.ids.tolist())}

    def _check_rows(self, rows: int) -> None:
        if rows != self.set_rows:
            raise ValueError(f"Expected the set of {self.set_rows} rows that was attacked, but got one of {rows}.")

    def check_original(self, place: int, image: Tensor) -> None:
        """Raise ValueError unless this is the image that was attacked, before the attack."""
        if image_hash(image) != self.originals[place]:
            raise ValueError(
                f"Expected the set that was attacked, but the image in row {int(self.ids[place])} is another. "
                "Apply the poison to the same images, in the same order and size."
            )

    def _tensor_bytes(self) -> bytes:
        tensors = {name: value for name in _OWN_TENSORS if (value := getattr(self, name)) is not None}
        for number, aim in enumerate(self.aims):
            for name, value in aim.trigger.tensors().items():
                tensors[f"trigger{number or ''}.{name}"] = value
        return to_safetensors({name: value.contiguous().cpu() for name, value in tensors.items()})

    def _description(self, content: bytes) -> str:
        """Write the JSON of the poison whose tensors' file has this content."""
        later: dict[str, Any] = {}
        if self.others or self.goal != ALL_TO_ONE:
            later = {"goal": self.goal, "others": [_describe_aim(aim) for aim in self.others]}
        if self.norm != "linf":
            later["norm"] = self.norm
        about = {
            "format": 2 if later else 1,
            "attack": self.attack,
            "target_class": self.target_class,
            "source_class": self.source_class,
            "budget": self.budget,
            "seed": self.seed,
            "set_rows": self.set_rows,
            "class_names": list(self.class_names),
            "trigger": None if self.trigger is None else _describe_trigger(self.trigger),
            **later,
            "recipe": dict(self.recipe),
            "versions": dict(self.versions),
            "tensors_sha256": hashlib.sha256(content).hexdigest(),
            "originals": list(self.originals),
        }
        return json.dumps(about, indent=2) + "\n"


_OWN_TENSORS = ("ids", "images", "labels", "covers", "target_images", "target_labels")


def _describe_trigger(trigger: Trigger) -> dict[str, Any]:
    return {"form": trigger.form, **trigger.numbers()}


def _describe_aim(aim: Aim) -> dict[str, Any]:
    return {**vars(aim), "trigger": _describe_trigger(aim.trigger)}


def _read_trigger(about: dict[str, Any], name: str, tensors: dict[str, Tensor]) -> Trigger:
    """Build a trigger from its JSON and the tensors under its name, which are taken out."""
    own = [key for key in tensors if key.startswith(f"{name}.")]
    return to_trigger(about.pop("form"), about, {key.removeprefix(f"{name}."): tensors.pop(key) for key in own})
