"""Search a set on a Ray cluster: actors do what is independent, and leave it where a search looks for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from puregen_transforms._extras import require_extra
from puregen_transforms._progress import silent
from puregen_transforms.data.mapped import cut
from puregen_transforms.detection.detector import SuspectSet
from puregen_transforms.detection.energy import EnergyDetector, keep_energies, kept_energies
from puregen_transforms.detection.frozen_features import PART, read_features, side_for
from puregen_transforms.detection.label_disagreement import LabelDisagreement
from puregen_transforms.detection.measure import ImageMeter
from puregen_transforms.detection.moved_labels import MovedLabels
from puregen_transforms.detection.searches import Search
from puregen_transforms.detection.verdict import Verdict
from puregen_transforms.detection.whole_search import Train, make_search, read_once, search_set, searches_of
from puregen_transforms.hub.backbones import load_backbone

AT_ONCE = 4 * PART
"""Images that an actor is given at once: what it does again, at most, if it is killed."""

_RESTARTS = 10
"""Times that an actor may die; one that dies each time, as for want of memory, must end."""

Sizes = list[tuple[int, int] | None]


def search_with_ray(
    suspects: SuspectSet, *, budget: str = "20m", train: Train | None = None, actors: int | None = None
) -> Verdict:
    """Make every search that the set and the budget allow, shared out among the actors of a Ray cluster.

    Actors read the images themselves, and leave energies, features and the reports of whole searches in
    `suspects.state`, where `search_set` finds them as it finds those of a killed run. So the verdict is that of a
    single process, bit for bit, and an actor that is killed has its task done again. What needs a trained classifier
    is done in this process. A cluster that is already running is used (`RAY_ADDRESS`), else one is started on this
    machine.

    Args:
        suspects: see `search_set`; `state` and the files of the images are where every machine finds them.
        budget: see `search_set`.
        train: see `search_set`.
        actors: how many; None is one for each GPU, or for each machine where the set's device is a CPU.

    Raises:
        ValueError: no folder `state`; see also `search_set`.
        ImportError: Ray is not installed.
        ray.exceptions.RayActorError: an actor died again and again.
    """
    require_extra("ray", "ray")
    if suspects.state is None:
        raise ValueError("Expected a folder `state`, where all machines can write, but got none.")
    suspects = replace(suspects, state=suspects.state.absolute())
    here = read_once(suspects)
    given = replace(suspects, progress=silent, known={})
    if here.images is not suspects.images:
        given = replace(given, images=PixelsByRow(given))
    _share_out(given, here, searches_of(here, budget), actors)
    return search_set(here, budget=budget, train=train)


class PixelsByRow(Sequence[Tensor]):
    """The images of a set as `read_once` reads them, one at a time.

    Args:
        suspects: the set.
    """

    def __init__(self, suspects: SuspectSet) -> None:
        self._suspects = suspects

    def __len__(self) -> int:
        return len(self._suspects)

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, slice):
            return [self._suspects.read(row) for row in range(*rows.indices(len(self)))]
        return self._suspects.read(rows)

    def __iter__(self) -> Iterator[Any]:
        return self._suspects.each()


@dataclass(frozen=True, kw_only=True)
class Task:
    """What an actor is asked for.

    Args:
        method: of `Searcher`.
        search: that it is for.
        rows: of the set.
    """

    method: str
    search: Search
    rows: slice


class Searcher:
    """The actor: it reads images by itself, and keeps what it has loaded.

    Args:
        suspects: the set, as it was given.
        threads: on which it computes.
    """

    def __init__(self, suspects: SuspectSet, threads: int) -> None:
        torch.set_num_threads(threads)
        self._suspects = suspects
        self._meters: dict[str, ImageMeter] = {}

    def do(self, task: Task) -> tuple[Task, Any]:
        """Do a task; what cannot be done is left to the search in one process, which says why."""
        try:
            return task, getattr(self, task.method)(task)
        except (ValueError, ImportError, FloatingPointError):
            return task, None

    def search(self, task: Task) -> None:
        """Make a whole search."""
        make_search(task.search, self._read)

    def features(self, task: Task) -> None:
        """Read features of some rows."""
        backbone, side = _features_of(task.search, self._suspects)
        read_features(replace(self._suspects, images=self._suspects.images[task.rows]), backbone, side=side)

    def energies(self, task: Task) -> tuple[Tensor, Sizes]:
        """Measure energies of some rows."""
        detector = task.search.detector
        assert isinstance(detector, EnergyDetector)
        if task.search.name not in self._meters:
            self._meters[task.search.name] = detector.meter(self._suspects)
        return self._meters[task.search.name].energies(silent, range(task.rows.start, task.rows.stop))

    @cached_property
    def _read(self) -> SuspectSet:
        # The folder `state` may be far away: what is read goes to a file of this machine.
        here = read_once(replace(self._suspects, state=None))
        return replace(here, state=self._suspects.state)


def _share_out(suspects: SuspectSet, here: SuspectSet, searches: list[Search], actors: int | None) -> None:
    """Have actors do all that is independent."""
    import ray
    from ray.util import ActorPool

    tasks = list(_tasks(here, searches))
    if not tasks:
        return
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    given = ray.put(suspects)  # kept until the end: an actor that begins again asks for it again
    pool = ActorPool(_actors(given, actors, by_gpu=suspects.device.type == "cuda"))
    found: dict[str, dict[int, tuple[Tensor, Sizes]]] = {}
    here.progress("searching with Ray", 0, len(tasks))
    for done, (task, result) in enumerate(pool.map_unordered(lambda actor, task: actor.do.remote(task), tasks), 1):
        if result is not None:
            found.setdefault(task.search.name, {})[task.rows.start] = result
        here.progress("searching with Ray", done, len(tasks))
    for search in searches:
        parts = [part for _, part in sorted(found.get(search.name, {}).items())]
        energies = torch.cat([one for one, _ in parts]) if parts else torch.empty(0)
        if len(energies) == len(here):
            path = kept_energies(here, search.detector.identity())
            assert path is not None
            keep_energies(path, energies, [size for _, sizes in parts for size in sizes])


def _tasks(suspects: SuspectSet, searches: list[Search]) -> Iterator[Task]:
    """List what actors can do, the longest first; energies and features serve several searches."""
    rows = cut(len(suspects), AT_ONCE)
    by_image: dict[tuple[str, Any], Search] = {}
    for search in searches:
        detector = search.detector
        if isinstance(detector, EnergyDetector):
            path = kept_energies(suspects, detector.identity())
            if path is not None and not path.exists():
                by_image.setdefault(("energies", detector.identity()), search)
        elif isinstance(detector, (LabelDisagreement, MovedLabels)):
            by_image.setdefault(("features", (detector.backbone, detector.side)), search)
        elif "network" not in detector.needs:
            yield Task(method="search", search=search, rows=slice(0, len(suspects)))
    for (method, _), search in by_image.items():
        yield from (Task(method=method, search=search, rows=part) for part in rows)


def _features_of(search: Search, suspects: SuspectSet) -> tuple[Any, int]:
    detector = search.detector
    assert isinstance(detector, (LabelDisagreement, MovedLabels))
    backbone = load_backbone(detector.backbone)
    return backbone, detector.side or side_for(suspects, backbone)


def _actors(given: Any, count: int | None, *, by_gpu: bool) -> list[Any]:
    """Start the actors, spread over the machines, with an equal share of their cores each."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = sum(int(one.get("GPU", 0)) for one in machines) if by_gpu else 0
    count = count or gpus or len(machines)
    share = min(one.get("CPU", 1) for one in machines) / -(-count // len(machines))
    made = ray.remote(
        num_cpus=int(share) or round(share, 3),
        num_gpus=1 if gpus else 0,
        max_restarts=_RESTARTS,
        max_task_retries=_RESTARTS,
        scheduling_strategy="SPREAD",
    )(Searcher)
    return [made.remote(given, max(1, int(share))) for _ in range(count)]
