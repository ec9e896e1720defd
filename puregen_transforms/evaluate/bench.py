"""Cells of a benchmark, computed one by one or in several processes; what is finished is kept."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from puregen_transforms._progress import Progress
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.data.mapped import changed_rows, copied_rows
from puregen_transforms.defenses.registry import TRAINING_DEFENSES
from puregen_transforms.defenses.training_defense import Trained
from puregen_transforms.detection.detector import run_detector
from puregen_transforms.detection.registry import build_detector
from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.detection.whole_search import WholeSearch
from puregen_transforms.evaluate.before_after import compare
from puregen_transforms.evaluate.cells import Cell, Component, DefenseSpec, VictimSpec
from puregen_transforms.evaluate.crafting import Workshop
from puregen_transforms.evaluate.defend import KeptPurifier, defend, identity_of
from puregen_transforms.evaluate.frozen import DEFAULT_BACKBONE, frozen_features
from puregen_transforms.evaluate.judge import Judge
from puregen_transforms.evaluate.looks import describe_looks
from puregen_transforms.evaluate.metrics import detection
from puregen_transforms.evaluate.mixed import describe_mixing
from puregen_transforms.evaluate.portable import portable
from puregen_transforms.evaluate.records import describe_machine
from puregen_transforms.evaluate.sets import Sets
from puregen_transforms.evaluate.store import Store, fingerprint, name_of
from puregen_transforms.evaluate.victim import accuracy, poison_success, success_by_trigger
from puregen_transforms.evaluate.victims import build_victim, learned_part, train_victim
from puregen_transforms.transforms.puregen import PureGen

_SECONDS = "seconds"
"""Kept with a victim's weights: how long its training took."""


