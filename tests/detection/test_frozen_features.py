import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from puregen_transforms.detection import SuspectSet, frozen_features
from puregen_transforms.detection.frozen_features import read_features, resize, side_for
from puregen_transforms.hub.backbones import Backbone


@pytest.fixture
def backbone():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Backbone(
        network=network.eval(), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), side=64, any_side=True, sha256="a"
    )


def suspects(images, **given):
    return SuspectSet(images=images, **given)


def test_features_are_those_of_normalized_images(backbone, images):
    pixels = images[:3].float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    expected = backbone.network((pixels - mean) / std)
    assert torch.allclose(read_features(suspects(images[:3]), backbone, side=32), expected, atol=1e-5)


def test_an_image_has_the_same_features_in_any_company(backbone, images, threads):
    together = read_features(suspects(images), backbone, side=48)
    threads(2)
    assert torch.equal(read_features(suspects(images), backbone, side=48), together)
    threads(1)
    alone = torch.cat([read_features(suspects(image[None]), backbone, side=48) for image in images[:5]])
    assert torch.equal(alone, together[:5])


def test_images_of_any_form_and_size_are_read(backbone, images):
    picture = PIL.Image.fromarray(images[0].permute(1, 2, 0).numpy())
    mixed = [picture, None, np.zeros((40, 20, 3), np.uint8), images[1].float() / 255]
    found = read_features(suspects(mixed), backbone, side=32)
    assert found.shape == (4, 8)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 3]], read_features(suspects(images[:2]), backbone, side=32))


def test_enlarging_keeps_flat_colors_and_the_range():
    gray = torch.full((3, 5, 9), 200, dtype=torch.uint8)
    assert torch.allclose(resize(gray, 32), torch.full((3, 32, 32), 200.0), atol=1e-3)
    edge = torch.zeros(3, 8, 8, dtype=torch.uint8)
    edge[:, :, 4:] = 255
    assert resize(edge, 32).min() >= 0
    assert resize(edge, 32).max() <= 255


def test_what_is_finished_is_not_computed_again(backbone, images, tmp_path, monkeypatch):
    monkeypatch.setattr(frozen_features, "PART", 16)
    told = []

    def killed(what, done, total):
        told.append(done)
        if done == 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_features(suspects(images, state=tmp_path, progress=killed), backbone, side=32)
    assert told == [0, 16, 32]
    whole = read_features(suspects(images), backbone, side=32)

    class OnlyTheRest(frozen_features.FeatureReader):
        def read(self, found):
            assert not torch.equal(found[0], images[0])
            assert not torch.equal(found[0], images[16])
            return super().read(found)

    monkeypatch.setattr(frozen_features, "FeatureReader", OnlyTheRest)
    assert torch.equal(read_features(suspects(images, state=tmp_path), backbone, side=32), whole)


def test_kept_features_are_those_of_these_images_and_this_side(backbone, images, tmp_path):
    for side in (32, 48):
        for part in (images[:4], images[4:8]):
            found = read_features(suspects(part, state=tmp_path), backbone, side=side)
            assert torch.equal(found, read_features(suspects(part), backbone, side=side))
    assert len(list(tmp_path.iterdir())) == 4


def test_small_images_are_enlarged_up_to_what_the_network_knows(backbone):
    for shape, side in (((8, 8), 32), ((12, 40), 64), ((300, 300), 64)):
        assert side_for(suspects([None, torch.zeros(3, *shape, dtype=torch.uint8)]), backbone) == side
    fixed = Backbone(network=nn.Flatten(), mean=(0,) * 3, std=(1,) * 3, side=24, any_side=False, sha256="")
    assert side_for(suspects(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)), fixed) == 24


class TestBadInput:
    def test_no_image(self, backbone):
        for nothing in ([], [None, None]):
            with pytest.raises(ValueError, match="at least one image, but got none"):
                read_features(suspects(nothing), backbone, side=32)

    def test_an_image_that_cannot_be_read_is_named(self, backbone, images):
        with pytest.raises(ValueError, match="can be read in row 1"):
            read_features(suspects([images[0], "a path"]), backbone, side=32)
        with pytest.raises(ValueError, match="one image in row 0, but got 2"):
            read_features(suspects([images[:2]]), backbone, side=32)

    def test_features_that_are_not_finite(self, backbone, images):
        with torch.no_grad():
            backbone.network[0].weight[0] = torch.inf
        with pytest.raises(FloatingPointError, match=r"rows \[0, 1\] are not finite"):
            read_features(suspects(images[:2]), backbone, side=32)
