"""The attacks that optimize: that what they minimize falls, and that its parts are right."""

import itertools
import math

import pytest
import torch
from torch import nn

from puregen_transforms.attacks import ATTACKS, Attacker, bullseye_polytope, gradient_matching, narcissus, ntga
from puregen_transforms.attacks.surrogates import train_surrogate
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.models.classifiers import small_classifier
from puregen_transforms.models.config import EBMConfig
from puregen_transforms.models.ebm import EBM
from puregen_transforms.models.features import add_dropout


@pytest.fixture(scope="module")
def network(image_set):
    return train_surrogate("tiny", image_set.images, image_set.labels, classes=10, epochs=40, seed=0).eval()


@pytest.fixture
def targets(image_set):
    return ImageSet(image_set.images.flip(2), image_set.labels, image_set.class_names)


def craft(name, image_set, config, targets, network):
    """With a network in place of those that the attacker would train."""
    attacker = Attacker(given={"targets": targets, "public": targets}, train=lambda surrogates: [network])
    return ATTACKS[name].craft(image_set, config, attacker)


def test_gradient_matching_lowers_the_mismatch(network, image_set, targets):
    config = gradient_matching.GradientMatchingConfig.preset("smoke", rate=0.05, iterations=20, augment=False)
    poison = craft("gradient_matching", image_set, config, targets, network)
    label = poison.target_class
    wanted = gradient_matching.loss_gradient(network, poison.target_images, label)
    before, after = (
        gradient_matching.mismatch(network, wanted, images.float(), label).item()
        for images in (image_set.images[poison.ids], poison.images)
    )
    assert 0 <= after < before - 0.1 <= 2


def test_a_perfect_match_has_no_mismatch(network, image_set):
    image = image_set.images[:1]
    wanted = gradient_matching.loss_gradient(network, image, 4)
    assert gradient_matching.mismatch(network, wanted, image.float(), 4).item() == pytest.approx(0, abs=1e-3)
    opposite = [-part for part in wanted]
    assert gradient_matching.mismatch(network, opposite, image.float(), 4).item() == pytest.approx(2, abs=1e-3)


