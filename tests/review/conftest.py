"""A folder of images in which dogs carry a stamp, with names that are markup, and its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from puregen_transforms.data.demo import CLASSES, load_demo
from puregen_transforms.data.labelled_source import choose_source
from puregen_transforms.detection import detect
from puregen_transforms.detection.decisions import Decisions
from puregen_transforms.detection.searches import SEARCHES
from puregen_transforms.detection.verdict import Searched, conclude
from puregen_transforms.inspection.origin import Origin
from puregen_transforms.inspection.page import write_verdict
from puregen_transforms.review.desk import Desk
from puregen_transforms.review.suspects import Suspects

EVIL_CLASS = "dog <script>alert(1)<&script>"
EVIL = (
    "<img src=x onerror=alert(1)>.png",
    "${alert(1)}{{alert(1)}}.png",
    "a\nb\"'.png",
    "\x1b[31mred\u202egnp.png",
    "n" * 251 + ".png",
)


@dataclass(frozen=True)
class SearchedFolder:
    folder: Path
    report: Path

    def desk(self, decisions: Decisions | None = None) -> Desk:
        chosen = choose_source(str(self.folder), None, None, None)
        suspects = Suspects.open(self.report, chosen.images, name_of=chosen.name_of, class_names=chosen.class_names)
        return Desk(
            suspects=suspects,
            decisions=Decisions() if decisions is None else decisions,
            headline="Poisoned: <b>20</b>",
            level="poisoned",
        )


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> SearchedFolder:
    home = tmp_path_factory.mktemp("review")
    demo = load_demo()
    images, labels = demo.images.clone(), demo.labels.clone()
    board = 255 * (torch.arange(4)[:, None] + torch.arange(4) + 1).remainder(2).to(torch.uint8)
    rows = range(0, 200, 10)
    for row in rows:
        images[row, :, 28:, 28:] = board
        labels[row] = CLASSES.index("dog")
    names = {row: EVIL[number] if number < len(EVIL) else f"{row:04}.png" for number, row in enumerate(rows)}
    for row, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        folder = home / "set" / (EVIL_CLASS if CLASSES[label] == "dog" else CLASSES[label])
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        with (folder / names.get(row, f"{row:04}.png")).open("wb") as file:
            picture.save(file, "PNG")
    (home / "private.txt").write_text("a secret beside the set")
    chosen = choose_source(str(home / "set"), None, None, None)
    given = torch.tensor(chosen.labels)
    made = [
        Searched(search=search, report=detect(search.name, chosen.images, given, class_names=chosen.class_names))
        for search in SEARCHES
        if search.name in ("stamps", "residual_patterns")
    ]
    verdict = conclude(made, [], len(given), labels=given)
    origin = Origin(images=chosen.images, facts=chosen.facts, name_of=chosen.name_of, opened=chosen.opened)
    write_verdict(verdict, home / "report", origin, labels=given, class_names=chosen.class_names)
    assert int(verdict.flagged.sum()) == 20
    return SearchedFolder(home / "set", home / "report")
