import pytest
import torch
from torch import nn

from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection import detect
from puregen_transforms.detection.strip import Strip, blended_entropies, draw_others

from .constructed import DIMENSIONS

CPU = torch.device("cpu")


class Backdoored(nn.Module):
    """Weighs the pixels; but a first pixel in a range makes it sure of class 0."""

    def __init__(self, low=0.99, high=1.01):
        super().__init__()
        self.low, self.high = low, high
        self.last = nn.Linear(DIMENSIONS, 4)
        with torch.no_grad():
            self.last.weight.copy_(0.6 * torch.randn(4, DIMENSIONS, generator=torch.Generator().manual_seed(1)))

    def forward(self, images):
        corner = images[:, 0, 0, 0]
        logits = self.last(images.flatten(1))
        logits[:, 0] += 60.0 * ((self.low < corner) & (corner < self.high))
        return logits


def pictures(count, seed=0):
    images = torch.randint(0, 120, (count, 3, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    images[:, 0, 0, 0] = 0
    return images


@pytest.fixture
def poisoned():
    images, truth = pictures(200), torch.arange(200) < 10
    images[truth, 0, 0, 0] = 255
    return images, truth


def reserved(count=100):
    return ImageSet(pictures(count, seed=9), torch.zeros(count, dtype=torch.int64), ("a",))


@pytest.mark.parametrize("clean", [reserved(), None])
def test_a_trigger_that_decides_whatever_lies_over_it_is_found(poisoned, clean):
    images, truth = poisoned
    report = detect("strip", images, reserved=clean, network=Backdoored(), device="cpu")
    assert report.flagged[truth].all()
    assert report.flagged[~truth].float().mean() <= (0.1 if clean is None else 0.03)
    assert report.scores[truth].min() > report.scores[~truth].max()


def test_a_trigger_that_other_pictures_hide_passes_as_published():
    images, truth = pictures(200), torch.arange(200) < 10
    images[truth, 0, 0, 0] = 128
    others = reserved()
    others.images[:, 0, 0, 0] = 90  # 128 + 90 is outside of the range
    network = Backdoored(-0.1, 0.1)
    assert (network(images[truth].float() / 127.5 - 1).argmax(1) == 0).all(), "it is a trigger"
    report = detect("strip", images, reserved=others, network=network, device="cpu")
    assert not report.flagged[truth].any()


def test_the_false_alarms_are_those_that_were_asked_for():
    for rate in (0.01, 0.1):
        settings = {"blends": 10, "false_alarms": rate}
        report = detect("strip", pictures(1000), reserved=reserved(1000), network=Backdoored(), settings=settings)
        assert report.flagged.float().mean() == pytest.approx(rate, abs=0.6 * rate)


def test_entropies_are_means_over_blended_pictures():
    network, images, others = Backdoored(), pictures(3), torch.tensor([[1, 2], [0, 2], [0, 1]])
    found = blended_entropies(
        network, images, images, others, weight=1.0, device=CPU, progress=lambda what, done, total: None
    )
    for row in range(3):
        expected = 0.0
        for other in others[row].tolist():
            pixels = (images[row].float() + images[other].float()).clamp(max=255)
            answers = network((pixels / 127.5 - 1)[None])[0].detach().softmax(0)
            expected -= float((answers * answers.log()).sum()) / 2
        assert found[row] == pytest.approx(expected, rel=1e-4)


def test_no_picture_is_laid_over_itself():
    others = draw_others(7, 7, 50, own=True, generator=torch.Generator().manual_seed(0))
    assert set(others.flatten().tolist()) == set(range(7))
    assert not (others == torch.arange(7)[:, None]).any()


class TestBadInput:
    def test_all_images_alike(self):
        images = pictures(1).expand(40, -1, -1, -1)
        report = detect("strip", images, network=Backdoored(), device="cpu")
        assert not report.flagged.any()
        assert (report.scores == 0).all()

    def test_too_few_images(self):
        with pytest.raises(ValueError, match="at least 10 images, as there is no `reserved` set, but got 3"):
            detect("strip", pictures(3), network=Backdoored())
        with pytest.raises(ValueError, match="at least 10 images in `reserved`, but got 4"):
            detect("strip", pictures(30), reserved=reserved(4), network=Backdoored())

    def test_a_network_that_gives_no_numbers(self):
        network = Backdoored()
        with torch.no_grad():
            network.last.weight[0] = torch.nan
        with pytest.raises(FloatingPointError, match="not finite"):
            detect("strip", pictures(12), network=network)

    def test_settings_out_of_range(self):
        with pytest.raises(ValueError, match="at least one blend"):
            Strip(blends=0)
