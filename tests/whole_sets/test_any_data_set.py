"""Any small data set through every way in: what comes out is what went in, but for the pixels of its images."""

from __future__ import annotations

import io
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from puregen_transforms import PureGen, purify_dataset
from puregen_transforms.data.sources import open_source
from tests.whole_sets.samples import same
from tests.whole_sets.strategies import NAMES, folders, tables, torch_sets

PURIFIER = PureGen("jpeg", jpeg_quality=50)


def examples(count):
    """Take so many examples, by a fixed seed and whatever time they take, and keep none on disk."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=checks)


@pytest.fixture(autouse=True)
def silent():
    from datasets import disable_progress_bars, enable_progress_bars

    disable_progress_bars()
    yield
    enable_progress_bars()


def seen(image):
    return image.mode, image.size, image.tobytes()


def check_rows(before, after, inputs):
    """Compare rows as they are stored, and the images of the inputs as they are seen."""
    assert list(before[0]) == list(after[0])
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        for name, value in old.items():
            if name in inputs and value is not None:
                value = PURIFIER(value)
            if isinstance(value, PILImage.Image):
                assert seen(new[name]) == seen(value)
            else:
                assert new[name] == value, name


def through_tables(drawn, way, part_rows, name):
    source = drawn.dataset()
    first = next(iter(source))
    with TemporaryDirectory() as top:
        home, out = Path(top, f"in {name}"), Path(top, f"out {name}")
        if way in ("split", "stream", "file"):
            source = {first: source[first]}
        if way == "saved":
            source.save_to_disk(home)
        elif way in ("files", "file"):
            home.mkdir()
            for split, rows in source.items():
                rows.to_parquet(home / (f"{split}-00000-of-00001.parquet" if way == "files" else "x [1].parquet"))
        given = {
            "object": source,
            "split": source[first],
            "stream": source[first].to_iterable_dataset(num_shards=min(part_rows, len(source[first]))),
            "saved": home,
            "files": home,
            "file": home / "x [1].parquet",
        }[way]
        purifier = PureGen("jpeg", jpeg_quality=50, columns=drawn.columns)
        clean = purify_dataset(given, purifier, output_dir=out, part_rows=part_rows)
        if way in ("split", "stream", "file"):
            clean = {first: clean["train"] if way == "file" else clean}
        assert sorted(clean) == sorted(source)
        for split, rows in source.items():
            assert clean[split].features == rows.features
            check_rows(list(rows), list(clean[split]), drawn.inputs)


def through_folders(files, other, options, name):
    with TemporaryDirectory() as top:
        home, out = Path(top, f"in {name}"), Path(top, f"out {name}")
        for path, data in {**files, other: b"notes"}.items():
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).write_bytes(data)
        before = open_source(str(home))
        assert sum(map(len, before.values())) == len(files)
        after = purify_dataset(home, PURIFIER, output_dir=out, **options)
        assert list(before) == list(after)
        keeps_names = "keep_names" in options
        if keeps_names:
            assert {path for path in files if not (out / path).is_file()} == set()
        for split, rows in before.items():
            assert rows.features == after[split].features
            check_folders(list(rows), list(after[split]), as_jpeg=keeps_names)


def check_folders(before, after, *, as_jpeg):
    """Compare images and classes; a new ending may change the order of names."""
    expected = []
    for row in before:
        image = PURIFIER(row["image"])
        is_jpeg = as_jpeg and row["image"].format == "JPEG"
        expected.append((row.get("label"), seen(through_jpeg(image) if is_jpeg else image)))
    assert sorted((row.get("label"), seen(row["image"])) for row in after) == sorted(expected)


def through_jpeg(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return PILImage.open(buffer)


def through_samples(drawn):
    source, place = drawn
    purifier = PureGen("jpeg", jpeg_quality=50, columns=(place,))
    with TemporaryDirectory() as top:
        clean = purify_dataset(source, purifier, output_dir=Path(top, "out"), part_rows=2)
        assert len(clean) == len(source)
        for row in range(len(source)):
            before, after = source[row], clean[row]
            assert type(before) is type(after)
            expected, found = PURIFIER(before[place]), after[place]
            if isinstance(expected, torch.Tensor):
                assert torch.equal(found, expected)
            else:
                assert seen(found) == seen(expected)
            assert same(without(after, place), without(before, place))


def without(sample, place):
    """A sample, without its image."""
    return {k: v for k, v in sample.items() if k != place} if isinstance(sample, dict) else sample[1:]


WAYS = st.sampled_from(["object", "split", "stream", "saved", "files", "file"])
OTHERS = st.sampled_from(["notes.txt", ".DS_Store", "skipped.txt"])
OPTIONS = st.sampled_from([{}, {"image_format": "png"}, {"keep_names": True}])

any_tables = given(drawn=tables(), way=WAYS, part_rows=st.integers(1, 4), name=NAMES)
any_folder = given(files=folders(), other=OTHERS, options=OPTIONS, name=NAMES)
any_samples = given(drawn=torch_sets())


@examples(8)
@any_tables
def test_tables_come_out_as_they_went_in(**drawn):
    through_tables(**drawn)


@examples(8)
@any_folder
def test_folders_come_out_as_they_went_in(**drawn):
    through_folders(**drawn)


@examples(8)
@any_samples
def test_samples_come_out_as_they_went_in(**drawn):
    through_samples(**drawn)


MANY = 680
"""Examples of each kind of data set in the slow tier."""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@examples(MANY)
@any_tables
def test_many_tables_come_out_as_they_went_in(**drawn):
    through_tables(**drawn)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@examples(MANY)
@any_folder
def test_many_folders_come_out_as_they_went_in(**drawn):
    through_folders(**drawn)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@examples(MANY)
@any_samples
def test_many_samples_come_out_as_they_went_in(**drawn):
    through_samples(**drawn)
