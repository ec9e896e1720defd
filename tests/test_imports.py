"""Who imports whom, and how light the package is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "puregen_transforms"

MAY_IMPORT = {
    "functional": set(),
    "models": set(),
    "purifier": {"functional"},
    "hub": {"models"},
    "transforms": {"functional", "models", "purifier", "hub"},
    "data": set(),
    "train": {"functional", "models", "data"},
    "attacks": {"functional", "models", "data", "train"},
    "defenses": {"functional", "models", "data", "train"},
    "inspection": {"functional", "models", "purifier", "hub", "transforms", "data"},
    "evaluate": {
        "functional",
        "models",
        "purifier",
        "hub",
        "transforms",
        "data",
        "train",
        "attacks",
        "defenses",
        "inspection",
    },
    "distributed": {"functional", "models", "purifier", "hub", "transforms", "data"},
    "cli": {
        "functional",
        "models",
        "purifier",
        "hub",
        "transforms",
        "data",
        "train",
        "attacks",
        "defenses",
        "evaluate",
        "inspection",
        "distributed",
    },
}
OPEN_TO_ALL = {"_extras", "_figures", "_files", "__version__"}


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "puregen_transforms":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]


def test_every_folder_has_a_rule():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == set(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_one_way(room):
    for path in (PACKAGE / room).rglob("*.py"):
        rooms = set(imported_rooms(path)) - OPEN_TO_ALL - {room}
        if room in {"evaluate", "distributed", "cli", "transforms"}:
            rooms -= {"PureGen"}
        assert rooms <= MAY_IMPORT[room], f"{path.name} imports {rooms - MAY_IMPORT[room]}"


def loaded_modules(code):
    code += "; import sys; print(*sorted(name for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stderr, "importing must not warn"
    return set(done.stdout.split())


def test_the_package_imports_nothing_heavy():
    loaded = loaded_modules("import puregen_transforms")
    assert not loaded & {"torch", "torchvision", "datasets", "accelerate", "diffusers", "matplotlib", "huggingface_hub"}


def test_puregen_imports_only_what_purifying_needs():
    loaded = loaded_modules("from puregen_transforms import PureGen; PureGen()")
    assert "torch" in loaded
    assert not loaded & {"datasets", "accelerate", "diffusers", "matplotlib", "ray"}
    rooms = {name.split(".")[1] for name in loaded if name.startswith("puregen_transforms.")}
    assert not rooms & {"train", "data", "evaluate", "inspection", "cli"}
