"""The rule by which a data set is cleaned: how much is searched, and what becomes of flagged and of other images."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection.searches import BUDGETS
from puregen_transforms.whole_sets.storage import LOSSLESS, Storage

DROP, PURIFY, QUARANTINE, KEEP = "drop", "purify", "quarantine", "keep"

FLAGGED, OTHERS = (DROP, PURIFY, QUARANTINE), (KEEP, PURIFY)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The options that decide, with the data, which images a clean copy has.

    Args:
        flagged: "drop" leaves images out that the searches hold for poisoned; "quarantine" also copies them into a
            folder of their own; "purify" keeps them, purified.
        others: "keep" copies all other images byte for byte, "purify" purifies them.
        doubtful: whether images that are merely doubtful count as flagged.
        budget: how much is searched: "2m", "20m" or "full"; see `search_set`.
        epochs: of the classifier that some searches look into.
        seed: of all that is random.
        size: in pixels, to which images are resized for the search; None takes them as they are.
        column: of images; None takes the only one.
        label_column: of classes; None takes the one marked as such.
        reserved: names the content of the clean set that searches were given; None without one.
        decisions: names the content of a person's decisions, see `Decisions.name`; None without any.

    Raises:
        ValueError: a value that is none of these.
    """

    flagged: str = DROP
    others: str = KEEP
    doubtful: bool = False
    budget: str = "20m"
    epochs: int = 12
    seed: int = 0
    size: int | None = None
    column: str | int | None = None
    label_column: str | int | None = None
    reserved: str | None = None
    decisions: str | None = None

    def __post_init__(self) -> None:
        for name, known in (("flagged", FLAGGED), ("others", OTHERS), ("budget", tuple(BUDGETS))):
            if getattr(self, name) not in known:
                raise ValueError(f"Expected `{name}` out of {', '.join(known)}, but got {getattr(self, name)!r}.")

    @property
    def leaves_out(self) -> bool:
        """Whether flagged images are not in the copy."""
        return self.flagged != PURIFY

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record."""
        return asdict(self)


def check_storage(storage: Storage, rule: Rule) -> None:
    """Refuse to choose how images are stored that are all copied byte for byte.

    Raises:
        ValueError: no image is purified or converted.
    """
    if storage != LOSSLESS and not storage.convert and PURIFY not in (rule.flagged, rule.others):
        raise ValueError(
            "Expected a format, a quality or names to keep where images are purified or converted, but all are copied "
            "byte for byte. Leave that out, or purify (`flagged`, `others`) or convert them (`convert`, --convert)."
        )


def name_of_reserved(reserved: ImageSet | None) -> str | None:
    """Name a clean set by its images and labels."""
    if reserved is None:
        return None
    content = hashlib.sha256()
    for part in (reserved.images, reserved.labels):
        content.update(part.contiguous().numpy().tobytes())
    return content.hexdigest()[:16]
