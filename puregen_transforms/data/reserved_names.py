"""Names of files in a folder of images that say something of the others."""

from __future__ import annotations

METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Tables of a folder's images, as `datasets` reads them."""

SKIPPED = "skipped.json"
"""Lists the images that a copy leaves out."""

MANIFEST = "purified.jsonl"
"""Tells of a purified copy what it consists of; the copy of a copy gets its own."""
