"""`puregen review`: look at the suspects of a report in a browser, and overrule the verdict."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import Annotated, Any

import typer

from puregen_transforms._files import read_json
from puregen_transforms.cli.data_options import FollowLinks
from puregen_transforms.cli.errors import explain_errors
from puregen_transforms.cli.output import say
from puregen_transforms.data.labelled_source import choose_source
from puregen_transforms.data.local import check_path


def review(
    report: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `puregen detect` or `inspect` wrote.")],
    source: Annotated[
        str | None, typer.Argument(metavar="[SRC]", help="The data set; default: where it was when it was searched.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port on this machine; default: a free one from 7860 on.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    device: Annotated[
        str | None, typer.Option(help="Where images are purified: cpu, cuda, ...; default: a GPU if there is one.")
    ] = None,
    follow_links: FollowLinks = False,
) -> None:
    """Look at the suspects of a report in a browser, and keep or drop them by mouse or keyboard.

    Each decision is written at once to `decisions.jsonl` in DIR, by the content of the image: `puregen detect` and
    `puregen inspect` with the same --output, or with --decisions DIR, hold what you keep for clean and what you drop
    for poisoned, also after files were renamed. The page is for this machine alone; the address that is printed has a
    token that opens it.
    """
    with explain_errors():
        opened = _opened(report, source)
        from puregen_transforms._extras import require_extra

        require_extra("gradio", "app")
        from puregen_transforms.detection.decisions import Decisions
        from puregen_transforms.review.desk import Desk
        from puregen_transforms.review.found import read_headline
        from puregen_transforms.review.serve import serve
        from puregen_transforms.review.suspects import Suspects
        from puregen_transforms.review.views import THUMBNAILS, Views
        from puregen_transforms.transforms.puregen import PureGen

        chosen = choose_source(
            opened["source"],
            opened.get("split"),
            opened.get("column"),
            opened.get("label_column"),
            size=opened.get("size"),
            follow_links=follow_links,
            convert=opened.get("convert") or False,
        )
        suspects = Suspects.open(
            report,
            chosen.images,
            name_of=chosen.name_of,
            class_names=chosen.class_names,
            labels=chosen.labels,
        )
        headline = read_headline(report)
        decisions = Decisions.load(report)
        desk = Desk(suspects=suspects, decisions=decisions, headline=headline.text, level=headline.level, device=device)
        views = Views(suspects, report / THUMBNAILS, PureGen(seed=0, device=device))

        def ready(address: str) -> None:
            say(f"{len(suspects):,} suspects. Open {address}")
            say("Ctrl+C ends it; decisions are saved as they are made.")
            if browser:
                import webbrowser

                webbrowser.open(address)

        serve(desk, views, port=port, ready=ready)


def _opened(report: Path, source: str | None) -> dict[str, Any]:
    """Read how the data set was opened when it was searched.

    Raises:
        FileNotFoundError: no report, or no data set.
        ValueError: a report of another kind.
    """
    path, opened = report / "verdict.json", None
    if path.is_file():
        written = read_json(path)
        opened = written.get("opened") if isinstance(written, dict) else None
    elif (report / "report.safetensors").is_file():  # of one detector, or of a training defense, which keeps no more
        path = report / "opened.json"
        opened = read_json(path) if path.is_file() else {}
    else:
        raise FileNotFoundError(
            f"Expected a report, but there is no {path}. `puregen detect SRC --output DIR` writes one."
        )
    if not isinstance(opened, dict):
        raise ValueError(f"Expected a report of today's version in {report}. Search the set again.")
    for name, kind in {"split": str, "column": str, "label_column": str, "size": int, "convert": bool}.items():
        if not isinstance(opened.get(name), (kind, NoneType)):
            raise ValueError(f"Expected {name!r} of type {kind.__name__} in {path}, but got {opened[name]!r}.")
    if source is None:
        source = opened.get("source")
        if not isinstance(source, str):
            raise ValueError(f"Expected a data set: the report in {report} does not name its own. Name it after DIR.")
    check_path(source)
    return {**opened, "source": source}
