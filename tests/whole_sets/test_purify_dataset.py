"""`purify_dataset`: every kind of data set, and what becomes of a second call."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDatasetDict,
    Value,
    load_dataset,
)
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision.datasets import ImageFolder, VisionDataset
from torchvision.transforms import v2

from puregen_transforms import PureGen, PurifiedDataset, purify_dataset
from puregen_transforms.whole_sets.manifest import manifest_of, manifest_path, read_records, read_settings
from tests.whole_sets.conftest import content, pixels


@pytest.fixture(scope="module")
def folder(pictures, tmp_path_factory):
    home = tmp_path_factory.mktemp("folder")
    for row, picture in enumerate(pictures[:10]):
        path = home / ("cat" if row % 2 == 0 else "dog") / f"{row}.png"
        path.parent.mkdir(exist_ok=True)
        picture.save(path)
    return home


class Pictures(VisionDataset):
    """Like CIFAR10: PIL images, labels, classes."""

    classes = ["cat", "dog"]  # noqa: RUF012

    def __init__(self, pictures, **options):
        super().__init__("", **options)
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        image, label = self.pictures[index], index % 2
        return (image, label) if self.transforms is None else self.transforms(image, label)


class Samples:
    """Any map-style data set."""

    def __init__(self, make, rows=6):
        self.make = make
        self.rows = rows

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        return self.make(index)


class TestTorch:
    def test_samples_and_interface_are_those_of_the_source(self, pictures, purifier, tmp_path):
        source = Pictures(pictures[:20], transform=v2.PILToTensor(), target_transform=lambda label: label + 10)
        clean = purify_dataset(source, purifier, output_dir=tmp_path / "out", part_rows=7)
        assert isinstance(clean, PurifiedDataset)
        assert len(clean) == 20
        assert clean.classes == ["cat", "dog"]
        assert clean.class_to_idx == {"cat": 0, "dog": 1}
        assert clean.targets == [row % 2 for row in range(20)]
        expected = purifier(pictures[:20])
        for row in range(20):
            image, label = clean[row]
            assert label == row % 2 + 10
            assert torch.equal(image, v2.functional.pil_to_tensor(expected[row]))
        images, labels = next(iter(DataLoader(clean, batch_size=20, num_workers=2)))
        assert images.shape == (20, 3, 32, 32)
        assert labels.tolist() == [row % 2 + 10 for row in range(20)]

    def test_it_opens_without_the_source(self, pictures, purifier, tmp_path):
        purify_dataset(Pictures(pictures[:4]), purifier, output_dir=tmp_path / "out")
        image, label = PurifiedDataset(tmp_path / "out")[3]
        assert (image.size, label) == ((32, 32), 1)
        opened = load_dataset(str(tmp_path / "out"), split="train")
        assert opened.features["label"].names == ["cat", "dog"]

    def test_image_folder(self, folder, purifier, tmp_path):
        source = ImageFolder(folder, transform=v2.RandomHorizontalFlip(1.0))
        clean = purify_dataset(source, purifier, output_dir=tmp_path / "out")
        assert clean.classes == source.classes
        assert clean.targets == source.targets
        expected = purifier([ImageFolder(folder)[row][0] for row in range(10)])
        flipped = [clean[row][0].transpose(0) for row in range(10)]
        assert np.array_equal(pixels(flipped), pixels(expected))

    def test_subset(self, pictures, purifier, tmp_path):
        source = Subset(Pictures(pictures, transform=v2.PILToTensor()), [5, 2])
        clean = purify_dataset(source, purifier, output_dir=tmp_path / "out")
        assert [clean[row][1] for row in range(2)] == [1, 0]
        assert torch.equal(clean[0][0], v2.functional.pil_to_tensor(purifier([pictures[5]])[0]))

    @pytest.mark.parametrize("form", ["uint8", "float", "gray"])
    def test_tensors_stay_tensors(self, images, purifier, tmp_path, form):
        batch = images[:4] if form != "gray" else images[:4, :1]
        batch = batch.float() / 255 if form == "float" else batch
        clean = purify_dataset(TensorDataset(batch, torch.arange(4)), purifier, output_dir=tmp_path / "out")
        after = torch.stack([clean[row][0] for row in range(4)])
        assert after.dtype == batch.dtype
        assert torch.allclose(after.float(), purifier(batch).float(), atol=1e-6)
        assert clean.targets == [0, 1, 2, 3]
        assert torch.equal(clean[3][1], torch.tensor(3))

    def test_dicts_lists_and_images_alone(self, pictures, purifier, tmp_path):
        expected = purifier(pictures[:6])
        kinds = {
            "dict": lambda row: {"picture": pictures[row], "name": f"n{row}", "box": torch.tensor([1.0, row])},
            "list": lambda row: [row, pictures[row], 0.5],
            "alone": lambda row: pictures[row],
        }
        clean = {
            name: purify_dataset(Samples(make), purifier, output_dir=tmp_path / name) for name, make in kinds.items()
        }
        sample = clean["dict"][2]
        assert list(sample) == ["picture", "name", "box"]
        assert sample["name"] == "n2"
        assert torch.equal(sample["box"], torch.tensor([1.0, 2.0]))
        assert np.array_equal(sample["picture"], expected[2])
        row, image, half = clean["list"][3]
        assert (row, half) == (3, 0.5)
        assert np.array_equal(image, expected[3])
        assert np.array_equal(clean["alone"][4], expected[4])

    def test_what_a_table_cannot_hold_is_explained(self, pictures, purifier, tmp_path):
        with pytest.raises(ValueError, match="object as 'field_1'"):
            purify_dataset(Samples(lambda row: (pictures[row], object())), purifier, output_dir=tmp_path / "out")
        with pytest.raises(ValueError, match="before Normalize"):
            purify_dataset(
                Samples(lambda row: (torch.full((3, 32, 32), -1.0), row)), purifier, output_dir=tmp_path / "out"
            )
        with pytest.raises(ValueError, match="empty"):
            purify_dataset(Samples(None, rows=0), purifier, output_dir=tmp_path / "out")
        with pytest.raises(ValueError, match="IterableDataset"):
            purify_dataset(iter(()), purifier, output_dir=tmp_path / "out")
        assert list(tmp_path.iterdir()) == []


class TestHuggingFace:
    def test_dataset(self, table, purifier, tmp_path):
        clean = purify_dataset(table, purifier, output_dir=tmp_path / "out", part_rows=25)
        assert isinstance(clean, Dataset)
        assert clean.features == table.features
        assert clean["row"][:] == list(range(60))
        assert np.array_equal(pixels(clean["image"][:]), pixels(purifier(table["image"][:])))
        assert len(list((tmp_path / "out/data").iterdir())) == 3

    def test_splits(self, table, purifier, tmp_path):
        source = DatasetDict({"train": table.select(range(4)), "extra": table.select(range(4, 6))})
        clean = purify_dataset(source, purifier, output_dir=tmp_path / "out")
        assert isinstance(clean, DatasetDict)
        assert {name: split["row"][:] for name, split in clean.items()} == {"train": [0, 1, 2, 3], "extra": [4, 5]}

    @pytest.mark.parametrize("way", ["table", "splits", "stream", "file"])
    def test_a_mask_is_never_guessed_to_be_an_input(self, pictures, purifier, tmp_path, way):
        masks = [picture.convert("P") for picture in pictures[4:8]]
        features = Features({"image": Image(), "mask": Image()})
        rows = Dataset.from_dict({"image": pictures[:4], "mask": masks}, features=features)
        rows.to_parquet(tmp_path / "in.parquet")
        source = {
            "table": rows,
            "splits": DatasetDict({"train": rows}),
            "stream": rows.to_iterable_dataset(),
            "file": tmp_path / "in.parquet",
        }[way]
        with pytest.raises(ValueError, match=r"\['image', 'mask'\]"):
            purify_dataset(source, purifier, output_dir=tmp_path / "out")
        named = PureGen(**{**purifier.to_dict(), "columns": "image"}, device="cpu")
        clean = purify_dataset(source, named, output_dir=tmp_path / "out")
        after = list(clean["train"] if isinstance(clean, DatasetDict) else clean)
        assert [row["mask"].tobytes() for row in after] == [mask.tobytes() for mask in masks]
        assert np.array_equal(pixels(row["image"] for row in after), pixels(purifier(pictures[:4])))

    def test_splits_of_other_columns_or_classes_stop_before_the_work(self, table, purifier, tmp_path):
        swapped = table.cast_column("label", ClassLabel(names=["dog", "cat"]))
        for other, message in ((swapped, "'label' is .*'dog', 'cat'"), (table.remove_columns("row"), "'row' is")):
            with pytest.raises(ValueError, match=message):
                purify_dataset(DatasetDict({"train": table, "test": other}), purifier, output_dir=tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    def test_several_streams_are_not_taken_for_samples(self, table, purifier, tmp_path):
        stream = table.to_iterable_dataset()
        with pytest.raises(ValueError, match="several in a IterableDatasetDict"):
            purify_dataset(IterableDatasetDict({"train": stream}), purifier, output_dir=tmp_path / "out")

    def test_a_slice_of_a_split(self, table, purifier, tmp_path):
        table.to_parquet(tmp_path / "in.parquet")
        half = load_dataset("parquet", data_files=str(tmp_path / "in.parquet"), split="train[50%:]")
        clean = purify_dataset(half, purifier, output_dir=tmp_path / "out")
        assert clean["row"][:] == list(range(30, 60))

    def test_path(self, folder, table, purifier, tmp_path):
        clean = purify_dataset(folder, purifier, output_dir=tmp_path / "images")
        assert clean["train"].features["label"].names == ["cat", "dog"]
        table.to_parquet(tmp_path / "in.parquet")
        clean = purify_dataset(str(tmp_path / "in.parquet"), purifier, output_dir=tmp_path / "tables")
        assert clean["train"]["row"][:] == list(range(60))

    def test_fitted_methods_look_at_all_images_first(self, table, tiny_checkpoint, tiny_ddpm, tmp_path):
        purifier = PureGen(
            "filt", checkpoint=tiny_checkpoint, ddpm_checkpoint=tiny_ddpm, ddpm_steps=2, filter_fraction=0.25, seed=0
        )
        clean = purify_dataset(table, purifier, output_dir=tmp_path / "out", part_rows=25)
        changed = (pixels(clean["image"][:]) != pixels(table["image"][:])).any((1, 2, 3))
        assert changed.sum() == 15
        again = PureGen(
            "filt", checkpoint=tiny_checkpoint, ddpm_checkpoint=tiny_ddpm, ddpm_steps=2, filter_fraction=0.25
        )
        assert purify_dataset(table, again, output_dir=tmp_path / "out", part_rows=25)["row"][:] == list(range(60))


class TestStreams:
    @pytest.fixture
    def shards(self, table, tmp_path):
        for shard in range(3):
            table.select(range(20 * shard, 20 * shard + (20 if shard < 2 else 13))).to_parquet(
                tmp_path / f"in/{shard}.parquet"
            )
        return load_dataset("parquet", data_files=str(tmp_path / "in/*.parquet"), split="train", streaming=True)

    def test_rows_and_images(self, shards, table, purifier, tmp_path):
        clean = purify_dataset(shards, purifier, output_dir=tmp_path / "out", part_rows=8)
        rows = list(clean)
        assert [row["row"] for row in rows] == list(range(53))
        assert np.array_equal(pixels(row["image"] for row in rows), pixels(purifier(table["image"][:53])))
        assert clean.features == shards.features

    def test_a_killed_run_goes_on_within_a_shard(self, shards, purifier, tmp_path, monkeypatch):
        purify_dataset(shards, purifier, output_dir=tmp_path / "whole", part_rows=8)
        stop_after(monkeypatch, parts=2)
        with pytest.raises(KeyboardInterrupt):
            purify_dataset(shards, purifier, output_dir=tmp_path / "out", part_rows=8)
        monkeypatch.undo()
        purify_dataset(shards, purifier, output_dir=tmp_path / "out", part_rows=8)
        assert content(tmp_path / "out") == content(tmp_path / "whole")

    @pytest.mark.parametrize("cut", ["take", "skip"])
    def test_rows_that_were_cut_off(self, shards, purifier, tmp_path, cut):
        stream = getattr(shards, cut)(25)
        rows = list(purify_dataset(stream, purifier, output_dir=tmp_path / "out", part_rows=8))
        assert [row["row"] for row in rows] == [row["row"] for row in stream]

    def test_webdataset_shards(self, pictures, purifier, tmp_path):
        import io
        import tarfile

        (tmp_path / "in").mkdir()
        for shard in range(2):
            with tarfile.open(tmp_path / f"in/{shard}.tar", "w") as archive:
                for row in range(5 * shard, 5 * shard + 5):
                    buffer = io.BytesIO()
                    pictures[row].save(buffer, "PNG")
                    for name, data in (("png", buffer.getvalue()), ("cls", str(row).encode())):
                        member = tarfile.TarInfo(f"{row:04d}.{name}")
                        member.size = len(data)
                        archive.addfile(member, io.BytesIO(data))
        stream = load_dataset("webdataset", data_files=str(tmp_path / "in/*.tar"), split="train", streaming=True)
        rows = list(purify_dataset(stream, purifier, output_dir=tmp_path / "out", part_rows=3))
        assert [row["cls"] for row in rows] == list(range(10))
        assert np.array_equal(pixels(row["png"] for row in rows), pixels(purifier(pictures[:10])))

    def test_unknown_features_are_explained(self, table, purifier, tmp_path):
        stream = table.to_iterable_dataset().map(lambda row: {"x": 1}, features=Features({"x": Value("int64")}))
        with pytest.raises(ValueError, match="column of images"):
            purify_dataset(stream.select_columns("x"), purifier, output_dir=tmp_path / "out")


def stop_after(monkeypatch, *, parts):
    """Have the next run interrupted in the part after so many."""
    from puregen_transforms.whole_sets.unfinished_copy import UnfinishedCopy

    add = UnfinishedCopy.add
    left = [parts]

    def adding(self, record):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        add(self, record)

    monkeypatch.setattr(UnfinishedCopy, "add", adding)


class TestGoingOn:
    def begin(self, source, purifier, tmp_path, monkeypatch, **options):
        """A run that stops after one part of three."""
        stop_after(monkeypatch, parts=1)
        with pytest.raises(KeyboardInterrupt):
            purify_dataset(source, purifier, output_dir=tmp_path / "out", part_rows=20, **options)
        monkeypatch.undo()
        assert (tmp_path / "out.unfinished").exists()
        assert not (tmp_path / "out").exists()

    def go_on(self, source, purifier, tmp_path, **options):
        return purify_dataset(source, purifier, output_dir=tmp_path / "out", part_rows=20, **options)

    def test_only_what_is_missing_is_done(self, table, purifier, tmp_path, monkeypatch):
        purify_dataset(table, purifier, output_dir=tmp_path / "whole", part_rows=20)
        self.begin(table, purifier, tmp_path, monkeypatch)
        seen = []
        monkeypatch.setattr(PureGen, "forward", counting(seen))
        self.go_on(table, purifier, tmp_path)
        assert sum(seen) == 40
        assert content(tmp_path / "out") == content(tmp_path / "whole")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]

    def test_a_complete_copy_is_opened(self, table, purifier, tmp_path, monkeypatch):
        self.go_on(table, purifier, tmp_path)
        seen = []
        monkeypatch.setattr(PureGen, "forward", counting(seen))
        assert len(self.go_on(table, purifier, tmp_path)) == 60
        assert not seen

    def test_a_seed_that_was_drawn_is_kept(self, table, tiny_checkpoint, tmp_path, monkeypatch):
        unseeded = PureGen(checkpoint=tiny_checkpoint, ebm_steps=2, device="cpu", dtype="float32")
        self.begin(table, unseeded, tmp_path, monkeypatch)
        clean = self.go_on(table, unseeded, tmp_path)
        seed = read_settings(tmp_path / "out/purified.jsonl")["purifier"]["seed"]
        seeded = PureGen(checkpoint=tiny_checkpoint, ebm_steps=2, device="cpu", dtype="float32", seed=seed)
        assert np.array_equal(pixels(clean["image"][:]), pixels(seeded(table["image"][:])))

    @pytest.mark.parametrize("finished", [False, True])
    def test_other_settings_are_refused_by_name(
        self, table, purifier, tiny_checkpoint, tmp_path, monkeypatch, finished
    ):
        if finished:
            self.go_on(table, purifier, tmp_path)
        else:
            self.begin(table, purifier, tmp_path, monkeypatch)
        other = PureGen(checkpoint=tiny_checkpoint, ebm_steps=3, seed=0, device="cpu", dtype="float32")
        with pytest.raises((ValueError, FileExistsError), match="ebm_steps was 2 and is 3"):
            self.go_on(table, other, tmp_path)
        with pytest.raises((ValueError, FileExistsError), match="rows, train was 60 and is 59"):
            self.go_on(table.select(range(59)), purifier, tmp_path)
        self.go_on(table, purifier, tmp_path)

    def test_other_weights_are_refused(self, table, purifier, tmp_path, monkeypatch):
        from tests.conftest import make_checkpoint

        self.begin(table, purifier, tmp_path, monkeypatch)
        other = make_checkpoint(tmp_path / "other", seed=1)
        with pytest.raises(ValueError, match="weights, ebm was"):
            self.go_on(table, PureGen(checkpoint=other, ebm_steps=2, seed=0, device="cpu", dtype="float32"), tmp_path)

    def test_the_same_weights_elsewhere_are_the_same(self, table, purifier, tmp_path, monkeypatch):
        from tests.conftest import make_checkpoint

        self.begin(table, purifier, tmp_path, monkeypatch)
        moved = make_checkpoint(tmp_path / "moved")
        self.go_on(table, PureGen(checkpoint=moved, ebm_steps=2, seed=0, device="cpu", dtype="float32"), tmp_path)

    def test_a_changed_pixel_in_a_finished_part_is_noticed(self, pictures, table, purifier, tmp_path, monkeypatch):
        self.begin(table, purifier, tmp_path, monkeypatch)
        changed = [picture.copy() for picture in pictures]
        changed[3].putpixel((0, 0), (1, 2, 3))
        features = table.features
        other = Dataset.from_dict({**table.to_dict(), "image": changed}, features=features)
        with pytest.raises(ValueError, match="rows 0 to 19 of split 'train' have changed"):
            self.go_on(other, purifier, tmp_path)

    def test_a_complete_copy_of_other_pixels_is_not_opened(self, pictures, table, purifier, tmp_path):
        self.go_on(table, purifier, tmp_path)
        changed = [picture.copy() for picture in pictures]
        changed[-1].putpixel((0, 0), (1, 2, 3))
        other = Dataset.from_dict({**table.to_dict(), "image": changed}, features=table.features)
        with pytest.raises(FileExistsError, match="rows 40 to 59 of split 'train' have changed"):
            self.go_on(other, purifier, tmp_path)

    def test_changed_metadata_of_a_folder_are_noticed(self, pictures, purifier, tmp_path):
        (tmp_path / "in").mkdir()
        pictures[0].save(tmp_path / "in/0.png")
        (tmp_path / "in/metadata.csv").write_text("file_name,label\n0.png,1\n")
        purify_dataset(tmp_path / "in", purifier, output_dir=tmp_path / "out")
        (tmp_path / "in/metadata.csv").write_text("file_name,label\n0.png,2\n")
        with pytest.raises(FileExistsError, match="other files was"):
            purify_dataset(tmp_path / "in", purifier, output_dir=tmp_path / "out")

    def test_a_copy_of_before_revisions_were_part_of_a_checkpoint_is_complete(self, table, purifier, tmp_path):
        purify_dataset(table, purifier, output_dir=tmp_path / "out")
        path = manifest_path(tmp_path / "out")
        settings = read_settings(path)
        settings["purifier"] |= {"revision": None, "ddpm_revision": None}
        path.write_bytes(manifest_of(settings, list(read_records(path))))
        before = path.read_bytes()
        purify_dataset(table, purifier, output_dir=tmp_path / "out")
        assert path.read_bytes() == before

    def test_a_process_that_outlived_its_run_stops(self, table, purifier, tmp_path, monkeypatch):
        from puregen_transforms.whole_sets.unfinished_copy import UnfinishedCopy

        add = UnfinishedCopy.add

        def begun_anew_meanwhile(job, record):
            add(job, record)
            settings = job.earlier()
            (job.folder / "job.json").write_text(json.dumps({**settings, "on_error": "skip"}))

        monkeypatch.setattr(UnfinishedCopy, "add", begun_anew_meanwhile)
        with pytest.raises(BlockingIOError, match="another run has begun"):
            purify_dataset(table, purifier, output_dir=tmp_path / "out", part_rows=20)
        assert [record.name for record in UnfinishedCopy(tmp_path / "out").records()] == ["train-00000-of-00003"]

    def test_random_images_are_noticed(self, pictures, purifier, tmp_path, monkeypatch):
        source = Samples(lambda row: (torch.rand(3, 32, 32), row), rows=60)
        with pytest.raises(ValueError, match="sample 0 is another: a random transform"):
            self.go_on(source, purifier, tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_other_images_than_before_are_noticed(self, purifier, tmp_path, monkeypatch):
        level = 0.25
        source = Samples(lambda row: (torch.full((3, 32, 32), level), row), rows=60)
        self.begin(source, purifier, tmp_path, monkeypatch)
        level = 0.5
        with pytest.raises(ValueError, match="Random transforms"):
            self.go_on(source, purifier, tmp_path)

    def test_a_damaged_part_is_done_again(self, table, purifier, tmp_path, monkeypatch):
        purify_dataset(table, purifier, output_dir=tmp_path / "whole", part_rows=20)
        self.begin(table, purifier, tmp_path, monkeypatch)
        part = min((tmp_path / "out.unfinished/result/data").iterdir())
        part.write_bytes(part.read_bytes()[:-100])
        self.go_on(table, purifier, tmp_path)
        assert content(tmp_path / "out") == content(tmp_path / "whole")

    def test_another_run_at_the_same_place_is_refused(self, table, purifier, tmp_path):
        from puregen_transforms.whole_sets.unfinished_copy import UnfinishedCopy

        with UnfinishedCopy(tmp_path / "out").locked(), pytest.raises(BlockingIOError, match="another run"):
            self.go_on(table, purifier, tmp_path)
        self.go_on(table, purifier, tmp_path)

    def test_the_manifest_tells_all(self, table, purifier, tmp_path):
        self.go_on(table, purifier, tmp_path)
        settings = read_settings(tmp_path / "out/purified.jsonl")
        assert settings["purifier"]["ebm_steps"] == 2
        assert settings["weights"] == purifier.weights
        assert settings["source"]["rows"] == {"train": 60}
        records = list(read_records(tmp_path / "out/purified.jsonl"))
        assert [(record.start, record.stop, record.rows) for record in records] == [
            (0, 20, 20),
            (20, 40, 20),
            (40, 60, 20),
        ]


def counting(seen):
    forward = PureGen.forward

    def counted(self, *inputs):
        seen.append(len(inputs[0]))
        return forward(self, *inputs)

    return counted


@pytest.fixture
def broken(table):
    cells = table.cast_column("image", Image(decode=False)).to_dict()
    cells["image"][7] = {"bytes": b"no image", "path": None}
    return Dataset.from_dict(cells, features=table.features)


def test_broken_rows_are_left_out_of_the_first_look_too(broken, tiny_checkpoint, tiny_ddpm, tmp_path):
    purifier = PureGen("filt", checkpoint=tiny_checkpoint, ddpm_checkpoint=tiny_ddpm, ddpm_steps=2, seed=0)
    with pytest.warns(UserWarning, match="1 images could not be repaired"):
        clean = purify_dataset(broken, purifier, output_dir=tmp_path / "out", on_error="skip")
    assert len(clean) == 59


def test_broken_rows_stop_or_are_left_out(broken, purifier, tmp_path):
    with pytest.raises(ValueError, match="row 7, column image"):
        purify_dataset(broken, purifier, output_dir=tmp_path / "out")
    with pytest.warns(UserWarning, match="1 images could not be repaired"):
        clean = purify_dataset(broken, purifier, output_dir=tmp_path / "out", on_error="skip")
    assert clean["row"][:] == [row for row in range(60) if row != 7]
