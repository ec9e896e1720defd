"""Who imports whom, and how light the package is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "puregen_transforms"

MAY_IMPORT = {
    "functional": set(),
    "models": {"functional"},
    "purifier": {"functional"},
    "hub": {"models"},
    "transforms": {"functional", "models", "purifier", "hub"},
    "data": set(),
    "train": {"functional", "models", "data"},
    "attacks": {"functional", "models", "data", "train"},
    "detection": {"functional", "models", "purifier", "hub", "transforms", "data", "train"},
    "defenses": {"functional", "models", "purifier", "hub", "transforms", "data", "train", "detection"},
    "inspection": {"functional", "models", "purifier", "hub", "transforms", "data", "detection"},
    "review": {"functional", "models", "purifier", "hub", "transforms", "data", "detection", "inspection"},
    "evaluate": {
        "functional",
        "models",
        "purifier",
        "hub",
        "transforms",
        "data",
        "train",
        "attacks",
        "detection",
        "defenses",
        "inspection",
    },
    "whole_sets": {"functional", "models", "purifier", "hub", "transforms", "data"},
    "cleaning": {"purifier", "data", "detection", "inspection", "whole_sets"},
    "cli": {
        "functional",
        "models",
        "purifier",
        "hub",
        "transforms",
        "data",
        "train",
        "attacks",
        "detection",
        "defenses",
        "evaluate",
        "inspection",
        "review",
        "whole_sets",
        "cleaning",
    },
}
OPEN_TO_ALL = {
    "_docs",
    "_lazy",
    "_extras",
    "_figures",
    "_files",
    "_html",
    "_limits",
    "_text",
    "_progress",
    "__version__",
}


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
        if room in {"evaluate", "whole_sets", "cleaning", "cli", "transforms"}:
            rooms -= {"PureGen"}
        assert rooms <= MAY_IMPORT[room], f"{path.name} imports {rooms - MAY_IMPORT[room]}"


@pytest.mark.parametrize("folder", ["puregen_transforms", "benchmarks"])
def test_no_file_is_long(folder):
    lengths = {path.name: len(path.read_text().splitlines()) for path in (PACKAGE.parent / folder).rglob("*.py")}
    assert {name: count for name, count in lengths.items() if count > 400} == {}


def loaded_modules(code):
    code += "; import sys; print(*sorted(name for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stderr, "importing must not warn"
    return set(done.stdout.split())


def test_the_package_imports_nothing_heavy():
    loaded = loaded_modules("import puregen_transforms")
    assert not loaded & {"torch", "torchvision", "datasets", "accelerate", "diffusers", "matplotlib", "huggingface_hub"}


def test_sub_packages_import_nothing_heavy():
    names = [name for name in MAY_IMPORT if (PACKAGE / name / "__init__.pyi").exists()]
    loaded = loaded_modules("import " + ", ".join(f"puregen_transforms.{name}" for name in names))
    assert len(names) >= 8
    assert not loaded & {*HEAVY, "datasets", "matplotlib", "huggingface_hub", "numpy", "pyarrow"}


def test_puregen_imports_only_what_purifying_needs():
    loaded = loaded_modules("from puregen_transforms import PureGen; PureGen()")
    assert "torch" in loaded
    assert not loaded & {"datasets", "accelerate", "diffusers", "matplotlib", "ray"}
    rooms = {name.split(".")[1] for name in loaded if name.startswith("puregen_transforms.")}
    assert not rooms & {"train", "data", "evaluate", "inspection", "cli"}


HEAVY = {"torch", "torchvision", "torch._dynamo", "accelerate", "diffusers"}


def loaded_by(*command):
    """Modules that a command has imported when it is done."""
    code = (
        f"from puregen_transforms.cli.main import app; app({[str(word) for word in command]!r}, standalone_mode=False)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print('loaded', *sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.rpartition("loaded ")[2].split())


@pytest.fixture(scope="module")
def copies(tmp_path_factory, tiny_checkpoint):
    """A purified folder of images, a purified Parquet file, and the folder they are of."""
    from datasets import Dataset, Features, Image
    from PIL import Image as PILImage

    from puregen_transforms import PureGen
    from puregen_transforms.whole_sets.part_by_part import purify_copy
    from puregen_transforms.whole_sets.plan import copy_of

    home = tmp_path_factory.mktemp("copies")
    (home / "in").mkdir()
    pictures = [PILImage.new("RGB", (16, 16), color) for color in ("red", "blue")]
    for number, picture in enumerate(pictures):
        picture.save(home / f"in/{number}.png")
    Dataset.from_dict({"image": pictures}, features=Features({"image": Image()})).to_parquet(home / "in.parquet")
    purifier = PureGen(checkpoint=tiny_checkpoint, ebm_steps=1, seed=0, device="cpu")
    for source, destination in (("in", "out"), ("in.parquet", "out.parquet")):
        source, destination = home / source, home / destination
        purify_copy(copy_of(str(source), destination), destination, purifier, fit=PureGen.fit)
    return home


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["hub", "list"],
        ["hub", "card", "ebm-imagenet32-nf64"],
        ["attack", "--help"],
        ["evaluate", "--help"],
        ["train", "ebm", "--help"],
        ["train", "vab", "--help"],
        ["purify", "--help"],
        ["review", "--help"],
        ["clean", "--help"],
        ["doctor", "--help"],
    ],
)
def test_help_and_lists_load_nothing_heavy(command):
    assert not loaded_by(*command) & {*HEAVY, "datasets", "numpy"}


def test_hub_commands_that_refuse_their_arguments_load_no_torch(tmp_path):
    (tmp_path / "there").mkdir()
    assert not loaded_by("hub", "pull", "ebm-imagenet32-nf64", tmp_path / "there") & HEAVY
    assert not loaded_by("hub", "push", tmp_path / "there", "someone/name") & HEAVY


def test_verify_loads_no_torch(copies):
    assert not loaded_by("verify", copies / "out") & {*HEAVY, "datasets"}
    assert not loaded_by("verify", copies / "out.parquet") & HEAVY
    assert not loaded_by("verify", copies / "out", "--source", copies / "in") & HEAVY


def test_report_loads_no_torch(tmp_path):
    record = Path(__file__).parents[1] / "benchmarks/results/narcissus.json"
    assert not loaded_by("report", record, "--output", tmp_path / "report") & {*HEAVY, "datasets"}
    assert list((tmp_path / "report").glob("*.png")), "figures included"
