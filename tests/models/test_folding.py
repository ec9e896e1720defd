"""Batch norms folded into convolutions."""

import pytest
import torch
from torch import nn

from puregen_transforms.models.classifiers import CLASSIFIERS, build_classifier
from puregen_transforms.models.folding import FoldedNorms, fold_norms


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_results_and_gradients_are_the_networks_own(name):
    torch.manual_seed(0)
    model, images = build_classifier(name, 3).double(), torch.rand(2, 3, 16, 16).double()
    with torch.no_grad():
        model.train()(images)  # statistics that are not 0 and 1
    folded = FoldedNorms(model.eval(), images[:1])
    assert [id(parameter) for parameter in folded.parameters()] == [id(parameter) for parameter in model.parameters()]
    torch.testing.assert_close(folded(images), model(images))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    mine, theirs = (torch.autograd.grad(network(images)[:, 0].square().sum(), trained) for network in (folded, model))
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_folded_copy_has_the_same_results_and_the_network_is_as_it_was(name):
    torch.manual_seed(0)
    model, images = build_classifier(name, 3).double(), torch.rand(2, 3, 16, 16).double()
    with torch.no_grad():
        model.train()(images)
        before = model.eval()(images)
        folded = fold_norms(model, images[:1])
        torch.testing.assert_close(folded(images), before)
        assert torch.equal(model(images), before)
    count = sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert count < sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_the_activation_within_a_norm_stays():
    norm_act = pytest.importorskip("timm.layers.norm_act")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm_act.BatchNormAct2d(4), nn.Flatten()).eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        folded = fold_norms(model, images)
        assert folded is not model
        torch.testing.assert_close(folded(images), model(images))


class UsedTwice(nn.Module):
    """What the convolution gives goes around the norm, too, as in networks that normalize first."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images):
        given = self.convolution(images)
        return (given + self.norm(given).relu()).flatten(1)


class OneInAllCopies(nn.Sequential):
    """A network that is not copied."""

    def __deepcopy__(self, memo):
        return self


def with_a_computed_tensor():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    model.computed = 2 * model[0].weight
    return model


def test_networks_that_cannot_be_folded_are_returned_as_they_are():
    torch.manual_seed(0)
    images = torch.randn(4, 3, 8, 8)
    for model in (
        UsedTwice(),
        with_a_computed_tensor(),
        OneInAllCopies(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()),
    ):
        with torch.no_grad():
            model.train()(images)
            expected = model.eval()(images)
            assert fold_norms(model, images[:1]) is model
            torch.testing.assert_close(model(images), expected)
