"""Rows of a table, with their images purified, converted, kept or left out."""

from __future__ import annotations

import pyarrow as pa
import pytest
from datasets import Features, Image, Value
from PIL import ImageOps

from puregen_transforms.whole_sets.copy_folder import CopyFolder
from puregen_transforms.whole_sets.dataset_copy import Part, PurifyOptions
from puregen_transforms.whole_sets.rows import (
    SLICE_BYTES,
    cut_by_bytes,
    decoded_images,
    image_modes,
    mean_pixels,
    purify_rows,
    row_bytes,
    write_part,
)
from puregen_transforms.whole_sets.storage import Storage
from puregen_transforms.whole_sets.summary import UnreadableImageError
from puregen_transforms.whole_sets.treatment import ALL_KEPT, Treatment
from tests.cli.files import encoded, opened, picture, same

FEATURES = Features({"image": Image(), "id": Value("int64")})
PALETTE = encoded(picture(3).quantize(8))


def rows(*data, first=0):
    cells = [one if one is None or isinstance(one, dict) else {"bytes": one, "path": "a.jpg"} for one in data]
    return pa.table({"image": cells, "id": list(range(first, first + len(data)))}, schema=FEATURES.arrow_schema)


def invert(pictures):
    return [ImageOps.invert(one) for one in pictures]


MODES = image_modes(FEATURES, ["image"])
SOURCE = rows(encoded(picture(0)), None, encoded(picture(1)), PALETTE)


def test_images_are_purified_and_all_else_stays():
    found = purify_rows(SOURCE.slice(0, 3), MODES, invert)
    assert found.column("id").to_pylist() == [0, 1, 2]
    first, none, last = found.column("image").to_pylist()
    assert none is None
    assert same(opened(first["bytes"]), invert([picture(0)])[0])
    assert same(opened(last["bytes"]), invert([picture(1)])[0])
    assert first["path"] == "a.png"


def test_what_cannot_be_purified_is_named_by_the_values_of_its_row():
    with pytest.raises(UnreadableImageError, match="column image, id 3: .*mode 'P'"):
        purify_rows(SOURCE, MODES, invert)


@pytest.fixture
def into(tmp_path):
    for name in ("files/data", "scratch"):
        (tmp_path / name).mkdir(parents=True)
    return CopyFolder(tmp_path / "files", tmp_path / "scratch")


def written(into, treatment, storage, *, slices=(SOURCE,), **options):
    part = Part(name="train-0", split="train", start=0, stop=4)
    options = PurifyOptions(purify=invert, **options)
    record = write_part(part, slices, FEATURES.arrow_schema, MODES, into, options, treatment=treatment, storage=storage)
    (name,) = record.files
    return record, pa.parquet.read_table(into.folder / name).to_pylist()


def test_each_row_is_treated_as_was_asked_for(into):
    done = []
    treatment = Treatment(left_out={"train": {0: "poison"}}, purified={"train": frozenset({2})})
    record, found = written(into, treatment, Storage(convert=True), done=done.append)
    assert [row["id"] for row in found] == [1, 2, 3]
    assert same(opened(found[1]["image"]["bytes"]), invert([picture(1)])[0])
    assert same(opened(found[2]["image"]["bytes"]), opened(PALETTE).convert("RGB")), "converted, and not purified"
    assert (record.rows, record.images, sum(done)) == (3, 2, 4)
    assert [skipped.reason for skipped in record.skipped] == ["poison"]


def test_what_is_kept_stays_byte_for_byte(into):
    record, found = written(into, ALL_KEPT, Storage())
    assert [row["image"] for row in found] == SOURCE.column("image").to_pylist()
    assert (record.rows, record.images) == (4, 3)


def test_broken_images_stop_or_are_left_out_with_their_row(into):
    broken = rows(b"no image", encoded(picture(0)))
    with pytest.raises(UnreadableImageError, match="split train, row 0, column image: it is no image"):
        written(into, Treatment(), Storage(), slices=(broken,))
    record, found = written(into, Treatment(), Storage(), slices=(broken,), skip=True)
    assert [row["id"] for row in found] == [1]
    assert record.skipped[0].place == {"split": "train", "row": 0, "column": "image"}


def test_estimates_leave_out_what_cannot_be_read():
    table = rows(encoded(picture(0)), b"no image", None, encoded(picture(1, (8, 8))))
    assert mean_pixels([table], ["image"]) == [(16 * 12 + 8 * 8) // 2]
    assert mean_pixels([rows(None)], ["image"]) == []
    kept = row_bytes(SOURCE, MODES, treatment=ALL_KEPT)
    assert kept == sum(len(cell["bytes"]) for cell in SOURCE.column("image").to_pylist() if cell) / 4
    assert row_bytes(SOURCE.slice(0, 3), MODES) > 0


def test_only_what_is_purified_is_given_out():
    def found(treatment, storage=Storage(convert=True), skip=False):  # noqa: B008
        return list(decoded_images([SOURCE], MODES, split="", start=0, skip=skip, treatment=treatment, storage=storage))

    assert len(found(Treatment())) == 3
    assert len(found(ALL_KEPT)) == 0
    assert same(found(Treatment(purified={"": frozenset({2, 3})}))[0], picture(1))
    with pytest.raises(UnreadableImageError, match="row 3"):
        found(Treatment(), Storage())
    assert len(found(Treatment(), Storage(), skip=True)) == 2


def test_large_images_are_cut_into_slices():
    table = rows(*[bytes(2**18)] * 200)
    slices = list(cut_by_bytes(table))
    assert sum(map(len, slices)) == 200
    assert max(one.nbytes for one in slices) <= 1.1 * SLICE_BYTES
