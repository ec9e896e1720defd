"""Packages that export names without importing anything: a package's stub lists them, for editors and at run time."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_exports(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Export what the stub beside a package's `__init__.py` imports, each name on its first use.

    Args:
        package: name of the package.
        file: path of its `__init__.py`.

    Returns:
        Its `__getattr__`, `__dir__` and `__all__`.
    """
    homes = {
        alias.asname or alias.name: (f"{package}.{node.module}", alias.name)
        for node in ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = homes[name]
        return getattr(import_module(module), attribute)

    return get, lambda: sorted(homes), sorted(homes)
