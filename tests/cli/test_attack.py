"""`puregen attack`."""

import shutil

import PIL.Image
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from typer.testing import CliRunner

from puregen_transforms.attacks import ATTACKS, Poison
from puregen_transforms.attacks.stored_images import to_tensor
from puregen_transforms.cli.main import app
from puregen_transforms.data.demo import load_demo
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.hub.catalogue import DEFAULT_EBM


@pytest.fixture
def folder(tmp_path, images):
    """Sixteen 64-px images in two classes."""
    for index, image in enumerate(images[:16]):
        path = tmp_path / "pictures" / ("cat", "dog")[index % 2] / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image.permute(1, 2, 0).numpy()).resize((64, 64)).save(path)
    return tmp_path / "pictures"


def run(*arguments):
    return CliRunner().invoke(app, ["attack", *map(str, arguments)])


def test_an_image_folder_is_poisoned(folder, tmp_path):
    poisoned = tmp_path / "poisoned.parquet"
    result = run(
        "blended", folder, tmp_path / "out", "--target-class", "dog", "--rate", 0.25, "--poisoned-set", poisoned
    )
    assert result.exit_code == 0, result.output
    poison = Poison.load(tmp_path / "out")
    assert len(poison) == 4
    assert (tmp_path / "out/poison.png").stat().st_size > 10_000
    rows = load_dataset("parquet", data_files=str(poisoned), cache_dir=str(tmp_path / "cache"), split="train")
    assert len(rows) == 16
    for place, row in enumerate(poison.ids.tolist()):
        assert rows[row]["label"] == 1
        assert torch.equal(to_tensor(rows[row]["image"]), poison.images[place])


def test_other_settings_and_presets(folder, tmp_path):
    result = run(
        "sig", folder, tmp_path / "out", "--preset", "smoke", "--set", "frequency=3", "--set", "target_class=dog"
    )
    assert result.exit_code == 0, result.output
    recipe = Poison.load(tmp_path / "out").recipe
    assert (recipe["frequency"], recipe["target_class"], recipe["rate"]) == (3, "dog", 0.05)


