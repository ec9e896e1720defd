"""`puregen hub`: checkpoints to and from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from puregen_transforms.cli.errors import explain_errors
from puregen_transforms.cli.output import say

app = typer.Typer(
    no_args_is_help=True,
    help="Checkpoints to and from the Hugging Face Hub. The login is that of `hf auth login`, or HF_TOKEN.",
)


@app.command("pull")
def pull(
    reference: Annotated[
        str, typer.Argument(help="Catalogue name, folder, or Hub repository owner/name or owner/name@revision.")
    ],
    folder: Annotated[Path, typer.Argument(help="New folder to copy the checkpoint into.")],
) -> None:
    """Copy a checkpoint into a new folder."""
    from puregen_transforms.hub.publish import pull_checkpoint

    with explain_errors():
        say(pull_checkpoint(reference, folder))


@app.command("push")
def push(
    folder: Annotated[Path, typer.Argument(help="Folder of an EBM, or of a DDPM as diffusers lays it out.")],
    repo_id: Annotated[
        str, typer.Argument(help="Hub repository owner/name, or owner/name@branch; made if it does not exist.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    message: Annotated[str, typer.Option(help="Message of the commit.")] = "Upload a PureGen checkpoint",
) -> None:
    """Check a checkpoint folder and upload it as one commit."""
    from puregen_transforms.hub.publish import push_checkpoint

    with explain_errors():
        say(push_checkpoint(folder, repo_id, private=private, message=message))


@app.command("list")
def list_checkpoints() -> None:
    """List the names that `checkpoint=` (EBM), `ddpm_checkpoint=` (DDPM) and `denoiser_checkpoint=` know."""
    from puregen_transforms.hub.catalogue import CATALOGUE, DEFAULT_DDPM, DEFAULT_DENOISER, DEFAULT_EBM

    width = max(map(len, CATALOGUE))
    for name, entry in CATALOGUE.items():
        place = "packaged" if entry.packaged else f"Hub: {entry.repo_id}"
        default = " (default)" if name in (DEFAULT_EBM, DEFAULT_DDPM, DEFAULT_DENOISER) else ""
        say(f"{name:<{width}}  {entry.kind.upper():<8}  {place}{default}")


@app.command("card")
def card(
    name: Annotated[str, typer.Argument(help="Packaged checkpoint, as `puregen hub list` names it.")],
    output: Annotated[Path | None, typer.Option(help="File to write; default: print it.")] = None,
) -> None:
    """Fill the model card of a packaged checkpoint from its record."""
    with explain_errors():
        from puregen_transforms.hub.cards import fill_card, load_record, write_card

        if output is None:
            say(fill_card(load_record(name)))
            return
        write_card(name, output)
        say(output)
