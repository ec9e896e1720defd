"""`puregen train vab`: a clean classifier from a data set that may be poisoned."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from puregen_transforms._progress import silent
from puregen_transforms.cli.data_options import Column, Convert, Device, FollowLinks, LabelColumn, Seed, Size, Yes
from puregen_transforms.cli.errors import explain_errors
from puregen_transforms.cli.options import DATA, METHOD, NETWORKS
from puregen_transforms.cli.output import PlainConsole
from puregen_transforms.cli.progress import shown_progress
from puregen_transforms.cli.searching import STATE, command_line, search_whole, show_verdict, suspects_of
from puregen_transforms.cli.settings import parse_settings
from puregen_transforms.data.labelled_source import ChosenSource, choose_source
from puregen_transforms.data.local import check_path

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from puregen_transforms.data.image_set import ImageSet
    from puregen_transforms.defenses import Trained, VictimBeneficiary
    from puregen_transforms.detection import DetectionReport

NAME = "victim_beneficiary"

REPORT, SEARCH = "report.safetensors", "search"

_UNLEARNABLE = (
    "Expected a set from which something can be learned, but it was made unlearnable: traces in all of its images "
    "stand for their labels. Take it from another source if you can; `puregen inspect` says what weakens such traces."
)

_MANY = 0.25
"""Share of suspicious images above which the Victim is not believed: of a clean set of 10,000 it took 56 %."""


def train_vab(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="Labelled images: a folder of images by class, a Parquet file, a folder of them, a saved data set, or "
            "its name.",
        ),
    ],
    output: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of the classifier; an unfinished run there is resumed.")
    ],
    preset: Annotated[
        Literal["smoke", "cpu", "paper", "flagged"] | None,
        typer.Option(
            help="Settings to begin with. flagged, the default: a usual training, in which images that a search or "
            "--flags holds for poisoned are learned with other labels. As published, with a Victim that splits the "
            "set: smoke, to see that it runs; cpu, for 2 cores; paper.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A setting of VictimBeneficiary; repeat it.", rich_help_panel=METHOD
        ),
    ] = None,
    flags: Annotated[
        Path | None,
        typer.Option(
            metavar="REPORT",
            help="Folder of `puregen detect` or `inspect` on SRC, or a detector's report.safetensors: what it flags is "
            "suspicious. Without it, the set is searched first, unless a Victim splits it.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    classifier: Annotated[
        str, typer.Option(help="Network: small, resnet18, mobilenet_v2 ...", rich_help_panel=NETWORKS)
    ] = "small",
    split: Annotated[
        str | None, typer.Option(help="Split to learn; default: train, or the only one.", rich_help_panel=DATA)
    ] = None,
    column: Column = None,
    label_column: LabelColumn = None,
    size: Size = None,
    follow_links: FollowLinks = False,
    convert: Convert = False,
    seed: Seed = 0,
    device: Device = None,
    yes: Yes = False,
) -> None:
    """Train a clean classifier on images that may be poisoned: The Victim and The Beneficiary (Zhu et al. 2023).

    Suspicious images are found first, by the searches of `puregen detect`; a network, the Beneficiary, learns the rest,
    and later the suspicious ones without their labels. No clean images are needed. As published (`--preset cpu`), a
    second network, the Victim, finds them instead: it learns what is suspicious, and so gives poison away.

    The folder gets the Beneficiary (`model.safetensors`, `config.json`; `load_classifier` reads it), its card
    `README.md` with `record.json`, and what was held for poisoned: `report.safetensors`, `images.csv`, and the report
    of the search in `search/`.

    Several processes share each batch, with `--flags` or as published:
    `torchrun --nproc_per_node 2 -m puregen_transforms train vab ...`.
    """
    with explain_errors():
        check_path(source)
        if output.exists() and not output.is_dir():
            raise NotADirectoryError(f"Expected a folder for the classifier, but {output} is a file.")
        from puregen_transforms.defenses import VictimBeneficiary, build_training_defense

        chosen_preset = preset or "flagged"
        defense = build_training_defense(NAME, preset=chosen_preset, **parse_settings(setting or []))
        assert isinstance(defense, VictimBeneficiary)
        report = None if flags is None else _flags(flags)
        chosen = choose_source(
            source, split, column, label_column, size=size, follow_links=follow_links, convert=convert
        )
        dataset = _read(chosen)
        _build(classifier, dataset, seed)  # what is wrong with it is said before the search
        if report is None and chosen_preset == "flagged":
            if _processes() > 1:
                raise ValueError(
                    "Expected --flags, or a preset with a Victim, where several processes train: one searches the set. "
                    f"Before, run {command_line(['detect', source], {'--output': f'{output}-search'})}"
                )
            report = _search(chosen, output / SEARCH, seed=seed, device=device, yes=yes)
        accelerator = _accelerator(device)
        console = PlainConsole()
        trained = _train(
            defense, dataset, classifier, report, accelerator, seed=seed, device=device, state=output / STATE
        )
        if accelerator is not None and not accelerator.is_main_process:
            return
        found = _report(defense, dataset, trained, seed)
        _write(output, trained.model, found, dataset, chosen, classifier, report)
        for state in (output / STATE, output / SEARCH / STATE):
            shutil.rmtree(state, ignore_errors=True)
        console.print(f"{found}.", highlight=False)
        console.print(f"Classifier and report in {output}.", highlight=False)
        if report is None and float(found.flagged.float().mean()) > _MANY:
            console.print(
                f"The Victim took more than {_MANY:.0%} of the images for suspicious. Poison is seldom so much, and a "
                "classifier that learns so many images without their labels gets worse. The searches of "
                "`puregen detect` split them better: leave --preset out.",
                highlight=False,
            )


def _read(chosen: ChosenSource) -> ImageSet:
    """Read the images and their classes.

    Raises:
        ValueError: images without a label, or of several sizes.
    """
    from puregen_transforms.data.image_set import ImageSet

    if chosen.labels is None:
        raise ValueError("Expected a class of each image, but found none. Name their column with --label-column.")
    names = chosen.class_names or tuple(str(label) for label in range(max(chosen.labels, default=0) + 1))
    return ImageSet.from_pairs(zip(chosen.images, chosen.labels, strict=True), names)


def _flags(path: Path) -> DetectionReport:
    """Read what a report flags: that of one detector, or of a whole search, as a person may have overruled it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: another file, or a set of which the report says that nothing in it can be learned.
    """
    from puregen_transforms.detection.report import DetectionReport
    from puregen_transforms.detection.verdict import MADE_UNLEARNABLE
    from puregen_transforms.inspection.image_scores import ImageScores
    from puregen_transforms.review.found import read_headline

    if not path.is_dir() or (path / REPORT).is_file():
        return DetectionReport.load(path / REPORT if path.is_dir() else path)
    found = ImageScores.load(path)
    if read_headline(path).level == MADE_UNLEARNABLE:
        raise ValueError(_UNLEARNABLE)
    return DetectionReport(scores=found.poison_scores, flagged=found.is_poison_suspect, detector="whole_search")


def _search(chosen: ChosenSource, output: Path, *, seed: int, device: str | None, yes: bool) -> DetectionReport:
    """Search the set as `puregen detect` does, and write the report; a search that was killed goes on.

    Raises:
        ValueError: the set was made unlearnable.
    """
    from puregen_transforms.detection.verdict import MADE_UNLEARNABLE
    from puregen_transforms.detection.whole_search import WholeSearch

    suspects, detector = suspects_of(chosen, output, seed, device, silent), WholeSearch()
    verdict = search_whole(suspects, budget=detector.budget, epochs=12, yes=yes)
    show_verdict(PlainConsole(), verdict, chosen, output, chosen.facts)
    if verdict.level == MADE_UNLEARNABLE:
        raise ValueError(_UNLEARNABLE)
    return replace(detector.report_of(verdict, suspects), detector="whole_search")


def _build(classifier: str, dataset: ImageSet, seed: int) -> nn.Module:
    """Make the network with its first weights."""
    import torch

    from puregen_transforms.models.classifiers import build_classifier

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_classifier(classifier, len(dataset.class_names), image_size=dataset.size)


def _processes() -> int:
    """Count the processes of the launcher; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _accelerator(device: str | None) -> Accelerator | None:
    """Find the processes that a launcher has started; None if there is this one alone."""
    if _processes() == 1:
        return None
    from accelerate import Accelerator

    from puregen_transforms.purifier.device import choose_device

    return Accelerator(cpu=choose_device(device).type == "cpu", mixed_precision="no")


