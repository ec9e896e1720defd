"""Poison a map-style torch data set while it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset as TorchDataset

from puregen_transforms.attacks.stored_images import is_pil, to_pil, to_tensor
from puregen_transforms.data.sample_transforms import transforms_of, without_transforms

if TYPE_CHECKING:
    from puregen_transforms.attacks.poison import Poison


class PoisonedDataset(TorchDataset):  # type: ignore[type-arg]
    """Replace some rows of a map-style torch data set; every other attribute is the data set's own."""

    def __init__(self, dataset: Any, poison: Poison) -> None:
        self.dataset = without_transforms(dataset)
        self.poison = poison
        own = transforms_of(dataset)
        self.transform, self.target_transform = own.get("transform"), own.get("target_transform")
        self.transforms = own.get("transforms")
        self.by_row = own.get("by_row")
        self._place_of = poison.places()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        index = range(len(self))[index]
        image, label, *rest = self.dataset[index]
        place = self._place_of.get(index)
        if place is not None:
            self.poison.check_original(place, to_tensor(image))
            label = self.poison.label_of(place, label)
            image = to_pil(self.poison.images[place]) if is_pil(image) else self.poison.images[place].clone()
        return (*self._transformed(index, image, label), *rest)

    def without_transforms(self) -> PoisonedDataset:
        """Copy the data set without its transforms: images are those that are stored, poisoned or not."""
        return PoisonedDataset(self.dataset, self.poison)

    def _transformed(self, row: int, image: Any, label: Any) -> tuple[Any, Any]:
        own = vars(self) if self.by_row is None else self.by_row(row)
        if own.get("transforms") is not None:
            image, label = own["transforms"](image, label)
        if own.get("transform") is not None:
            image = own["transform"](image)
        if own.get("target_transform") is not None:
            label = own["target_transform"](label)
        return image, label

    def __getattr__(self, name: str) -> Any:
        if name in ("dataset", "poison", "by_row") or name.startswith("__"):
            raise AttributeError(name)
        if name == "targets":
            targets = list(self.dataset.targets)
            for place, row in enumerate(self.poison.ids.tolist()):
                targets[row] = self.poison.label_of(place, targets[row])
            return targets
        return getattr(self.dataset, name)
