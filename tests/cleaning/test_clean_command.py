"""`puregen clean`: image folders and Parquet files, with every thing that may become of an image."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
from datasets import load_dataset
from torchvision.datasets import ImageFolder
from typer.testing import CliRunner

from puregen_transforms.cli.main import app
from puregen_transforms.data.sources import open_source
from puregen_transforms.detection import whole_search
from puregen_transforms.detection.whole_search import search_set
from puregen_transforms.whole_sets.manifest import read_settings
from puregen_transforms.whole_sets.verify import changes_since, problems_of
from tests.cleaning.conftest import COUNT, POISONED, cells, content, images_of, stamped, write_folder


def run(*arguments, command="clean"):
    words = [command, *map(str, arguments)]
    return CliRunner().invoke(app, [*words, "--budget", "2m", "--device", "cpu"] if command == "clean" else words)


def clean(*arguments):
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    return done


def is_poison(name):
    return int(name.rpartition("/")[2][:3]) in POISONED


def test_a_folder_loses_its_poison_and_nothing_else(every_search, tmp_path):
    folder = write_folder(tmp_path / "images", stamped(10))
    before = content(folder)
    done = clean(folder, tmp_path / "out")

    def is_poison(name):
        return int(name.rpartition("/")[2][:3]) % 10 == 0

    assert images_of(tmp_path / "out") == {name: data for name, data in before.items() if not is_poison(name)}
    assert content(folder) == before, "the source is as it was"
    assert len(ImageFolder(tmp_path / "out")) == 180
    assert not list(problems_of(tmp_path / "out"))
    said = " ".join(done.stdout.split())
    assert "Poisoned: 20 of 200 images should not be learned." in said
    assert "Not looked for, so it could still be there" in said
    skipped = json.loads((tmp_path / "out/skipped.json").read_text())
    assert {row["file"] for row in skipped} == {name for name in before if is_poison(name)}
    assert "found by stamps: the same patch" in skipped[0]["reason"]
    lines = list(csv.DictReader((tmp_path / "out.report/images.csv").open()))
    assert {line["name"] for line in lines if line["verdict"] == "poison"} == {row["file"] for row in skipped}
    assert not (tmp_path / "out.report/.unfinished").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out", "out.report"]


def test_the_manifest_says_what_was_found_and_who_decided(folder, tmp_path):
    clean(folder, tmp_path / "out", "--seed", 3)
    settings = read_settings(tmp_path / "out/purified.jsonl")
    (verdict,) = settings["cleaning"]["verdict"].values()
    assert (verdict["level"], verdict["flagged"], verdict["found_by"]) == ("poisoned", 16, {"stamps": 16})
    assert verdict["not_looked_for"]
    assert settings["cleaning"]["rule"]["flagged"] == "drop"
    assert settings["cleaning"]["rule"]["seed"] == 3
    assert settings["cleaning"]["versions"]["detectors"] == {"stamps": whole_search.SEARCHES[0].detector.version}
    assert settings["purifier"] == {}, "no image was changed"


def test_nothing_found_is_a_copy_byte_for_byte(pictures, tmp_path):
    rows = [pair for row, pair in enumerate(pictures) if row not in POISONED]
    source = write_folder(tmp_path / "images", rows)
    (source / "notes.txt").write_text("kept")
    (source / "empty").mkdir()
    clean(source, tmp_path / "out", "--fail-on-flagged")
    copied = content(tmp_path / "out")
    del copied["purified.jsonl"]
    assert copied == content(source)
    assert (tmp_path / "out/empty").is_dir(), "folders without an image are there as well"
    assert not (tmp_path / "out/skipped.json").exists()


def test_pipelines_see_it_in_the_exit_code(folder, tmp_path):
    assert run(folder, tmp_path / "out", "--fail-on-flagged").exit_code == 2
    assert (tmp_path / "out").is_dir()


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(folder, tmp_path):
    done = clean(folder, tmp_path / "out", "--dry-run", "--others", "purify")
    said = " ".join(done.stdout.split())
    assert f"{COUNT} images of split 'train', of about 32x32 pixels" in said
    assert "Searches: stamps" in said
    assert "Not searched by class_split: not within the budget; raise it to 20m." in said
    assert "Time of the search: about" in said
    assert f"for {COUNT} images of about 32x32 pixels" in said
    assert "Nothing was written" in said
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


class TestQuarantine:
    def test_keeps_names_and_folders_so_that_a_file_can_be_put_back(self, folder, tmp_path):
        clean(folder, tmp_path / "out", "--flagged", "quarantine")
        quarantine, before = tmp_path / "out.quarantine", content(folder)
        assert images_of(quarantine) == {name: data for name, data in before.items() if is_poison(name)}
        assert not images_of(tmp_path / "out").keys() & images_of(quarantine).keys()
        assert len(ImageFolder(tmp_path / "out")) == COUNT - len(POISONED), "no image in quarantine is among them"
        for name in images_of(quarantine):
            shutil.move(quarantine / name, tmp_path / "out" / name)
        assert images_of(tmp_path / "out") == before

    def test_a_file_that_was_put_back_stays_in_the_next_run(self, folder, tmp_path):
        clean(folder, tmp_path / "out", "--flagged", "quarantine")
        shutil.move(tmp_path / "out.quarantine/dog/000.png", tmp_path / "out/dog/000.png")
        clean(folder, tmp_path / "out", "--flagged", "quarantine")
        assert (tmp_path / "out/dog/000.png").exists()
        assert not (tmp_path / "out.quarantine/dog/000.png").exists()

    def test_is_not_made_where_nothing_was_found(self, pictures, tmp_path):
        rows = [pair for row, pair in enumerate(pictures) if row not in POISONED]
        clean(write_folder(tmp_path / "images", rows), tmp_path / "out", "--flagged", "quarantine")
        assert not (tmp_path / "out.quarantine").exists()

    def test_of_a_table_is_a_table(self, table, tmp_path):
        table.to_parquet(tmp_path / "set.parquet")
        clean(tmp_path / "set.parquet", tmp_path / "out.parquet", "--flagged", "quarantine")
        kept, gone = (
            load_dataset("parquet", data_files=str(tmp_path / name), split="train")
            for name in ("out.parquet", "out.quarantine.parquet")
        )
        assert gone["id"][:] == POISONED
        assert sorted([*kept["id"][:], *gone["id"][:]]) == list(range(COUNT))
        assert not list(problems_of(tmp_path / "out.quarantine.parquet"))


class TestPurify:
    def test_flagged_images_alone(self, folder, tmp_path):
        clean(folder, tmp_path / "out", "--flagged", "purify")
        before, after = images_of(folder), images_of(tmp_path / "out")
        assert before.keys() == after.keys()
        assert {name for name in before if before[name] != after[name]} == set(filter(is_poison, before))
        assert not list(problems_of(tmp_path / "out"))

    @pytest.mark.slow
    def test_all_others(self, folder, tmp_path):
        clean(folder, tmp_path / "out", "--others", "purify")
        before, after = images_of(folder), images_of(tmp_path / "out")
        assert after.keys() == {name for name in before if not is_poison(name)}
        assert all(before[name] != data for name, data in after.items())
        assert read_settings(tmp_path / "out/purified.jsonl")["purifier"]["seed"] == 0

    def test_a_lossy_image_is_renamed_only_if_it_is_purified(self, pictures, tmp_path):
        source = tmp_path / "images"
        for row, (picture, label) in enumerate(pictures):
            path = source / f"{label}/{row:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, "GIF" if row in POISONED else "PNG")
        picture.save(source / "1/kept.jpg", "JPEG")
        clean(source, tmp_path / "out", "--flagged", "purify")
        assert (tmp_path / "out/1/kept.jpg").read_bytes() == (source / "1/kept.jpg").read_bytes()


class TestFolders:
    def test_metadata_follow(self, pictures, tmp_path):
        source = write_folder(tmp_path / "images", pictures, name=lambda row, label: f"{row:03d}.png")
        write_folder(source / "masks", pictures, name=lambda row, label: f"{row:03d}.png")
        (source / "metadata.csv").write_text(
            "file_name,mask_file_name,label\n"
            + "".join(f"{row:03d}.png,masks/{row:03d}.png,{label}\n" for row, (_, label) in enumerate(pictures))
        )
        clean(source, tmp_path / "out", "--column", "image", "--flagged", "quarantine")
        kept = [row for row in range(COUNT) if row not in POISONED]
        for place, rows in (("out", kept), ("out.quarantine", POISONED)):
            names = {f"{row:03d}.png" for row in rows}
            assert images_of(tmp_path / place).keys() == names | {f"masks/{name}" for name in names}
            lines = list(csv.DictReader((tmp_path / place / "metadata.csv").open()))
            assert [line["file_name"] for line in lines] == sorted(names)
            assert len(open_source(str(tmp_path / place))["train"]) == len(rows)
        assert not list(problems_of(tmp_path / "out"))

    def test_a_class_without_an_image_is_no_folder_any_more_and_is_named(self, pictures, tmp_path):
        name = lambda row, label: f"{'trap' if row in POISONED else label}/{row:03d}.png"  # noqa: E731
        source = write_folder(tmp_path / "images", pictures, name=name)
        done = clean(source, tmp_path / "out")
        assert "No image is left in trap: labels taken from folder names will be numbered anew." in done.stderr
        assert "trap" not in ImageFolder(tmp_path / "out").classes
        assert not list(problems_of(tmp_path / "out"))

    def test_each_split_is_searched_on_its_own(self, pictures, tmp_path):
        source = tmp_path / "images"
        write_folder(source / "train", pictures)
        write_folder(source / "test", [pair for row, pair in enumerate(pictures) if row not in POISONED])
        clean(source, tmp_path / "out")
        rows = {split: len(found) for split, found in open_source(str(tmp_path / "out")).items()}
        assert rows == {"train": COUNT - len(POISONED), "test": COUNT - len(POISONED)}
        assert sorted(path.name for path in (tmp_path / "out.report").iterdir()) == ["test", "train"]
        clean(source, tmp_path / "one", "--split", "train")
        assert images_of(tmp_path / "one").keys() == {
            name for name in images_of(tmp_path / "out") if name.startswith("train/")
        }

    def test_all_flagged_is_an_error_that_says_where_to_look(self, pictures, tmp_path):
        source = write_folder(tmp_path / "images", [pictures[row] for row in POISONED])
        done = run(source, tmp_path / "out")
        assert done.exit_code == 1
        said = " ".join(done.stderr.split())
        assert "Expected some image to be left, but all 16 are flagged" in said
        assert str(tmp_path / "out.report/report.html") in said
        assert not (tmp_path / "out").exists()


class TestTables:
    def test_cells_order_and_other_columns_stay(self, table, tmp_path):
        table.to_parquet(tmp_path / "set.parquet")
        clean(tmp_path / "set.parquet", tmp_path / "out")
        kept = load_dataset(str(tmp_path / "out"), split="train")
        rows = [row for row in range(COUNT) if row not in POISONED]
        assert kept.features == table.features
        assert kept["id"][:] == rows
        assert kept["label"][:] == [table["label"][row] for row in rows]
        stored = cells(load_dataset("parquet", data_files=str(tmp_path / "set.parquet"), split="train"))
        assert cells(kept) == [stored[row] for row in rows]
        assert not list(problems_of(tmp_path / "out"))
        left_out = json.loads((tmp_path / "out/skipped.json").read_text())
        assert [row["row"] for row in left_out] == POISONED

    @pytest.mark.slow
    def test_parts_do_not_matter(self, table, tmp_path):
        table.to_parquet(tmp_path / "set.parquet")
        for place, rows in (("a", 7), ("b", 1024)):
            clean(tmp_path / "set.parquet", tmp_path / place, "--part-rows", rows, "--flagged", "purify")
        a, b = (load_dataset(str(tmp_path / place), split="train") for place in "ab")
        assert cells(a) == cells(b)
        changed = [row for row, (new, old) in enumerate(zip(cells(a), cells(table), strict=True)) if new != old]
        assert changed == POISONED
        assert not list(problems_of(tmp_path / "a"))

    def test_a_saved_set_is_cleaned_into_parquet(self, table, tmp_path):
        table.save_to_disk(tmp_path / "saved")
        clean(tmp_path / "saved", tmp_path / "out")
        assert len(load_dataset(str(tmp_path / "out"), split="train")) == COUNT - len(POISONED)


class TestSecondRun:
    def test_answers_from_its_records(self, folder, tmp_path, monkeypatch):
        first = clean(folder, tmp_path / "out")
        written = content(tmp_path / "out")
        monkeypatch.setattr("puregen_transforms.cleaning.decision.search_set", lambda *given, **settings: 1 / 0)
        second = clean(folder, tmp_path / "out")
        assert content(tmp_path / "out") == written
        assert "complete already" in second.stdout
        found = first.stdout.partition("Clean copy")[0]
        assert found and second.stdout.startswith(found), "the verdict, and what was not looked for, are said again"

    def test_by_another_rule_is_refused_before_the_search(self, folder, tmp_path, monkeypatch):
        clean(folder, tmp_path / "out")
        monkeypatch.setattr("puregen_transforms.cleaning.decision.search_set", lambda *given, **settings: 1 / 0)
        done = run(folder, tmp_path / "out", "--flagged", "quarantine")
        assert done.exit_code == 1
        assert 'rule, flagged was "drop" and is "quarantine"' in " ".join(done.stderr.split())

    def test_of_changed_data_is_refused(self, folder, tmp_path):
        clean(folder, tmp_path / "out")
        (folder / "dog/new.png").write_bytes((folder / "dog/000.png").read_bytes())
        assert run(folder, tmp_path / "out").exit_code == 1


def test_what_changed_after_it_was_searched_does_not_get_into_the_copy(folder, tmp_path, monkeypatch):
    def search_and_change(*given, **settings):
        verdict = search_set(*given, **settings)
        changed = next(path for path in folder.rglob("*.png") if int(path.stem) not in POISONED)
        changed.write_bytes(changed.read_bytes() + b"more")
        return verdict

    monkeypatch.setattr("puregen_transforms.cleaning.decision.search_set", search_and_change)
    done = run(folder, tmp_path / "out")
    assert done.exit_code == 1
    assert "Expected the data that were searched, but rows 0 to 79 have changed since" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_verify_notices_a_change_of_the_copy_and_of_its_source(folder, tmp_path):
    clean(folder, tmp_path / "out")
    out = tmp_path / "out"
    assert not list(changes_since(out, str(folder)))
    assert run(out, "--source", folder, command="verify").exit_code == 0
    gone = folder / "dog/000.png"
    gone.write_bytes(gone.read_bytes() + b"more")
    assert list(changes_since(out, str(folder))), "of an image that was left out, too"
    kept = next(path for path in out.rglob("*.png"))
    kept.write_bytes(kept.read_bytes() + b"more")
    assert run(out, command="verify").exit_code == 1


def test_verify_compares_a_table_with_its_source(table, tmp_path):
    table.to_parquet(tmp_path / "set.parquet")
    clean(tmp_path / "set.parquet", tmp_path / "out")
    assert not list(changes_since(tmp_path / "out", str(tmp_path / "set.parquet")))


@pytest.mark.parametrize("options", [(), ("--report", "SRC/report")], ids=["copy", "report"])
def test_nothing_is_written_into_the_source(folder, tmp_path, options):
    options = [str(option).replace("SRC", str(folder)) for option in options]
    before = content(folder)
    done = run(folder, tmp_path / "out" if options else folder / "out", *options)
    assert done.exit_code == 1
    assert "destination outside the source" in " ".join(done.stderr.split())
    assert content(folder) == before


def test_a_copy_is_cleaned_once_more_without_the_list_of_the_first(folder, tmp_path, monkeypatch):
    clean(folder, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("puregen_transforms.cleaning.decision.search_set", lambda *given, **settings: 1 / 0)
        done = run(tmp_path / "out", tmp_path / "again")
    assert done.exit_code == 1
    assert "skipped.json" in done.stderr, "said before the search"
    (tmp_path / "out/skipped.json").unlink()
    clean(tmp_path / "out", tmp_path / "again")
    assert images_of(tmp_path / "again") == images_of(tmp_path / "out")


def test_what_is_there_is_not_overwritten(folder, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    monkeypatch.setattr("puregen_transforms.cleaning.decision.search_set", lambda *given, **settings: 1 / 0)
    done = run(folder, tmp_path / "out")
    assert done.exit_code == 1
    assert "nothing is overwritten" in done.stderr
    assert content(tmp_path / "out") == {"mine.txt": b"mine"}
    assert run(folder, tmp_path / "out", "--dry-run").exit_code == 1
    (tmp_path / "new.quarantine").mkdir()
    (tmp_path / "new.quarantine/mine.txt").write_text("mine")
    done = run(folder, tmp_path / "new", "--flagged", "quarantine")
    assert done.exit_code == 1
    assert "nothing is overwritten" in done.stderr
