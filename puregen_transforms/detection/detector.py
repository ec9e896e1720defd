"""What a detector is: it is given a set that may be poisoned, and scores and flags its images."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from puregen_transforms._progress import Progress, silent
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.labels import Labels, class_indices
from puregen_transforms.data.mapped import bytes_of, stacked_images
from puregen_transforms.data.pictures import Pictures
from puregen_transforms.detection.report import DetectionReport, count_by_class
from puregen_transforms.functional.images import rounded
from puregen_transforms.functional.memory import give_back_freed_memory
from puregen_transforms.purifier.device import choose_device
from puregen_transforms.transforms.formats import open_image

NEEDS = {
    "labels": "the class of each image (`labels`)",
    "reserved": "a clean labelled set of the same classes (`reserved`)",
    "network": "a classifier that was trained on the set (`network`)",
}
"""What a detector may need beside the images."""


_NAMED_BY = 32
"""Steps between the images that name a set which is not held in memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SuspectSet:
    """All that a detector is given; whether an image is poisoned is not in it.

    Args:
        images: (N, 3, H, W) uint8 tensor, or a sequence of images in any form that `PureGen` takes, read by row as
            needed; None stands for a missing image.
        labels: (N,) int64 class of each image, negative where it has none; None without labels.
        class_names: by label; may be empty.
        reserved: clean images of the same classes, for detectors that need them.
        network: a classifier trained on the set, on `device`: (N, 3, H, W) in [-1, 1] -> (N, classes) logits.
        seed: of all that is random.
        device: where to work.
        state: folder for what is finished, from which a killed search goes on; None keeps nothing.
        progress: told what is being done.
        known: reports of other detectors on the same set, by name, for those that put several together.
    """

    images: Sequence[Any] | Tensor
    labels: Tensor | None = None
    class_names: tuple[str, ...] = ()
    reserved: ImageSet | None = None
    network: nn.Module | None = None
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    state: Path | None = None
    progress: Progress = silent
    known: Mapping[str, DetectionReport] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def tensor(self) -> Tensor:
        """Read all images as one (N, 3, H, W) uint8 tensor, in a file of `state` if they are too many for the memory.

        Raises:
            ValueError: no images, a row without one or with one that cannot be read, or images of several sizes.
        """
        if not len(self):
            raise ValueError("Expected at least one image, but got none.")
        if isinstance(self.images, Tensor) and self.images.dtype == torch.uint8 and self.images.shape[1:2] == (3,):
            return self.images
        return stacked_images(self._same_size(), folder=self.state)

    def read(self, row: int) -> Tensor | None:
        """Read one image as (3, H, W) uint8; None where there is none.

        Raises:
            ValueError: it cannot be read, or there are several in the row.
        """
        return self._read(row, lambda: self.images[row])

    def each(self) -> Iterator[Tensor | None]:
        """Read one image after the other, which is faster; see `read`."""
        values = iter(self.images)
        for row in range(len(self)):
            yield self._read(row, lambda: next(values))
        if isinstance(self.images, Pictures):
            self.images.release()

    def _read(self, row: int, get: Callable[[], Any]) -> Tensor | None:
        try:
            value = get()
            if value is None:
                return None
            image = rounded(open_image(value).rgb)
        except (ValueError, TypeError, OSError, SyntaxError) as error:
            raise ValueError(
                f"Expected an image that can be read in row {row}, but got: {error} Repair or remove it."
            ) from error
        if len(image) != 1:
            raise ValueError(f"Expected one image in row {row}, but got {len(image)}.")
        return image[0]

    def fingerprint(self) -> str:
        """Name what a search is given by its content; of images that are not held in memory, by that of some."""
        digest = hashlib.sha256(json.dumps([self.seed, len(self)]).encode())
        parts = self._parts()
        others = [] if self.labels is None else [self.labels]
        others += [] if self.reserved is None else [self.reserved.images, self.reserved.labels]
        for part in chain(parts, others):
            for piece in bytes_of(part):
                digest.update(piece)
        for name, values in () if self.network is None else self.network.state_dict().items():
            digest.update(name.encode() + values.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _parts(self) -> Sequence[Tensor]:
        """Give the images that name the set."""
        return [self.images] if isinstance(self.images, Tensor) else self._some()

    def _some(self) -> list[Tensor]:
        """Read some images from the first row to the last, without those that are missing or cannot be read."""
        found = []
        for row in sorted({round(place * (len(self) - 1) / _NAMED_BY) for place in range(_NAMED_BY + 1)}):
            with suppress(ValueError):
                found.append(self.read(row))
        return [image for image in found if image is not None]

    def _same_size(self) -> Iterator[Tensor]:
        first: torch.Size | None = None
        for row, image in enumerate(self.each()):
            if image is None:
                raise ValueError(f"Expected an image in each row, but row {row} has none. Leave such rows out.")
            first = first or image.shape
            if image.shape != first:
                raise ValueError(
                    f"Expected images of one size, as a network is trained on them, but got {image.shape[-1]}x"
                    f"{image.shape[-2]} pixels in row {row} after {first[-1]}x{first[-2]}. Resize them."
                )
            yield image


class Detector(Protocol):
    """Finds poisoned images. Make one as a dataclass whose fields are its settings, derived from this."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Which of `NEEDS` it cannot do without."""

    uses: ClassVar[frozenset[str]] = frozenset()
    """Which others of `NEEDS` save it work, where they are given."""

    least_classes: ClassVar[int] = 1
    """Classes that a set must have, for detectors that compare them with each other."""

    version: ClassVar[int] = 1
    """Raised when the same settings give another result than before."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Settings that differ from the defaults, by preset: "smoke" (seconds), "cpu" (2 cores), "paper" (as published).
    Detectors that take no longer than a look at every image have none."""

    @classmethod
    def preset(cls, name: str, **settings: Any) -> Self:
        """Make a detector with the settings of a preset, some of them replaced.

        Raises:
            ValueError: an unknown preset, or a value out of range.
        """
        if name not in cls.presets:
            known = f"out of {', '.join(cls.presets)}" if cls.presets else "of another detector, as this has none"
            raise ValueError(f"Expected a preset {known}, but got {name!r} for {cls.__name__}.")
        return cls(**{**cls.presets[name], **settings})

    def identity(self) -> Any:
        """Name, JSON-ready, what decides the result beside settings and data, such as the hash of weights."""
        return None

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Score and flag every image; name, counts by class, settings and time are filled in afterwards."""
        ...


def run_detector(
    name: str,
    detector: Detector,
    images: Sequence[Any] | Tensor,
    labels: Labels | None = None,
    *,
    class_names: Sequence[str] = (),
    reserved: ImageSet | None = None,
    network: nn.Module | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    state: Path | None = None,
    progress: Progress = silent,
    known: Mapping[str, DetectionReport] | None = None,
) -> DetectionReport:
    """Search a set with a detector, and check what it returns; see `SuspectSet` for the arguments.

    Raises:
        ValueError: something that the detector needs is missing, labels that do not fit, or the detector returned
            another number of scores or flagged rows without an image.
        FloatingPointError: a score that is not finite.
    """
    indices: Tensor | None = None
    names = tuple(class_names)
    if labels is not None:
        indices, names = class_indices(labels, class_names)
        if len(indices) != len(images):
            raise ValueError(f"Expected one label for each of the {len(images)} images, but got {len(indices)}.")
    given = {"labels": indices, "reserved": reserved, "network": network}
    check_needs(name, detector, {need for need, value in given.items() if value is not None})
    suspects = SuspectSet(
        images=images,
        labels=indices,
        class_names=names,
        reserved=reserved,
        network=network,
        seed=seed,
        device=choose_device(device),
        state=state,
        progress=progress,
        known=known or {},
    )
    started = time.perf_counter()
    found = detector.detect(suspects)
    give_back_freed_memory()  # the next search holds things of other sizes
    if len(found) != len(images):
        raise ValueError(f"Expected {len(images)} scores from the detector {name!r}, but got {len(found)}.")
    _check_scores(name, found, images)
    counts = found.classes or count_by_class(found.flagged, indices, names)
    # Through JSON, as a report is saved: tuples become lists, paths words.
    settings: dict[str, Any] = json.loads(json.dumps(asdict(detector), default=str)) if is_dataclass(detector) else {}
    about = {"version": detector.version, "identity": detector.identity(), "seed": seed}
    return replace(
        found,
        detector=name,
        classes=counts,
        settings={**settings, **about, **found.settings},
        seconds=time.perf_counter() - started,
    )


def check_needs(name: str, detector: Detector, given: Set[str]) -> None:
    """Refuse to run a detector without something that it needs.

    Args:
        name: of the detector.
        detector: with its settings.
        given: which of `NEEDS` there are.

    Raises:
        ValueError: something is missing.
    """
    for need in sorted(detector.needs - given):
        raise ValueError(f"Expected {NEEDS[need]}, which the detector {name!r} needs, but got none.")


def _check_scores(name: str, found: DetectionReport, images: Sequence[Any] | Tensor) -> None:
    """Refuse scores that are not finite, but where there is no image; there nothing may be flagged."""
    missing = found.scores.isnan()
    if found.scores.isinf().any() or (isinstance(images, Tensor) and missing.any()):
        bad = (~found.scores.isfinite()).nonzero().flatten().tolist()
        raise FloatingPointError(f"The scores of the detector {name!r} are not finite in rows {bad[:8]}.")
    if (found.flagged & missing).any():
        raise ValueError(f"The detector {name!r} flagged rows that hold no image.")
