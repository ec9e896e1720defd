"""Names of published checkpoints, and where each one lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Kind = Literal["ebm", "ddpm", "denoiser"]

KINDS: tuple[Kind, ...] = get_args(Kind)

PACKAGED_CHECKPOINTS = Path(__file__).parents[1] / "assets" / "checkpoints"


@dataclass(frozen=True, kw_only=True)
class CatalogueEntry:
    """One published checkpoint.

    Args:
        name: what users write as `checkpoint=` (an EBM), `ddpm_checkpoint=` or `denoiser_checkpoint=`.
        kind: of network.
        packaged: shipped inside this package, in `assets/checkpoints/<name>/`; loads without a network.
        repo_id: Hub repository `owner/name`, for an entry that is not packaged.
        revision: commit of `repo_id` to load; None follows its `main` branch.
        sha256: of the weights file; None leaves it unchecked.
    """

    name: str
    kind: Kind = "ebm"
    packaged: bool
    repo_id: str | None = None
    revision: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if self.packaged == (self.repo_id is not None):
            raise ValueError(f"Expected catalogue entry {self.name!r} to be packaged or to have a `repo_id`, not both.")
        if self.repo_id is not None and self.sha256 is not None and self.revision is None:
            raise ValueError(f"Expected a `revision` beside the sha256 of {self.name!r}: `main` may move.")

    @property
    def folder(self) -> Path:
        """The folder of a packaged checkpoint."""
        return PACKAGED_CHECKPOINTS / self.name


DEFAULT_EBM = "ebm-imagenet32-nf64-v2"
DEFAULT_DDPM = "ddpm-imagenet32-32-128"
DEFAULT_DENOISER = "denoiser-photographs-48-128"

_ENTRIES = (
    CatalogueEntry(
        name=DEFAULT_EBM,
        packaged=True,
        sha256="a8fa7db87ac3ceec469a3539e7d4fb28381ec2b08dfb2f9b65c8dd2453c0a882",
    ),
    # The first default, which shifts colors; tables that were measured with it stay reproducible.
    CatalogueEntry(
        name="ebm-imagenet32-nf64",
        packaged=True,
        sha256="1c92f8417521a19bbe3fb84706db30024d5620010bbb1821d9291658423b5e91",
    ),
    CatalogueEntry(
        name=DEFAULT_DDPM,
        kind="ddpm",
        packaged=True,
        sha256="e9fb6b84f660dab0c145c3da2130c49104dea7a2fb068201bce2c695c65eff60",
    ),
    CatalogueEntry(
        name=DEFAULT_DENOISER,
        kind="denoiser",
        packaged=True,
        sha256="d725f3511f7a822c68b310512ed232e16fed59dc79655d6c52c39fe42af961e1",
    ),
    # The paper authors' own weights. They follow `main`, as no commit has been reviewed here.
    CatalogueEntry(
        name="puregen-ebm-cinic10-imagenet",
        packaged=False,
        repo_id="SunayBhat1/puregen-ebm-cinic10-imagenet",
    ),
    CatalogueEntry(
        name="puregen-ddpm-cinic10-imagenet",
        kind="ddpm",
        packaged=False,
        repo_id="SunayBhat1/puregen-ddpm-cinic10-imagenet",
    ),
)

CATALOGUE: Mapping[str, CatalogueEntry] = {entry.name: entry for entry in _ENTRIES}