def _train(
    defense: VictimBeneficiary,
    dataset: ImageSet,
    classifier: str,
    flags: DetectionReport | None,
    accelerator: Accelerator | None,
    *,
    seed: int,
    device: str | None,
    state: Path,
) -> Trained:
    from puregen_transforms.purifier.device import choose_device
    from puregen_transforms.train.recipes import FastRecipe

    chosen = choose_device(device) if accelerator is None else accelerator.device
    console = PlainConsole(stderr=True, quiet=accelerator is not None and not accelerator.is_main_process)
    total = defense.passes(len(dataset), flags)
    words = "training the Victim and the Beneficiary" if flags is None else "training the Beneficiary"
    with shown_progress(console) as show:
        return defense.train(
            lambda: _build(classifier, dataset, seed).to(chosen),
            dataset.images.to(chosen),
            dataset.labels.to(chosen),
            recipe=FastRecipe(),
            seed=seed,
            flags=flags,
            state=state,
            accelerator=accelerator,
            progress=lambda epoch, loss: show(words, epoch, total, note=f"loss {loss:.3f}"),
        )


def _report(defense: VictimBeneficiary, dataset: ImageSet, trained: Trained, seed: int) -> DetectionReport:
    """Write down what was suspicious at the end as a detection report."""
    import json
    from dataclasses import asdict

    from puregen_transforms.detection.report import DetectionReport, count_by_class

    assert trained.flagged is not None and trained.scores is not None
    settings = json.loads(json.dumps(asdict(defense)))
    return DetectionReport(
        scores=trained.scores,
        flagged=trained.flagged,
        detector=NAME,
        classes=count_by_class(trained.flagged, dataset.labels, dataset.class_names),
        settings={**settings, "version": defense.version, "seed": seed},
    )