def test_an_attack_that_learns(folder, tmp_path):
    options = ["--preset", "smoke", "--rate", "0.2", "--epsilon", "4", "--public", folder, "--target-class", "dog"]
    result = run("narcissus", folder, tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    poison = Poison.load(tmp_path / "out")
    assert (poison.budget, poison.labels.tolist()) == (4, [1, 1, 1])


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"tact"}))  # which needs a third class
def test_every_attack_takes_an_image_folder(folder, tmp_path, name):
    options = ["--preset", "smoke", "--rate", "0.2", "--public", folder, "--targets", folder]
    if not ATTACKS[name].availability and name != "label_noise":
        options += ["--target-class", "cat"]
    if "targets" in ATTACKS[name].needs:
        options += ["--source-class", "dog", "--set", "target_index=2"]
    result = run(name, folder, tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    poison = Poison.load(tmp_path / "out")
    assert poison.images.shape[1:] == (3, 64, 64)
    assert (tmp_path / "out/poison.png").stat().st_size > 10_000
    if "targets" in ATTACKS[name].needs:
        dog = PIL.Image.open(sorted((folder / "dog").iterdir())[2])
        assert torch.equal(poison.target_images[0], to_tensor(dog))


def test_goals_and_variations(folder, tmp_path):
    options = ["--rate", "0.5", "--set", "goal=all_to_all", "--set", "jitter=2", "--set", "reencode=90"]
    result = run("trojan", folder, tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    poison = Poison.load(tmp_path / "out")
    dataset = ImageSet.load(str(folder))
    assert torch.equal(poison.labels, 1 - dataset.labels[poison.ids])
    assert (poison.goal, poison.recipe["jitter"], poison.recipe["reencode"]) == ("all_to_all", 2, 90)


def test_an_attacker_who_knows_the_defense(folder, tmp_path):
    options = ["--preset", "smoke", "--rate", "0.2", "--public", folder, "--set", "defense_aware=both"]
    options += ["--set", "langevin_steps=1", "--set", "rounds=2"]
    result = run("narcissus", folder, tmp_path / "out", *options, "--energy", DEFAULT_EBM)
    assert result.exit_code == 0, result.output
    result = run("narcissus", folder, tmp_path / "other", *options)
    assert result.exit_code == 1
    assert "--energy" in result.output


def test_the_list_names_every_attack(monkeypatch):
    monkeypatch.setattr("rich.console.Console._environ", {"COLUMNS": "250", "TERM": "xterm"})
    result = run("list")
    assert result.exit_code == 0
    lines = {words[0]: words for line in result.output.splitlines() if (words := line.replace("│", " ").split())}
    assert set(ATTACKS) <= set(lines)
    assert lines["badnets"][1:3] == ["dirty-label", "–"]
    assert lines["sig"][1:3] == ["clean-label", "–"]
    assert lines["gcb"][1:4] == ["labels", "alone", "–"]
    assert "goal='all_to_one'" in result.output
    assert "jitter=0" not in result.output
    assert "--set reencode=75" in " ".join(result.output.split())
    assert lines["bullseye_polytope"][1:4] == ["clean-label", "--public,", "--targets"]
    assert " ".join(lines["narcissus"][2:5]) == "--public, --energy if"


def test_the_preset_is_cpu_unless_another_is_named(folder, tmp_path):
    result = run("wanet", folder, tmp_path / "out", "--set", "cover_rate=0.1")
    assert result.exit_code == 0, result.output
    assert Poison.load(tmp_path / "out").recipe["rate"] == ATTACKS["wanet"].config.preset("cpu").rate == 0.2
    refused = run("wanet", folder, tmp_path / "other", "--preset", "tiny")
    assert refused.exit_code == 2
    assert all(choice in refused.output for choice in ("smoke", "cpu", "paper"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bednets", [], "Expected an attack out of badnets"),
        ("badnets", ["--rate", "0.2", "--target-class", "horse"], "Expected a class out of cat, dog"),
        ("sig", ["--rate", "0.9"], "at least 14 images of class cat to poison, but there are 8"),
        ("badnets", ["--rate", "0.0001"], "at least one row"),
        ("badnets", ["--epsilon", "0"], "Expected settings out of"),
        ("sig", ["--set", "strength=0"], "above 0"),
        ("narcissus", ["--epsilon", "0"], "`epsilon` above 0"),
        ("narcissus", ["--rate", "0.2"], "besides the training set (`public`, --public)"),
        ("gradient_matching", ["--rate", "0.2"], "one of which is to be misread (`targets`, --targets)"),
        ("gradient_matching", ["--epsilon", "0"], "`epsilon` above 0"),
        ("ntga", ["--epsilon", "0"], "`epsilon` above 0"),
        ("sig", ["--set", "strength"], "NAME=VALUE"),
        ("sig", ["--set", "goal=all_to_all"], "Expected settings out of"),
        ("badnets", ["--set", "goal=next"], "all_to_one, all_to_all, untargeted"),
        ("wanet", ["--rate", "0.2", "--set", "jitter=1"], "Leave out `jitter`"),
        ("gcb", ["--rate", "0.2", "--set", "reencode=75"], "labels alone"),
        ("badnets", ["--set", "jitter=two"], "`jitter`"),
        ("badnets", ["--split", "test"], "Expected one of the splits"),
        ("badnets", ["--rate", "0.2", "--poisoned-set", "poisoned.csv"], ".parquet"),
    ],
)
def test_what_is_wrong_is_said(folder, tmp_path, name, options, message):
    result = run(name, folder, tmp_path / "out", *options)
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    assert run("badnets", folder, tmp_path / "out", "--rate", "0.2").exit_code == 1
    assert run("badnets", folder).exit_code == 1


def test_images_without_classes_or_of_several_sizes_are_refused(folder, tmp_path):
    PIL.Image.new("RGB", (40, 40)).save(folder / "cat/odd.png")
    result = run("badnets", folder, tmp_path / "out", "--rate", "0.2")
    assert result.exit_code == 1
    assert "one size" in result.output


def test_a_folder_of_several_sizes_becomes_a_poisoned_folder(tmp_path):
    demo, source = load_demo(), tmp_path / "photos"
    for row in range(20):
        side = 32 if row % 3 else 48
        folder = source / ("cat", "dog")[row % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture = PIL.Image.fromarray(demo.images[row].permute(1, 2, 0).numpy()).resize((side, 40))
        picture.save(folder / f"{row}.jpg")
    out, options = tmp_path / "poisoned", ("--target-class", "dog", "--rate", "0.25")
    refused = run("badnets", source, tmp_path / "p", *options)
    assert refused.exit_code == 1
    assert "--size" in refused.output
    done = run("badnets", source, tmp_path / "p", *options, "--size", "24", "--poisoned-set", out)
    assert done.exit_code == 0, done.output
    names = sorted(path.name for path in out.rglob("*.png"))
    assert names == [f"{row:02}.png" for row in range(20)], "every image looks alike from outside"
    poison, found = Poison.load(tmp_path / "p"), ImageSet.load(str(out))
    clean = ImageSet.load(str(source), size=24)
    assert found.size == (24, 24)
    _, labels = poison.apply_to_tensors(clean.images, clean.labels)
    assert torch.bincount(found.labels).tolist() == torch.bincount(labels).tolist()
    poisoned = {image.numpy().tobytes() for image in poison.images}
    assert poisoned <= {image.numpy().tobytes() for image in found.images}


def test_a_poisoned_folder_can_keep_the_names_of_its_source(tmp_path):
    demo, source, out = load_demo(), tmp_path / "photos", tmp_path / "poisoned"
    for row in range(20):
        path = source / ("cat", "dog")[row % 2] / f"IMG {row // 2}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(demo.images[row].permute(1, 2, 0).numpy()).save(path)
    options = ("--target-class", "dog", "--rate", "0.2", "--poisoned-set", out, "--keep-names")
    done = run("badnets", source, tmp_path / "p", *options)
    assert done.exit_code == 0, done.output
    poison, clean = Poison.load(tmp_path / "p"), ImageSet.load(str(source))
    moved = [row for row in poison.ids.tolist() if clean.labels[row] == 0]
    assert moved
    for place, row in enumerate(poison.ids.tolist()):
        name = f"IMG {row}-{row}.png" if row in moved else f"IMG {row - 10}.png"
        assert torch.equal(to_tensor(PIL.Image.open(out / "dog" / name)), poison.images[place])
    others = set(range(20)) - {*poison.ids.tolist()}
    for row in others:
        path = out / clean.class_names[clean.labels[row]] / f"IMG {row % 10}.png"
        assert torch.equal(to_tensor(PIL.Image.open(path)), clean.images[row])
    assert len(list(out.rglob("*.png"))) == 20
    refused = run("badnets", source, tmp_path / "q", "--rate", "0.2", "--keep-names")
    assert "--poisoned-set" in refused.output


def test_images_with_a_palette_are_attacked_where_they_may_be_converted(folder, tmp_path):
    path = folder / "cat/00.png"
    PIL.Image.open(path).quantize(32).save(path)
    options = ("--target-class", "dog", "--rate", "0.2")
    assert "--convert" in run("badnets", folder, tmp_path / "out", *options).output
    done = run("badnets", folder, tmp_path / "out", *options, "--convert")
    assert done.exit_code == 0, done.output


def test_a_poisoned_parquet_file_stands_alone_and_tells_nothing(folder, tmp_path):
    done = run("badnets", folder, tmp_path / "p", "--rate", "0.2", "--poisoned-set", tmp_path / "set.parquet")
    assert done.exit_code == 0, done.output
    cells = pq.read_table(tmp_path / "set.parquet").column("image").to_pylist()
    assert {cell["bytes"][:4] for cell in cells} == {b"\x89PNG"}
    assert {cell["path"] for cell in cells} == {None}
    shutil.rmtree(folder)
    assert len(ImageSet.load(str(tmp_path / "set.parquet"))) == len(cells)
