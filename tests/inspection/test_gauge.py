import pytest
import torch

from puregen_transforms.inspection.gauge import fit_gauge


def noise(count, seed=0):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_gauge_measures_what_is_left_of_a_pattern():
    others = 40 * torch.nn.functional.avg_pool2d(noise(300, seed=1), 5, stride=1, padding=2) + 128
    pattern = 6 * noise(1, seed=2)[0].sign()
    hosts = 40 * torch.nn.functional.avg_pool2d(noise(20, seed=3), 5, stride=1, padding=2) + 128
    gauge = fit_gauge(hosts + pattern, others)
    assert gauge.usable
    cosine = torch.nn.functional.cosine_similarity(gauge.estimate.flatten(), pattern.flatten(), dim=0)
    assert cosine > 0.9
    unchanged = torch.zeros(4)
    for share in (1.0, 0.5, 0.0):
        removed = gauge.amounts((1 - share) * pattern.expand(20, -1, -1, -1))
        assert gauge.left(removed, unchanged) == pytest.approx(share, abs=0.1)
    drift = 3 * noise(1, seed=4)
    removed = [gauge.amounts(change) for change in (pattern / 2 + drift, drift)]
    assert gauge.left(*removed) == pytest.approx(0.5, abs=0.1), "what all images lose does not count"


def test_gauge_without_a_pattern_is_not_usable():
    images = 40 * torch.nn.functional.avg_pool2d(noise(320, seed=1), 5, stride=1, padding=2) + 128
    gauge = fit_gauge(images[:20], images[20:])
    assert gauge.clarity == pytest.approx(1, abs=0.5)
    assert not gauge.usable
