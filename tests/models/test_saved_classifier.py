import json

import pytest
import torch
from safetensors.torch import load_file

from puregen_transforms.models import build_classifier, load_classifier, save_classifier


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    model = build_classifier("tiny", 3)
    model(torch.randn(4, 3, 32, 32))
    save_classifier(model, tmp_path, name="tiny", class_names=("a", "b", "c"), image_size=(32, 32))
    return tmp_path, model.eval()


def test_a_classifier_comes_back_as_it_was(folder):
    path, model = folder
    saved = load_classifier(path)
    assert (saved.class_names, saved.image_size) == (("a", "b", "c"), (32, 32))
    assert not saved.model.training
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(saved.model(images), model(images))
    counts = [value for name, value in load_file(path / "model.safetensors").items() if name.endswith("tracked")]
    assert {(value.dtype, value.item()) for value in counts} == {(torch.int64, 1)}


def test_what_is_no_classifier_is_refused(folder):
    path, model = folder
    with pytest.raises(FileNotFoundError, match=r"no file config\.json"):
        load_classifier(path / "nothing")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "class_names": ["a", "b"]}))
    with pytest.raises(ValueError, match="Expected a classifier in"):
        load_classifier(path)
    (path / "config.json").write_text(json.dumps({"nf": 4}))
    with pytest.raises(ValueError, match="Expected a classifier in"):
        load_classifier(path)
    torch.nn.init.constant_(model[0].weight, torch.inf)
    with pytest.raises(ValueError, match="finite weights"):
        save_classifier(model, path, name="tiny", class_names=("a", "b", "c"), image_size=(32, 32))
