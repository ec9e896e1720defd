"""Hypothesis draws small data sets as people have them: tables in splits, folders of classes, samples of torch."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from hypothesis import strategies as st
from PIL import Image as PILImage
from torch.utils.data import ConcatDataset, Subset

MODES = ["L", "LA", "RGB", "RGBA"]

ROWS = st.integers(1, 6)

NAMES = st.builds(
    lambda letters, number: letters.strip() + str(number),
    st.text("aB é[]*?'#%&{}~ 漢", min_size=1, max_size=6),
    st.integers(0, 99),
)
"""Names that files and columns may have."""

TEXTS = st.text("aB é'\"\\\n\t\0,;/漢🎈", max_size=8)
NUMBERS = st.floats(allow_nan=False)  # which is not equal to itself
INTEGERS = st.integers(-(2**63), 2**63 - 1)


@st.composite
def images(draw, modes=MODES):
    """Noise of a mode and a size; hypothesis draws its seed, as every pixel would be too much to draw."""
    mode = draw(st.sampled_from(modes))
    if mode == "P":
        return draw(images(["RGB"])).quantize(draw(st.integers(2, 32)))
    width, height = draw(st.integers(8, 20)), draw(st.integers(8, 20))
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pixels = noise.integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    return PILImage.fromarray(pixels.squeeze(-1) if len(mode) == 1 else pixels)


def encoded(picture, image_format="PNG"):
    """Store an image."""
    buffer = io.BytesIO()
    picture.save(buffer, image_format)
    return buffer.getvalue()


def cells(modes=MODES):
    """An image as a table stores it."""
    return images(modes).map(lambda picture: {"bytes": encoded(picture), "path": None})


@dataclass(frozen=True)
class Column:
    """A column of a table: its type, and what may stand in it."""

    feature: Any
    values: st.SearchStrategy[Any]


def columns():
    """Labels, numbers, texts and nested values, with nulls."""
    nested = {"x": Value("float64"), "names": List(Value("string"))}
    classes = st.lists(NAMES, min_size=3, max_size=3, unique=True)
    return st.one_of(
        classes.map(lambda names: Column(ClassLabel(names=names), st.sampled_from([0, 1, 2, -1]))),
        st.sampled_from(
            [
                Column(Value("int64"), st.none() | INTEGERS),
                Column(Value("int8"), st.none() | st.integers(-128, 127)),
                Column(Value("float64"), st.none() | NUMBERS),
                Column(Value("string"), st.none() | TEXTS),
                Column(Value("bool"), st.none() | st.booleans()),
                Column(Value("binary"), st.none() | st.binary(max_size=6)),
                Column(List(Value("int64")), st.none() | st.lists(INTEGERS, max_size=3)),
                Column(
                    nested,
                    st.fixed_dictionaries({"x": st.none() | NUMBERS, "names": st.lists(TEXTS, max_size=2)}),
                ),
            ]
        ),
    )


@dataclass(frozen=True)
class Tables:
    """Splits of the same columns, some of which are images to purify and some are masks."""

    features: Features
    inputs: list[str]
    columns: list[str] | None
    splits: dict[str, dict[str, list[Any]]]

    def dataset(self):
        """As `datasets` has it."""
        return DatasetDict(
            {split: Dataset.from_dict(cells, features=self.features) for split, cells in self.splits.items()}
        )


@st.composite
def tables(draw):
    """Tables of one to three splits."""
    inputs = ["picture", "second"][: draw(st.sampled_from([1, 1, 1, 2]))]
    masks = ["mask"][: draw(st.integers(0, 1))]
    others = {f"column {name}": draw(columns()) for name in draw(st.lists(NAMES, max_size=4, unique=True))}
    named = inputs if len(inputs + masks) > 1 else draw(st.sampled_from([None, inputs]))
    splits = {}
    for split in ["train", "test", "extra.1"][: draw(st.sampled_from([1, 1, 2, 3]))]:
        rows = draw(ROWS)

        def filled(values, rows=rows):
            return draw(st.lists(values, min_size=rows, max_size=rows))

        stored = {name: filled(st.none() | cells()) for name in inputs}
        stored[inputs[0]][0] = draw(cells())
        stored |= {name: filled(st.none() | cells([*MODES, "P"])) for name in masks}
        splits[split] = stored | {name: filled(column.values) for name, column in others.items()}
    features = {name: Image() for name in [*inputs, *masks]} | {name: one.feature for name, one in others.items()}
    return Tables(features=Features(features), inputs=inputs, columns=named, splits=splits)


_KINDS = {
    "png": ("PNG", MODES),
    "PNG": ("PNG", MODES),
    "bmp": ("BMP", ["RGB", "L", "RGBA"]),
    "tif": ("TIFF", MODES),
    "jpg": ("JPEG", ["RGB", "L"]),
    "": ("PNG", MODES),
}
"""The format of a file and its modes, by the ending of its name."""


@st.composite
def folders(draw):
    """The files of a folder of classes, by path."""
    classes = draw(
        st.lists(
            st.sampled_from(["train", "cat [1]", "dog", "test", "été"]) | NAMES, min_size=2, max_size=4, unique=True
        )
    )
    files = {}
    for split in draw(st.sampled_from([[""], ["train/", "Test/"]])):
        for name in classes:
            for row in range(draw(st.integers(1, 3))):
                suffix = draw(st.sampled_from(sorted(_KINDS)))
                kind, modes = _KINDS[suffix]
                path = f"{split}{name}/{row}{draw(NAMES)}" + ("." + suffix if suffix else "")
                files[path] = encoded(draw(images(modes)), kind)
    return files


class AnySamples:
    """A torch data set of listed samples."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, row):
        return self.samples[row]

    def __repr__(self):
        return f"AnySamples({self.samples})"


