"""Batch norms folded into convolutions."""

import pytest
import torch

from puregen_transforms.models.classifiers import CLASSIFIERS, build_classifier
from puregen_transforms.models.folding import FoldedNorms


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_results_and_gradients_are_the_networks_own(name):
    torch.manual_seed(0)
    model, images = build_classifier(name, 3).double(), torch.rand(4, 3, 32, 32).double()
    with torch.no_grad():
        model.train()(images)  # statistics that are not 0 and 1
    folded = FoldedNorms(model.eval(), images[:1])
    assert [id(parameter) for parameter in folded.parameters()] == [id(parameter) for parameter in model.parameters()]
    torch.testing.assert_close(folded(images), model(images))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    mine, theirs = (torch.autograd.grad(network(images)[:, 0].square().sum(), trained) for network in (folded, model))
    torch.testing.assert_close(mine, theirs)
