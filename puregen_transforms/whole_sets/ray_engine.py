"""Purify Parquet files on a Ray cluster: beyond what one job of `accelerate launch` reaches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from puregen_transforms import PureGen
from puregen_transforms._extras import require_extra
from puregen_transforms._files import hash_file
from puregen_transforms.data.cells import Places
from puregen_transforms.data.columns import choose_image_columns
from puregen_transforms.data.links import check_links
from puregen_transforms.data.parquet_files import ParquetSplit, parquet_below
from puregen_transforms.whole_sets.dataset_copy import PART_ROWS, PartRecord
from puregen_transforms.whole_sets.manifest import filled_in, manifest_path, read_hash, read_records, settings_of
from puregen_transforms.whole_sets.part_by_part import draw_seed
from puregen_transforms.whole_sets.plan import check_apart
from puregen_transforms.whole_sets.rows import DATA_FOLDER, ImageModes, image_modes, purify_rows
from puregen_transforms.whole_sets.summary import Summary
from puregen_transforms.whole_sets.table_copy import TableCopy
from puregen_transforms.whole_sets.unfinished_copy import UnfinishedCopy
from puregen_transforms.whole_sets.workload import part_rows_for

ROW_HASH = "row_hash"
"""The column of ids that Ray makes out of file and row, where the data have none."""


_OTHERS = 3
"""Cores for listing files, leaving out what is done, reading and writing. Actors that held all cores would wait for
these forever; where there are few, actors count for none."""


class PurifyBatches:
    """The actor that `ray.data.Dataset.map_batches` calls: it loads the networks once.

    Args:
        options: of the purifier, as from `PureGen.to_dict()`.
        columns: of images, each with the mode that its type asks for.
        device: of the purifier.
        batch_size: of the purifier.
        folder: of the source, in which rows may name images.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        columns: ImageModes,
        device: str | None = None,
        batch_size: int | None = None,
        folder: str | None = None,
    ) -> None:
        # It is given images alone, of the columns chosen here.
        self._purifier = PureGen(**{**options, "columns": None}, device=device, batch_size=batch_size)
        self._columns = columns
        self._places = Places(None if folder is None else (Path(folder),))

    def __call__(self, table: pa.Table) -> pa.Table:
        """Purify the images of some rows.

        Raises:
            UnreadableImageError: one cannot be repaired.
        """
        return purify_rows(table, self._columns, self._purifier, self._places)


def purify_with_ray(
    source: str | Path,
    destination: str | Path,
    purifier: PureGen,
    *,
    id_column: str | None = None,
    rows_per_call: int = 256,
    part_rows: int | None = None,
    actors: int | tuple[int, int] | None = None,
    gpus_per_actor: float | None = None,
) -> Summary:
    """Purify Parquet files into Parquet files, by as many actors as the Ray cluster has room for.

    An image comes out as from `purify_dataset` with the same seed, whatever the number of actors; the order of the
    rows is not kept. What is written is noted by Ray's checkpoints: the same call goes on where an earlier one was
    killed. A cluster that is already running is used (`RAY_ADDRESS`), else one is started on this machine. In the end
    all ids are held in memory at once, to see that each is there and none twice.

    Args:
        source: a .parquet file or a folder of them, where every machine can read it.
        destination: a new folder, where every machine can write.
        purifier: without a seed, one is drawn, and kept for the calls that go on with this one.
        id_column: of unique ids; None has Ray make them, as a column "row_hash".
        rows_per_call: images that an actor is given at once.
        part_rows: rows that are written, and noted, at once: about so many; None is as of `purify_dataset`.
        actors: how many, or at least and at most; None is one for each GPU or CPU core of the cluster.
        gpus_per_actor: None is 1 where the cluster has GPUs, else 0.

    Returns:
        What is at the destination.

    Raises:
        ValueError: the source has no Parquet files, no images or no such column; the purifier has a threshold still
            to be fitted; or other settings than an earlier call's.
        FileExistsError: there is something else at the destination.
        BlockingIOError: another run is at the same destination.
        ray.exceptions.RayTaskError: an image cannot be repaired; says which row.
        ImportError: Ray is not installed.
    """
    require_extra("ray", "ray")
    if purifier.config.uses_threshold and purifier.config.energy_threshold is None:
        raise ValueError(
            f"Expected an `energy_threshold` for method {purifier.config.method!r}: with Ray there is no first pass "
            "over all images. Fit one on a sample of them with `purifier.fit(images)`."
        )
    source, destination = Path(source).expanduser().absolute(), Path(destination).expanduser().absolute()
    check_apart(source, destination)
    table = ParquetSplit.open(_parquet_files(source))
    columns = choose_image_columns(table.features, tuple(map(str, purifier.config.columns or ())))
    if id_column is not None and id_column not in table.features:
        raise ValueError(f"Expected an id column out of {list(table.features)}, but got {id_column!r}.")
    described = {"rows": {"train": table.rows}, "features": table.features.to_dict(), "columns": columns}
    described["files"] = _fingerprint(source, table.paths)
    cut = TableCopy(tables={"train": table}, columns=columns, part_rows=PART_ROWS if part_rows is None else part_rows)
    settings = settings_of(purifier, {**described, "id column": id_column}, engine="ray")
    unfinished = UnfinishedCopy(destination)
    if not unfinished.found_complete(settings):
        with unfinished.locked():
            settings = filled_in(settings, unfinished.earlier())
            if settings["purifier"]["seed"] is None:
                settings["purifier"]["seed"] = draw_seed()
            unfinished.begin(settings)
            crew = _Crew(
                columns=image_modes(table.features, columns),
                id_column=id_column,
                rows_per_call=rows_per_call,
                part_rows=part_rows or part_rows_for(cut, purifier.config),
                actors=actors,
                gpus_per_actor=gpus_per_actor,
            )
            crew.purify(table, unfinished, settings["purifier"], purifier, source if source.is_dir() else source.parent)
            unfinished.complete(settings, _records(unfinished, table, columns, id_column or ROW_HASH), ())
    manifest = manifest_path(destination)
    images = sum(record.images for record in read_records(manifest))
    return Summary(images=images, manifest_sha256=read_hash(manifest) or "")


