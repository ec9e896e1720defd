"""Formats of others, and that nothing in them is run."""

import os
import pickle

import numpy as np
import pytest
import torch

from puregen_transforms.attacks.published import load_narcissus_trigger, load_poisoning_benchmark
from puregen_transforms.attacks.stored_images import to_pil


def write(folder, **content):
    for name, value in content.items():
        (folder / f"{name}.pickle").write_bytes(pickle.dumps(value))


@pytest.fixture
def setup(tmp_path, image_set):
    rows = [40, 3, 17]
    changed = (image_set.images[rows].int() + 4).clamp(0, 255).byte()
    write(
        tmp_path,
        poisons=[(to_pil(image), 2) for image in changed],
        base_indices=np.array(rows),
        target=(to_pil(image_set.images[100]), int(image_set.labels[100])),
    )
    return tmp_path, rows, changed


def test_a_setup_of_the_poisoning_benchmark(setup, image_set):
    folder, rows, changed = setup
    poison = load_poisoning_benchmark(folder, image_set)
    images, labels = poison.apply_to_tensors(image_set.images, image_set.labels)
    assert torch.equal(images[rows], changed)
    assert labels[rows].tolist() == [2, 2, 2]
    assert (poison.budget, poison.target_class) == (4, 2)
    assert torch.equal(poison.target_images, image_set.images[100:101])
    with pytest.raises(ValueError, match="no trigger"):
        poison.trigger_test_set(image_set.images, image_set.labels)


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize("evil", [Evil(), [Evil()], (np.float32(1), Evil())])
def test_code_in_a_pickle_is_not_run(setup, image_set, evil, monkeypatch):
    folder = setup[0]
    monkeypatch.chdir(folder)
    write(folder, poisons=evil)
    with pytest.raises(ValueError, match=r"it wants (posix|nt)\.system"):
        load_poisoning_benchmark(folder, image_set)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"base_indices": [1, 2]}, "a row of the set's 200"),
        ({"base_indices": [1, 1, 2]}, "a row of the set's 200"),
        ({"base_indices": [1, 2, 900]}, "a row of the set's 200"),
        ({"poisons": [1, 2, 3]}, "pairs"),
        ({"poisons": [(torch.nn.Identity, 1)]}, "it wants torch"),
        ({"target": 3}, "pairs"),
    ],
)
def test_other_content_is_refused(setup, image_set, content, match):
    write(setup[0], **content)
    with pytest.raises(ValueError, match=match):
        load_poisoning_benchmark(setup[0], image_set)


def test_a_narcissus_trigger(tmp_path, image_set):
    path = tmp_path / "trigger.npy"
    np.save(path, np.full((1, 3, 32, 32), 16 / 255, dtype=np.float32))  # 8/255 of the range of pixels
    trigger = load_narcissus_trigger(path, scale=2)
    expected = (image_set.images.int() + 16).clamp(0, 255).byte()
    assert torch.equal(trigger(image_set.images), expected)
    for bad, match in [
        (np.zeros((32, 32)), "1, 3, H, W"),
        (np.full((3, 4, 4), 16.0), "within"),
        (np.array([Evil()]), "allow_pickle=False"),
    ]:
        np.save(path, bad, allow_pickle=True)
        with pytest.raises(ValueError, match=match):
            load_narcissus_trigger(path)