@dataclass(frozen=True, eq=False)
class Bench:
    """Where cells are computed.

    Args:
        sets: the images.
        store: of results.
        device: where to craft, purify and train.
        say: told what is going on, in lines.
        backbone: network with public weights of the victims that stand on a frozen one; see `frozen_features`.
    """

    sets: Sets
    store: Store
    device: str = "cpu"
    say: Callable[[str], None] = field(default=lambda line: None, repr=False)
    backbone: str = DEFAULT_BACKBONE

    def evaluate(self, cell: Cell) -> dict[str, Any]:
        """Compute the record of a cell, or read the kept one; its "key" names all that decides the cell."""
        key = self.key(cell)
        record = self.store.record("cells", key, lambda: self._evaluate(cell))
        # Names of rows and columns may be others by now.
        return {**record, "cell": cell.to_dict(), "key": name_of(key)}

    def adopt(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Keep the cells of an earlier record as if they were computed here; those without a "key" are passed over.

        A cell counts for what its key names: the same attack, defense, victim, seed and images.

        Raises:
            ValueError: a key that is none.
        """
        for record in records:
            if "key" in record:
                self.store.adopt("cells", record["key"], record)

    def is_kept(self, cell: Cell) -> bool:
        """Tell whether there is a record already."""
        return self.store.path_of("cells", self.key(cell), ".json").exists()

    def key(self, cell: Cell) -> Any:
        """Collect all that decides a cell."""
        attack = None
        if cell.attack.name != "none":
            attack = self._workshop.key(cell.attack, cell.victim)
        names = ("train", "transfer", "test") if cell.victim.transfers else ("train", "test")
        about = cell.to_dict()
        images = {name: self.sets.fingerprints[name] for name in names}
        if "reserved" in _taken(cell.defense):
            images["reserved"] = self.sets.fingerprints.get("reserved", "")
        return {
            "attack": attack,
            # Names of rows and columns in tables decide nothing.
            "defense": {key: value for key, value in about["defense"].items() if key != "name"},
            "identity": identity_of(cell.defense),
            "victim": about["victim"],
            "seed": cell.seed,
            "images": images,
            **_backbone(cell.victim),
        }

    def poison(self, cell: Cell) -> Poison | None:
        """Craft the poison of a cell, or read the kept one; None without attack."""
        if cell.attack.name == "none":
            return None
        return self._workshop.craft(cell.attack, cell.victim, lambda: self.extractor(cell))

    def extractor(self, cell: Cell) -> nn.Module:
        """Train the network that a transferring victim starts from, whatever its seed: a victim of the clean set."""
        if cell.victim.is_frozen:
            return self._undefended(Cell(victim=cell.victim))
        return self._undefended(Cell(victim=replace(cell.victim, scenario="scratch", transfer_epochs=None)))

    def _evaluate(self, cell: Cell) -> dict[str, Any]:
        started = time.time()
        poison = self.poison(cell)
        seconds = {"craft": time.time() - started}
        victim, look, more = self._victim(cell, poison)
        seconds |= more
        test = self.sets.test
        record: dict[str, Any] = {
            **describe_machine(),
            "images": self.sets.about,
            "accuracy": accuracy(victim, test.images, test.labels),
            **look,
        }
        if poison is not None:
            unpoisoned = self._undefended(cell.unpoisoned)
            record["poison"] = {
                "digest": poison.digest,
                "poisoned_rows": int((~poison.covers).sum()),
                "cover_rows": int(poison.covers.sum()),
                "set_rows": poison.set_rows,
                "budget": poison.budget,
                "norm": poison.norm,
            }
            for key, model in (("success", victim), ("success_never_poisoned", unpoisoned)):
                if (success := poison_success(model, poison, test.images, test.labels)) is not None:
                    record[key] = success
                if len(poison.aims) > 1:
                    record[f"{key}_by_trigger"] = success_by_trigger(model, poison, test.images, test.labels)
        return {**record, "seconds": {**seconds, "all": time.time() - started}}

    def _victim(self, cell: Cell, poison: Poison | None) -> tuple[nn.Module, dict[str, Any], dict[str, float]]:
        """Train the victim; also describe its set, and how long the parts took."""
        dataset = self.sets.learned_in(cell.victim.scenario)
        images, labels = dataset.images, dataset.labels
        if poison is not None:
            images, labels = poison.apply_to_tensors(images, labels)
        started = time.time()
        defended = defend(
            cell.defense,
            images,
            search=lambda detector: self._search(detector, cell, images, labels),
            purify=KeptPurifier(images, dataset.images, self.store, self.device),
        )
        seconds = {"defend": time.time() - started}
        rows, learned = torch.arange(len(images)), defended.images
        if defended.rows is not None:
            rows, learned = defended.rows, copied_rows(learned, defended.rows)
        flags = defended.flagged if cell.defense.keep_flagged else None
        look: dict[str, Any] = {}
        if cell.defense.train is None:
            victim, seconds["train"] = self._learn(cell, learned, labels[rows])
        else:
            victim, seconds["train"], course = self._train(cell, learned, labels[rows], flags, poison)
            look |= {"by_epoch": course} if course else {}
        if cell.defense.detect:
            seconds["search"] = defended.seconds
        if changed_rows(defended.images, images).any():
            look["images_after"] = compare(dataset.images, images, defended.images, energy=self._energy)
        flagged, scores = defended.flagged, defended.scores
        if victim.flagged is not None:
            flagged = torch.zeros(len(images), dtype=torch.bool) if flagged is None else flagged.clone()
            flagged[rows[victim.flagged.cpu()]] = True
        if victim.scores is not None and defended.rows is None:
            scores = victim.scores.cpu()
        poisoned, covers = (torch.zeros(len(images), dtype=torch.bool) for _ in range(2))
        if poison is not None:
            poisoned[poison.ids[~poison.covers]] = True
            covers[poison.ids[poison.covers]] = True
        if flagged is not None:
            look["detection"] = detection(flagged, poisoned, scores, covers=covers if covers.any() else None)
        if victim.looks:
            look["looks"] = describe_looks(victim.looks, poisoned[rows])
        if victim.mix is not None:
            credible = rows if flagged is None else rows[~flagged[rows]]
            look["mixed"] = describe_mixing(victim.mix, defended.images[credible], labels[credible], device=self.device)
        if defended.rows is not None:
            look["rows_learned"] = len(defended.rows)
        taken = _taken(cell.defense)
        look |= {"network_read": True} if "network" in taken else {}
        look |= {"reserved_images": len(self.sets.reserved)} if "reserved" in taken and self.sets.reserved else {}
        return victim.model, look, seconds

    def _trainer(self, cell: Cell, images: Tensor, labels: Tensor) -> Callable[..., Trained]:
        """Describe how the victim of a cell learns images, as they are."""
        return partial(
            train_victim,
            cell.victim,
            images,
            labels,
            classes=len(self.sets.train.class_names),
            defense=cell.defense.train,
            extractor=lambda: self.extractor(cell),
            seed=cell.seed,
            device=self.device,
            progress=lambda epoch, loss: self.say(f"  epoch {epoch}: loss {loss:.3f}"),
        )

    def _train(
        self, cell: Cell, images: Tensor, labels: Tensor, flags: Tensor | None, poison: Poison | None
    ) -> tuple[Trained, float, dict[str, Any]]:
        """Train a victim by its training defense; tell how long that took and, of long trainings, how it went."""
        assert cell.defense.train is not None
        is_long = bool(getattr(TRAINING_DEFENSES[cell.defense.train.name], "presets", {}))
        with self.store.workspace("training", self.key(cell)) as state:
            judge = Judge(state, self.sets.test, poison) if is_long else None
            started = time.time()
            trained = self._trainer(cell, images, labels)(flags=flags, state=state, judge=judge)
            seconds = time.time() - started - (judge.seconds if judge else 0.0)
            return trained, seconds, judge.course() if judge else {}

    def _learn(self, cell: Cell, images: Tensor, labels: Tensor) -> tuple[Trained, float]:
        """Train a victim without a training defense, and tell how long that took.

        It is kept by what it learns: cells whose detectors leave the same images share it.
        """
        train = self._trainer(cell, images, labels)
        key = {
            "victim": cell.to_dict()["victim"],
            "seed": cell.seed,
            "classes": len(self.sets.train.class_names),
            "learned": fingerprint(images, labels),
            "extractor": self.sets.fingerprints["train"] if cell.victim.transfers else None,
            **_backbone(cell.victim),
        }

        def keep() -> dict[str, Tensor]:
            started = time.time()
            with self.store.workspace("training", key) as state:
                weights = learned_part(cell.victim, train(state=state).model).state_dict()
            return {**weights, _SECONDS: torch.tensor(time.time() - started, dtype=torch.float64)}

        weights = self.store.tensors("victims", key, keep)
        seconds = float(weights.pop(_SECONDS))
        model = build_victim(cell.victim, len(self.sets.train.class_names), self.sets.train.size)
        learned_part(cell.victim, model).load_state_dict(weights)
        return Trained(model.to(self.device).eval()), seconds

    def _search(self, component: Component, cell: Cell, images: Tensor, labels: Tensor) -> DetectionReport:
        """Run a detector over the poisoned set; the report is kept."""
        detector = build_detector(component.name, **component.settings)
        dataset = self.sets.learned_in(cell.victim.scenario)
        taken = detector.needs | detector.uses
        reserved = self.sets.reserved if "reserved" in taken else None
        undefended = replace(cell, defense=DefenseSpec())
        key = {
            "detector": portable(asdict(component)),
            "version": detector.version,
            "identity": detector.identity(),
            "images": fingerprint(images, labels),
            "reserved": None if reserved is None else self.sets.fingerprints["reserved"],
            "network": self.key(undefended) if "network" in taken else None,
            "seed": cell.seed,
        }
        path = self.store.path_of("detections", key, ".safetensors")
        if path.exists():
            return DetectionReport.load(path)
        known = {}
        if isinstance(detector, WholeSearch):  # its parts are rows of their own, but for those that need more classes
            known = {
                one.name: self._search(Component(name=one.name), cell, images, labels)
                for one in detector.searches
                if one.detector.least_classes <= len(dataset.class_names)
            }
        with self.store.locked(path):
            if not path.exists():
                with self.store.workspace("searching", key) as state:
                    report = run_detector(
                        component.name,
                        detector,
                        images,
                        labels,
                        class_names=dataset.class_names,
                        reserved=reserved,
                        network=self._undefended(cell) if "network" in taken else None,
                        seed=cell.seed,
                        device=self.device,
                        state=state,
                        progress=self._tell,
                        known=known,
                    )
                parts = sum(one.seconds for one in known.values())
                replace(report, seconds=report.seconds + parts).save(path)
        return DetectionReport.load(path)

    def _undefended(self, cell: Cell) -> nn.Module:
        """Train the victim of a cell without its defense, or read the kept one."""
        dataset, poison = self.sets.learned_in(cell.victim.scenario), self.poison(cell)
        images, labels = dataset.images, dataset.labels
        if poison is not None:
            images, labels = poison.apply_to_tensors(images, labels)
        return self._learn(replace(cell, defense=DefenseSpec()), images, labels)[0].model

    @cached_property
    def _energy(self) -> PureGen:
        return PureGen(device=self.device)

    @cached_property
    def _tell(self) -> Progress:
        last = [""]

        def progress(what: str, done: int, total: int) -> None:
            if what != last[0] or done == total:
                self.say(f"  {what} {done}/{total}")
            last[0] = what

        return progress

    @cached_property
    def _workshop(self) -> Workshop:
        return Workshop(self.sets, self.store, self.device, self._tell)


def _backbone(victim: VictimSpec) -> dict[str, str]:
    """Name the weights of the network that a victim stands on, if that is frozen."""
    return {"backbone": frozen_features(victim.classifier).sha256} if victim.is_frozen else {}


def _taken(spec: DefenseSpec) -> frozenset[str]:
    """Collect what the detectors of a defense need, or use where it is there."""
    detectors = [build_detector(one.name, **one.settings) for one in spec.detect]
    return frozenset().union(*(detector.needs | detector.uses for detector in detectors))


def run_cells(bench: Bench, cells: Sequence[Cell], *, jobs: int = 1) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Cells and their records, in the order in which they are finished; kept ones first.

    Args:
        bench: where to compute them.
        cells: which.
        jobs: processes that share the cores.
    """
    kept = [cell for cell in cells if bench.is_kept(cell)]
    missing = [cell for cell in cells if cell not in kept]
    for cell in kept:
        yield cell, bench.evaluate(cell)
    if jobs == 1 or len(missing) < 2:
        for cell in missing:
            yield cell, bench.evaluate(cell)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    parts = (bench.sets, bench.store, bench.device, threads)
    with ProcessPoolExecutor(jobs, context, _start_worker, parts) as pool:
        futures = {pool.submit(_work, cell): cell for cell in missing}
        for future in as_completed(futures):
            yield futures[future], future.result()


_BENCH: list[Bench] = []


def _start_worker(sets: Sets, store: Store, device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    _BENCH.append(Bench(sets, store, device))


def _work(cell: Cell) -> dict[str, Any]:
    return _BENCH[0].evaluate(cell)
