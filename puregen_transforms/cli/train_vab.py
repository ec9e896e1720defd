"""`puregen train vab`: a clean classifier from a data set that may be poisoned."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from puregen_transforms.cli.data_options import Column, Device, LabelColumn, Seed
from puregen_transforms.cli.errors import explain_errors
from puregen_transforms.cli.options import DATA, METHOD, NETWORKS
from puregen_transforms.cli.output import PlainConsole
from puregen_transforms.cli.progress import shown_progress
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
            help="Settings to begin with: smoke, to see that it runs; cpu, for 2 cores; paper, as published; flagged, "
            "for --flags: a usual training, in which flagged images are learned with other labels; default: flagged "
            "with --flags, else cpu.",
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
            help="report.safetensors of `puregen detect` on SRC: what it flags is suspicious, in place of what the "
            "Victim finds.",
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
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Train a clean classifier on images that may be poisoned: The Victim and The Beneficiary (Zhu et al. 2023).

    One network, the Victim, learns what is suspicious and so gives poison away; the other, the Beneficiary, learns the
    rest, and the suspicious images without their labels. No clean images are needed.

    The folder gets the Beneficiary (`model.safetensors`, `config.json`; `load_classifier` reads it), its card
    `README.md` with `record.json`, and what the Victim holds for poisoned: `report.safetensors`, `images.csv`.

    Several processes share each batch: `torchrun --nproc_per_node 2 -m puregen_transforms train vab ...`.
    """
    with explain_errors():
        check_path(source)
        if output.exists() and not output.is_dir():
            raise NotADirectoryError(f"Expected a folder for the classifier, but {output} is a file.")
        from puregen_transforms.defenses import VictimBeneficiary, build_training_defense
        from puregen_transforms.detection.report import DetectionReport

        chosen_preset = preset or ("cpu" if flags is None else "flagged")
        defense = build_training_defense(NAME, preset=chosen_preset, **parse_settings(setting or []))
        assert isinstance(defense, VictimBeneficiary)
        report = None if flags is None else DetectionReport.load(flags)
        chosen = choose_source(source, split, column, label_column)
        dataset = _read(chosen)
        accelerator = _accelerator(device)
        console = PlainConsole()
        trained = _train(
            defense, dataset, classifier, report, accelerator, seed=seed, device=device, state=output / "state"
        )
        if accelerator is not None and not accelerator.is_main_process:
            return
        found = _report(defense, dataset, trained, seed)
        _write(output, trained.model, found, dataset, chosen, classifier, report)
        shutil.rmtree(output / "state", ignore_errors=True)
        console.print(f"{found}.", highlight=False)
        console.print(f"Classifier and report in {output}.", highlight=False)
        if report is None and float(found.flagged.float().mean()) > _MANY:
            console.print(
                f"The Victim took more than {_MANY:.0%} of the images for suspicious. Poison is seldom so much, and a "
                "classifier that learns so many images without their labels gets worse. `puregen detect` on the same "
                "images splits them better: give its report.safetensors as --flags.",
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


def _accelerator(device: str | None) -> Accelerator | None:
    """Find the processes that a launcher has started; None if there is this one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
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
    import torch

    from puregen_transforms.models.classifiers import build_classifier
    from puregen_transforms.purifier.device import choose_device
    from puregen_transforms.train.recipes import FastRecipe

    chosen = choose_device(device) if accelerator is None else accelerator.device
    console = PlainConsole(stderr=True, quiet=accelerator is not None and not accelerator.is_main_process)

    def build() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build_classifier(classifier, len(dataset.class_names), image_size=dataset.size).to(chosen)

    total = defense.passes(len(dataset), flags)
    with shown_progress(console) as show:
        return defense.train(
            build,
            dataset.images.to(chosen),
            dataset.labels.to(chosen),
            recipe=FastRecipe(),
            seed=seed,
            flags=flags,
            state=state,
            accelerator=accelerator,
            progress=lambda epoch, loss: show(
                "training the Victim and the Beneficiary", epoch, total, note=f"loss {loss:.3f}"
            ),
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
    found.save(output / "report.safetensors")
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
