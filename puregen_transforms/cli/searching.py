"""What the commands that search a data set share: the set to search, its clean images, and the verdict in words."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from puregen_transforms._text import shown
from puregen_transforms.cli.consent import ask_before
from puregen_transforms.cli.output import PlainConsole, say
from puregen_transforms.cli.progress import shown_progress
from puregen_transforms.data.labelled_source import ChosenSource
from puregen_transforms.data.local import check_path

if TYPE_CHECKING:
    from puregen_transforms._progress import Progress
    from puregen_transforms.data.image_set import ImageSet
    from puregen_transforms.detection import Detector, SuspectSet
    from puregen_transforms.detection.decisions import Decisions
    from puregen_transforms.detection.verdict import Verdict
    from puregen_transforms.detection.whole_search import WholeSetSearch
    from puregen_transforms.inspection.origin import Origin

STATE = "state"
"""Folder in the report's, for what is finished of a search that may be killed."""


def suspects_of(chosen: ChosenSource, output: Path, seed: int, device: str | None, progress: Progress) -> SuspectSet:
    """Describe the set that is searched."""
    import torch

    from puregen_transforms.detection.detector import SuspectSet
    from puregen_transforms.purifier.device import choose_device

    return SuspectSet(
        images=chosen.images,
        labels=None if chosen.labels is None else torch.tensor(chosen.labels),
        class_names=chosen.class_names,
        seed=seed,
        device=choose_device(device),
        state=output / STATE,
        progress=progress,
    )


def agree_to_search(suspects: SuspectSet, detectors: Iterable[Detector], *, epochs: int, yes: bool) -> None:
    """Say how long the longest parts of a search will take, and ask where it is much.

    A search that an earlier run has begun is not asked about again: how much of it is left is not known.

    Args:
        suspects: the set.
        detectors: that will search it.
        epochs: see `time_of`.
        yes: whether the answer was given on the command line.

    Raises:
        typer.Exit: the answer is no.
    """
    from puregen_transforms.detection.search_time import time_of

    found = time_of(suspects, detectors, epochs=epochs)
    if not found:
        return
    begun = suspects.state is not None and suspects.state.exists()
    say(f"{found}{' An earlier run has done some of it.' if begun else ''}", err=True)
    ask_before(found.total, yes=yes or begun)


def choose_search(engine: str, actors: int | None) -> WholeSetSearch | None:
    """Choose who makes the searches of a set.

    Args:
        engine: "local" or "ray".
        actors: of Ray; None lets it choose.

    Returns:
        None for this process, by `search_set`.

    Raises:
        ValueError: actors for another engine.
        ImportError: Ray is not installed.
    """
    if engine == "ray":
        from puregen_transforms._extras import require_extra
        from puregen_transforms.detection.ray_engine import search_with_ray

        require_extra("ray", "ray")  # said before anything is read
        return partial(search_with_ray, actors=actors)
    if actors is not None:
        raise ValueError("Expected --actors with --engine ray alone, but got it with engine local.")
    return None


def read_reserved(source: str | None, chosen: ChosenSource, size: int | None = None) -> ImageSet | None:
    """Read the reserved set.

    Raises:
        ValueError: its classes are others.
    """
    if source is None:
        return None
    from puregen_transforms.data.image_set import ImageSet

    check_path(source)
    found = ImageSet.load(source, size=size, convert=chosen.convert)
    return found.with_classes(chosen.class_names, what="reserved set") if chosen.class_names else found


def check_output(output: Path) -> None:
    """Refuse a file where the folder of a report should be.

    Raises:
        NotADirectoryError: it is a file.
    """
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"Expected a folder for the report, but {output} is a file.")


def read_decisions(decided: Path | None, output: Path) -> Decisions:
    """Read what a person decided about images.

    Raises:
        FileNotFoundError: what was named is not there.
        ValueError: it holds no decisions.
    """
    from puregen_transforms.detection.decisions import Decisions

    if decided is not None and not decided.exists():
        raise FileNotFoundError(f"Expected the file of decisions, or a report's folder, but there is no {decided}.")
    return Decisions.load(output if decided is None else decided)


def search_whole(
    suspects: SuspectSet, search: WholeSetSearch | None = None, *, budget: str, epochs: int, yes: bool
) -> Verdict:
    """Make every search that fits; what is finished is kept in the folder until all are.

    Args:
        suspects: the set.
        search: makes them; None does it here, and says before how long it will take.
        budget: see `search_set`.
        epochs: of the classifier that is searched.
        yes: see `agree_to_search`.
    """
    from puregen_transforms.detection.whole_search import detectors_of, search_set, train_small

    if search is None:
        agree_to_search(suspects, detectors_of(suspects, budget), epochs=epochs, yes=yes)
    with shown_progress(PlainConsole(stderr=True)) as progress:
        suspects = replace(suspects, progress=progress)
        return (search or search_set)(suspects, budget=budget, train=partial(train_small, epochs=epochs))


def origin_of(chosen: ChosenSource, facts: Mapping[str, str]) -> Origin:
    """Describe the set that was searched, for a report."""
    from puregen_transforms.inspection.origin import Origin

    return Origin(images=chosen.images, facts=facts, name_of=chosen.name_of, opened=chosen.opened)


def show_verdict(
    console: Console, verdict: Verdict, chosen: ChosenSource, output: Path, facts: Mapping[str, str]
) -> None:
    """Write the report of a whole search into a folder, and print the verdict."""
    import torch

    from puregen_transforms.inspection.page import write_verdict

    labels = None if chosen.labels is None else torch.tensor(chosen.labels)
    page = write_verdict(verdict, output, origin_of(chosen, facts), labels=labels, class_names=chosen.class_names)
    print_verdict(console, verdict)
    console.print(f"Look at {page}.", highlight=False)


def print_verdict(console: Console, verdict: Verdict) -> None:
    """Print a verdict, what each search found, and what was not looked for."""
    console.print(verdict.headline, highlight=False, style="bold")
    for one in verdict.made:
        count = int((one.report.flagged | one.doubtful).sum())
        kind = f" ({one.search.means})" if count else ""
        console.print(f"  {one.search.name}: {count:,} images{kind}", highlight=False)
    console.print("Not looked for, so it could still be there:", highlight=False)
    for line in verdict.not_looked_for:
        console.print(Padding(Text(shown(line)), (0, 0, 0, 2)))


def command_line(words: Sequence[str], options: Mapping[str, object]) -> str:
    """Write a command to paste into a shell, with the options that have a value; of a flag, if it is set."""
    given: list[object] = []
    for name, value in options.items():
        if value is not None and value is not False:
            given += [name] if value is True else [name, value]
    return shlex.join(["puregen", *words, *map(str, given)])
