"""Classifiers, and where in them features are."""

import pytest
import torch

from puregen_transforms.models.classifiers import CLASSIFIERS, build_classifier
from puregen_transforms.models.features import add_dropout, feature_layers, features, head, recorded


@pytest.fixture(params=CLASSIFIERS)
def model(request):
    torch.manual_seed(0)
    return build_classifier(request.param, 5).eval()


def test_features_are_what_the_head_is_given(model):
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(head(model)(features(model, images)), model(images))


def test_stages_run_from_image_to_features(model):
    with torch.no_grad(), recorded(feature_layers(model)) as found:
        model(torch.rand(1, 3, 32, 32))
    assert len(found) == len(feature_layers(model)) >= 4
    sides = [part.shape[-1] for part in found]
    assert sides == sorted(sides, reverse=True)
    assert found[-1].shape[1] == head(model).in_features


def test_photographs_are_reduced_at_once_and_small_images_are_not(model, request):
    torch.manual_seed(0)
    name = request.node.callspec.params["model"]
    same, large = (build_classifier(name, 5, image_size=(side, side)).eval() for side in (64, 224))
    assert {key: value.shape for key, value in same.state_dict().items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }
    with torch.no_grad(), recorded(feature_layers(large)) as found:
        assert large(torch.rand(1, 3, 224, 224)).shape == (1, 5)
    assert found[0].shape[-1] <= 224 // 2
    assert found[-1].shape[-1] <= 8


def test_dropout_stays_on(model):
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), model(images))
        add_dropout(model, 0.3)
        assert not torch.equal(model(images), model(images))


def test_unknown_networks_are_named():
    with pytest.raises(ValueError, match="tiny, small, hlb, resnet18"):
        build_classifier("huge", 2)