def test_shifts_move_each_image_by_itself(image_set):
    images = image_set.images[:1].float().expand(16, -1, -1, -1)
    moved = gradient_matching.shifted(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert len({tuple(image[0, 16, ::8].tolist()) for image in moved}) > 8
    assert 0 <= moved.min() <= moved.max() <= 255


@pytest.mark.parametrize("settings", [{}, {"mode": "end_to_end", "repeats": 2}])
def test_bullseye_comes_closer_to_the_target(image_set, targets, settings):
    torch.manual_seed(0)
    network = small_classifier(10, 8).eval()
    add_dropout(network, 0.1)
    config = bullseye_polytope.BullseyePolytopeConfig.preset("smoke", iterations=20, **settings)
    poison = craft("bullseye_polytope", image_set, config, targets, network)

    def distance(images):
        torch.manual_seed(1)
        goal = poison.target_images.float()
        return bullseye_polytope.distance(network, images.float(), goal, mode=config.mode, repeats=8).item()

    assert distance(poison.images) < 0.9 * distance(image_set.images[poison.ids])
    assert distance(poison.target_images) < distance(image_set.images[poison.ids])


def test_unknown_modes_are_named():
    with pytest.raises(ValueError, match="linear, end_to_end"):
        bullseye_polytope.BullseyePolytopeConfig(mode="diagonal")
    with pytest.raises(ValueError, match="none, surrogate, generation, both"):
        narcissus.NarcissusConfig(defense_aware="always")


def test_the_tangent_kernel_is_that_of_a_wide_network():
    """Of a network with 3 layers of 256 units, by its gradients in every parameter."""
    generator = torch.Generator().manual_seed(0)
    images, width, deviations = torch.rand(3, 3, 4, 4, generator=generator).double(), 256, (1.76**0.5, 0.18**0.5)
    sizes = [48, width, width, width]
    weights = [torch.randn(b, a, generator=generator).double() for a, b in itertools.pairwise(sizes)]
    biases = [torch.randn(b, generator=generator).double() for b in sizes[1:]]
    parameters = [*weights, *biases]
    for parameter in parameters:
        parameter.requires_grad_()
    gradients = []
    for image in images:
        x = image.flatten()
        for weight, bias in zip(weights, biases, strict=True):
            x = torch.erf(deviations[0] * (weight @ x) / math.sqrt(len(x)) + deviations[1] * bias)
        rows = [torch.autograd.grad(value, parameters, retain_graph=True) for value in x[:200]]
        gradients.append(torch.stack([torch.cat([part.flatten() for part in row]) for row in rows]))
    measured = torch.stack([torch.stack([(a * b).sum(1).mean() for b in gradients]) for a in gradients])
    torch.testing.assert_close(ntga.tangent_kernel(images, images, 3), measured, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("time", [0.01, 1.0, 30.0])
def test_training_by_gradient_flow(time):
    generator = torch.Generator().manual_seed(0)
    roots = torch.randn(12, 12, generator=generator).double()
    kernel, labels = roots @ roots.T, torch.randn(12, 3, generator=generator).double()
    values, vectors = torch.linalg.eigh(kernel)
    exact = vectors @ torch.diag((1 - torch.exp(-time * values)) / values) @ vectors.T @ labels
    torch.testing.assert_close(ntga.trained_weights(kernel, labels, time), exact)


def test_ntga_raises_the_surrogates_loss_of_other_images(image_set):
    images, others = image_set.images[:100], image_set.images[100:]
    one_hot = nn.functional.one_hot(image_set.labels, 10).double()

    def loss(block):
        scores = ntga.surrogate_scores(block.double() / 255, one_hot[:100], others.double() / 255, time=64)
        return nn.functional.cross_entropy(scores, image_set.labels[100:]).item()

    changed = ntga.ascend(images, one_hot[:100], others, image_set.labels[100:], ntga.NTGAConfig(steps=3))
    assert loss(changed) > loss(images) + 0.001
    alone = ImageSet(images[:1], image_set.labels[:1], image_set.class_names)
    with pytest.raises(ValueError, match="at least 2 images"):
        ntga.craft(alone, ntga.NTGAConfig(), Attacker())


class TestDefenseAware:
    def test_a_chain_passes_gradients_on_as_they_are(self, image_set):
        """Autograd through every step says the same, as the network is piecewise linear."""
        torch.manual_seed(0)
        energy = EBM(EBMConfig(nf=8)).double()
        x = (image_set.images[:2].double() / 127.5 - 1).requires_grad_()
        moved = x
        for _ in range(5):
            (gradient,) = torch.autograd.grad(energy(moved).sum(), moved, create_graph=True)
            moved = moved - 0.5 * 1.25e-2**2 / 1e-4 * gradient
        weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double()
        (through,) = torch.autograd.grad((moved * weights).sum(), x)
        torch.testing.assert_close(through, weights)

        config = narcissus.NarcissusConfig(langevin_steps=5)
        attacker = Attacker(given={"energy": energy.float()})
        chain = narcissus.to_chain(config, attacker, attacker.generator())
        y = x.detach().float().requires_grad_()
        purified = chain(y)
        assert (purified - y).abs().max() > 1e-3
        (mine,) = torch.autograd.grad((purified * weights.float()).sum(), y)
        torch.testing.assert_close(mine, weights.float())

    @pytest.mark.parametrize("where", ["surrogate", "generation", "both"])
    def test_where_the_attacker_purifies(self, image_set, where):
        torch.manual_seed(0)
        energy = EBM(EBMConfig(nf=8))
        public = ImageSet(image_set.images.flip(3), torch.arange(len(image_set)) % 3, ("a", "b", "c"))
        settings = {"langevin_temperature": 1e-6, "langevin_steps": 2}
        plain = narcissus.NarcissusConfig.preset("smoke", **settings)
        aware = narcissus.NarcissusConfig.preset("smoke", defense_aware=where, **settings)
        attack, attacker = ATTACKS["narcissus"], Attacker(given={"public": public, "energy": energy})
        one, other = (attack.craft(image_set, config, attacker) for config in (plain, aware))
        assert not torch.equal(one.images, other.images)
        assert other.recipe["defense_aware"] == where
        with pytest.raises(ValueError, match="--energy"):
            attack.craft(image_set, aware, Attacker(given={"public": public}))
