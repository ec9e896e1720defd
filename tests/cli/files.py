"""Files that commands are given, and what they leave."""

from __future__ import annotations

import io

import numpy as np
import pyarrow.parquet as pq
from PIL import Image as PILImage


def picture(seed, size=(16, 12), mode="RGB"):
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
    return PILImage.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode)


def encoded(image, image_format="PNG", **settings):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **settings)
    return buffer.getvalue()


def opened(data):
    return PILImage.open(io.BytesIO(data))


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def tree(folder):
    """All files but the manifest of a purified folder."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in files if name != "purified.jsonl")


def same(image, other):
    return image.mode == other.mode and image.size == other.size and image.tobytes() == other.tobytes()


def write_parquet(dataset, path):
    """What `to_parquet` writes; older versions of datasets cannot write a set without rows."""
    pq.write_table(dataset.data.table.cast(dataset.features.arrow_schema), path)


def nothing_left(folder, *expected):
    """Whether nothing is there but what is expected, and the manifest of a purified file."""
    found = sorted(path.name for path in folder.iterdir())
    return [name for name in found if not name.endswith(".purified.jsonl")] == sorted(expected)