_PARTS = {
    "mixed": st.sampled_from([1, 2.5, True, None]),
    "label": st.integers(-5, 5),
    "big": st.integers(-(2**70), 2**70),
    "text": TEXTS,
    "list": st.lists(st.integers(0, 3), max_size=2),
    "tensor": st.lists(st.integers(0, 3), max_size=2).map(torch.tensor),
    "floats": st.lists(NUMBERS, max_size=2).map(lambda values: torch.tensor(values, dtype=torch.float64)),
    "nested": TEXTS.map(lambda text: {"a": (text, None)}),
    "array": st.lists(NUMBERS, max_size=2).map(np.array),
    "number": st.floats(width=32, allow_nan=False).map(np.float32),
}
"""What may stand beside the image of a sample."""


@st.composite
def tensors(draw):
    """A small uint8 image, gray or in color."""
    noise = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    return torch.randint(256, (draw(st.sampled_from([1, 3])), 8, 9), dtype=torch.uint8, generator=noise)


@st.composite
def torch_sets(draw):
    """Samples that are tuples, lists or dicts, as a data set or inside of wrappers; and the place of their image."""
    kind = draw(st.sampled_from(["tuple", "list", "dict"]))
    inputs = draw(st.sampled_from([images(), tensors()]))
    parts = [inputs, *(_PARTS[name] for name in draw(st.lists(st.sampled_from(sorted(_PARTS)), max_size=3)))]
    names = ["image", *(f"k{place}" for place in range(1, len(parts)))]
    sample = {
        "tuple": st.tuples(*parts),
        "list": st.tuples(*parts).map(list),
        "dict": st.tuples(*parts).map(lambda values: dict(zip(names, values, strict=True))),
    }[kind]
    samples = draw(st.lists(sample, min_size=1, max_size=5))
    found = AnySamples(samples)
    if draw(st.booleans()):
        found = Subset(found, draw(st.lists(st.integers(0, len(samples) - 1), min_size=1, max_size=5)))
    if draw(st.booleans()):
        found = ConcatDataset([found, AnySamples(samples)])
    return found, "image" if kind == "dict" else 0
