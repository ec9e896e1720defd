"""Settings given as NAME=VALUE on the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def parse_settings(given: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE pairs; a value is JSON, or else a word, and lists become tuples.

    Raises:
        ValueError: an argument without an equals sign.
    """
    settings: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"Expected a setting NAME=VALUE, but got {text!r}.")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
        if isinstance(settings[name], list):
            settings[name] = tuple(settings[name])
    return settings
