import sys

import pytest
import torch
from torch import nn

from puregen_transforms.data.demo import load_demo
from puregen_transforms.detection import detect
from puregen_transforms.detection.activations import read_activations
from puregen_transforms.detection.density_tree import split_offs
from puregen_transforms.detection.flare import Flare, deviations, standardized
from puregen_transforms.models.classifiers import build_classifier

from .constructed import as_images, blobs, pixel_network

CPU = torch.device("cpu")


class Layers(nn.Module):
    """Four BatchNorm layers; the second one is given large values where the upper left pixel is bright."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(3) for _ in range(4)])
        self.mix = nn.ModuleList([nn.Conv2d(3, 3, 1, bias=False) for _ in range(4)])
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for layer in self.mix:
                layer.weight.copy_(torch.randn(3, 3, 1, 1, generator=generator))
        self.last = nn.Linear(3, 4)

    def forward(self, images):
        given = images
        for place, (mix, norm) in enumerate(zip(self.mix, self.norms, strict=True)):
            mixed = mix(torch.tanh(given))
            if place == 1:
                mixed[:, :, 0, 0] += 20 * (images[:, :1, 0, 0] > 0.9)
            given = norm(mixed)
        return self.last(given.mean((2, 3)))


def layers():
    """The network, its running statistics those of clean images."""
    torch.manual_seed(0)
    network = Layers().train()
    for norm in network.norms:
        norm.momentum = None
    with torch.no_grad():
        network(clean(500, seed=8).float() / 127.5 - 1)
    return network.eval()


def clean(count, seed=0):
    images = 127.5 + 30 * torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return images.clamp(0, 255).to(torch.uint8)


def test_images_that_one_hidden_layer_finds_unusual_are_found_without_labels():
    images, truth = clean(600), torch.arange(600) < 25
    images[truth, 0, 0, 0] = 250
    report = detect("flare", images, network=layers(), device="cpu")
    assert report.flagged[truth].all()
    assert report.flagged[~truth].float().mean() <= 0.01
    assert report.scores[truth].min() > report.scores[~truth & ~report.flagged].max()


def test_a_clean_set_has_no_stable_cluster():
    for seed in range(3):
        report = detect("flare", clean(600, seed=seed), network=layers(), device="cpu")
        assert not report.flagged.any()
        assert report.scores.isfinite().all()


def test_layers_are_left_out_from_the_end_until_something_is_stable():
    generator = torch.Generator().manual_seed(3)
    unusual = torch.randn(500, 6, generator=generator).double()
    unusual[:15, :4] = 4 + 0.2 * torch.randn(15, 4, generator=generator).double()
    unusual[:, 4:] *= 12  # the last layers hide it
    assert not any(group.stability > 0.3 for group in split_offs(unusual, smallest=10, depth=3))
    points, groups = Flare().stable_groups(unusual, smallest=10)
    assert points.shape[1] == 4
    assert [group.tolist() for group in groups] == [list(range(15))]
    points, groups = Flare().stable_groups(unusual.flip(1), smallest=10)
    assert groups == [], "the first layers are never left out"


def test_deviations_are_the_least_likely_inputs_of_the_layers():
    network = build_classifier("tiny", 10).eval()
    with torch.no_grad():
        network[1].running_mean.normal_()
        network[1].running_var.uniform_(0.5, 2)
    images = load_demo().images[:6]
    found = deviations(read_activations(network, images, device=CPU))
    given = network[0](images.float() / 127.5 - 1)
    mean, std = network[1].running_mean, (network[1].running_var + 1e-5).sqrt()
    likelihood = torch.distributions.Normal(mean[:, None, None], std[:, None, None]).log_prob(given)
    constant = likelihood + std.log()[:, None, None]  # less what depends on the channel alone
    least = constant.flatten(1).amin(1) + 0.5 * torch.log(torch.tensor(2 * torch.pi))
    assert torch.allclose(found[:, 0], (-2 * least).sqrt(), rtol=1e-4)


def test_columns_without_a_spread_say_nothing():
    values = torch.tensor([[1.0, 5.0], [1.0, 6.0], [1.0, 1e9], [1.0, 7.0]])
    assert standardized(values)[:, 0].tolist() == [0, 0, 0, 0]
    assert standardized(values).abs().max() <= 10


class TestDensityTree:
    @pytest.mark.parametrize("count", [200, 2000])
    def test_clouds_of_random_points_split_off_nothing_stable(self, count):
        for seed in range(3):
            points = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
            assert all(group.stability < 0.2 for group in split_offs(points, smallest=10, depth=3))

    def test_stability_has_no_unit(self):
        points = torch.randn(300, 3, generator=torch.Generator().manual_seed(0)).double()
        points[:20] = 0.3 * points[:20] + 6
        plain, scaled = (split_offs(points * unit, smallest=10, depth=1)[0] for unit in (1, 1000))
        assert plain.members.tolist() == scaled.members.tolist() == list(range(20))
        assert plain.stability == pytest.approx(scaled.stability, rel=1e-6)

    def test_equal_points_and_few_points(self):
        points = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
        points[:20] = 9.0
        found = split_offs(points, smallest=10, depth=2)[0]
        assert found.members.tolist() == list(range(20))
        assert split_offs(points[:15], smallest=10, depth=2) == []
        assert all(group.stability == 0 for group in split_offs(torch.zeros(50, 3), smallest=10, depth=2))

    def test_without_scikit_learn_it_says_what_to_install(self, monkeypatch):
        monkeypatch.setattr("puregen_transforms._extras.find_spec", lambda module: None)
        monkeypatch.setitem(sys.modules, "sklearn", None)
        with pytest.raises(ImportError, match=r"puregen-transforms\[detect\]"):
            split_offs(torch.zeros(50, 3), smallest=10, depth=2)


class TestBadInput:
    def test_a_network_without_batch_norm(self):
        features, _ = blobs([30])
        with pytest.raises(ValueError, match="network with BatchNorm2d layers"):
            detect("flare", as_images(features), network=pixel_network())

    def test_too_few_images(self):
        with pytest.raises(ValueError, match="at least 20 images, for two clusters of 10"):
            detect("flare", clean(6), network=layers())

    def test_all_images_alike(self):
        report = detect("flare", clean(1).expand(40, -1, -1, -1), network=layers(), device="cpu")
        assert not report.flagged.any()

    def test_settings_out_of_range(self):
        with pytest.raises(ValueError, match="clusters of at least 2 images"):
            Flare(smallest=1)