@dataclass(frozen=True, kw_only=True)
class _Crew:
    """The actors of a run, and their settings."""

    columns: ImageModes
    id_column: str | None
    rows_per_call: int
    part_rows: int
    actors: int | tuple[int, int] | None
    gpus_per_actor: float | None

    def purify(
        self,
        table: ParquetSplit,
        unfinished: UnfinishedCopy,
        options: Mapping[str, Any],
        purifier: PureGen,
        folder: Path,
    ) -> None:
        """Run Ray from the Parquet files to the files of the copy."""
        import ray
        from ray.data.checkpoint import CheckpointConfig

        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = self.gpus_per_actor
        if gpus is None:
            gpus = 1 if resources.get("GPU", 0) else 0
        context = ray.data.DataContext.get_current()
        before = context.checkpoint_config
        unfinished.checkpoints.mkdir(exist_ok=True)
        context.checkpoint_config = CheckpointConfig(
            id_column=self.id_column or ROW_HASH,
            checkpoint_path=str(unfinished.checkpoints),
            delete_checkpoint_on_success=False,
        )
        schema = table.features.arrow_schema
        if self.id_column is None:
            schema = schema.append(pa.field(ROW_HASH, pa.uint64()))
        device = None if purifier.device is None else str(purifier.device)
        try:
            rows = ray.data.read_parquet(
                [str(path) for path in table.paths],
                include_row_hash=self.id_column is None,
                num_cpus=0.5,
            )
            # One block is one file: what a killed run has to do again at most, for each actor.
            rows.repartition(target_num_rows_per_block=self.part_rows).map_batches(
                PurifyBatches,
                fn_constructor_args=(dict(options), dict(self.columns), device, purifier.batch_size, str(folder)),
                batch_size=self.rows_per_call,
                batch_format="pyarrow",
                compute=self._pool(resources, gpus),
                num_gpus=gpus,
                num_cpus=0 if gpus or resources.get("CPU", 0) <= 2 * _OTHERS else 1,
                udf_modifying_row_count=False,
            ).write_parquet(
                str(unfinished.files.folder / DATA_FOLDER),
                schema=schema,
                ray_remote_args={"num_cpus": 0.5},
            )
        finally:
            context.checkpoint_config = before

    def _pool(self, resources: Mapping[str, float], gpus: float) -> Any:
        from ray.data import ActorPoolStrategy

        if isinstance(self.actors, tuple):
            return ActorPoolStrategy(min_size=self.actors[0], max_size=self.actors[1])
        cores = int(resources.get("CPU", 1))
        room = int(resources.get("GPU", 0) / gpus) if gpus else cores - _OTHERS if cores > 2 * _OTHERS else cores
        return ActorPoolStrategy(size=self.actors or max(1, room))


def _parquet_files(source: Path) -> list[Path]:
    if source.is_dir():
        check_links(source)
    found = [source] if source.is_file() else parquet_below(source)
    if not found:
        raise ValueError(
            f"Expected a .parquet file or a folder of them, but got {source}. Write images as Parquet first: "
            "`dataset.to_parquet(path)` of a `datasets.Dataset`."
        )
    return found


def _fingerprint(source: Path, paths: Sequence[Path]) -> str:
    """Hash the files' names, sizes and footers (sha256): to read them whole is work for the cluster."""
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _FOOTER_LENGTH))
            length = int.from_bytes(file.read(4), "little") + _FOOTER_LENGTH
            file.seek(max(0, size - length))
            found.update(f"{path.relative_to(source)} {size} ".encode())
            found.update(file.read())
    return found.hexdigest()


_FOOTER_LENGTH = 8
"""Bytes at the end of a Parquet file: how long its footer is, and the format's name."""


def _records(unfinished: UnfinishedCopy, table: ParquetSplit, columns: Sequence[str], ids: str) -> list[PartRecord]:
    """Record the files that Ray has written.

    Raises:
        ValueError: rows are missing, or there twice.
    """
    found = []
    for path in sorted((unfinished.files.folder / DATA_FOLDER).glob("*.parquet")):
        name = f"{DATA_FOLDER}/{path.name}"
        footer, files = pq.read_metadata(path), {name: hash_file(path)}
        images = _images_in(footer, columns)
        found.append(PartRecord(name=path.stem, split="train", rows=footer.num_rows, images=images, files=files))
    rows = sum(record.rows for record in found)
    seen = pc.count_distinct(pq.read_table(unfinished.files.folder / DATA_FOLDER, columns=[ids])[ids]).as_py()
    if (rows, seen) != (table.rows, table.rows):
        raise ValueError(
            f"Expected {table.rows} rows with as many ids in {unfinished.files.folder}, but found {rows} with {seen}. "
            f"If the ids of the source are unique, remove {unfinished.folder} to begin anew."
        )
    return found


def _images_in(footer: pq.FileMetaData, columns: Sequence[str]) -> int:
    """Count the images of a file by its footer: one for each cell of an image column that is not empty."""
    leaves = {f"{column}.bytes" for column in columns}
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    chunks = [group.column(place) for group in groups for place in range(group.num_columns)]
    return sum(chunk.num_values - chunk.statistics.null_count for chunk in chunks if chunk.path_in_schema in leaves)
