"""The `puregen` command."""

from __future__ import annotations

from typing import Annotated

import typer

from puregen_transforms import __version__
from puregen_transforms.cli import hub, train
from puregen_transforms.cli.attack import attack
from puregen_transforms.cli.clean import clean
from puregen_transforms.cli.demo import demo
from puregen_transforms.cli.detect import detect
from puregen_transforms.cli.doctor import doctor
from puregen_transforms.cli.evaluate import evaluate, report
from puregen_transforms.cli.inspect import inspect
from puregen_transforms.cli.output import say
from puregen_transforms.cli.purify import purify
from puregen_transforms.cli.review import review
from puregen_transforms.cli.verify import verify

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Repair possibly poisoned image data.")
app.command()(demo)
app.command()(purify)
app.command()(verify)
app.command()(inspect)
app.command()(detect)
app.command()(review)
app.command()(clean)
app.command()(attack)
app.command()(evaluate)
app.command()(report)
app.add_typer(train.app, name="train")
app.add_typer(hub.app, name="hub")
app.command()(doctor)


def _show_version(asked: bool) -> None:
    if asked:
        say(f"puregen-transforms {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Repair possibly poisoned image data before training on it."""


if __name__ == "__main__":
    app()