def _write(
    output: Path,
    model: nn.Module,
    found: DetectionReport,
    dataset: ImageSet,
    chosen: ChosenSource,
    classifier: str,
    flags: DetectionReport | None,
) -> None:
    """Write classifier, card, record and report."""
    from puregen_transforms._files import hash_file, write_atomically
    from puregen_transforms.evaluate.records import describe_machine, write_record
    from puregen_transforms.models.file_names import CLASSIFIER_WEIGHTS_FILE
    from puregen_transforms.models.saved_classifier import save_classifier

    save_classifier(model, output, name=classifier, class_names=dataset.class_names, image_size=dataset.size)
    record = {
        "kind": "classifier",
        "classifier": classifier,
        "class_names": list(dataset.class_names),
        "image_size": list(dataset.size),
        "images": len(dataset),
        "flagged": int(found.flagged.sum()),
        "split_by": "the Victim" if flags is None else flags.detector or "given flags",
        "data": dict(chosen.facts),
        "settings": dict(found.settings),
        "weights_sha256": hash_file(output / CLASSIFIER_WEIGHTS_FILE),
        "command": shlex.join(["puregen", *sys.argv[1:]]),
        **describe_machine(),
    }
    write_record(output / "record.json", record)
    write_atomically(output / "README.md", _card(record).encode("utf-8"))
    found.save(output / REPORT)
    names = [chosen.name_of(row) or "" for row in range(len(dataset))]
    found.to_csv(output / "images.csv", names=names if any(names) else None)


def _card(record: Mapping[str, Any]) -> str:
    """Fill the card of a classifier, every fact of which comes from the record."""
    height, width = record["image_size"]
    settings = "\n".join(f"| {name} | {value} |" for name, value in record["settings"].items())
    return f"""# Classifier trained with The Victim and The Beneficiary

A `{record["classifier"]}` for {len(record["class_names"])} classes of images of {width}x{height} pixels, trained on
{record["images"]:,} images that may be poisoned. {record["flagged"]:,} of them were suspicious at the end (split by
{record["split_by"]}); their labels were not trusted. `images.csv` and `report.safetensors` name them.

Its accuracy was not measured, and nothing proves that it has no backdoor: try it on test images of your own.

```python
from puregen_transforms.functional import normalize
from puregen_transforms.models import load_classifier

saved = load_classifier("this folder")
scores = saved.model(normalize(images))  # images: (N, 3, {height}, {width}) uint8
names = [saved.class_names[label] for label in scores.argmax(1).tolist()]
```

| | |
|---|---|
| data | {", ".join(f"{key} {value}" for key, value in record["data"].items())} |
| weights, SHA-256 | `{record["weights_sha256"]}` |
| made on | {record["machine"]}{f", {record['gpu']}" if record["gpu"] else ""} |
| versions | {", ".join(f"{name} {version}" for name, version in record["versions"].items())} |

| setting | |
|---|---|
{settings}

```
{record["command"]}
```
"""
