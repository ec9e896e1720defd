import numpy as np
import pytest
import torch

from puregen_transforms.data.demo import CLASSES, load_demo
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection import detect
from puregen_transforms.detection.frequency import Frequency, FrequencyNetwork, cosine_transform
from puregen_transforms.detection.statistics import clean_limit, mixed_limit
from puregen_transforms.detection.trigger_likes import _KINDS, add_trigger_likes


@pytest.fixture(scope="module")
def demo():
    return load_demo()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def halves(demo):
    """Clean reserved images, and others to search."""
    return ImageSet(demo.images[:100], demo.labels[:100], CLASSES), demo.images[100:].clone()


class TestFrequency:
    def test_sharp_triggers_are_found_by_a_network_that_never_saw_them(self, halves):
        reserved, images = halves
        images, truth = images.clone(), torch.arange(100) < 10
        checkers = 255 * ((torch.arange(4)[:, None] + torch.arange(4)) % 2).to(torch.uint8)
        images[truth, :, 2:6, 24:28] = checkers  # neither white, nor random, nor in a corner
        report = detect("frequency", images, reserved=reserved, device="cpu")
        above = (report.scores[truth][:, None] > report.scores[~truth]).float().mean()
        assert above >= 0.9, "of a hundred images it learns no more"
        assert report.flagged[truth].float().mean() >= 0.3
        assert report.flagged[~truth].float().mean() <= 0.05

    def test_smooth_triggers_pass_as_published(self, halves):
        reserved, images = halves
        images, truth = images.clone(), torch.arange(100) < 10
        ramp = torch.linspace(-12, 12, 32)[None, :].expand(3, 32, 32)
        images[truth] = (images[truth].float() + ramp).clamp(0, 255).to(torch.uint8)
        report = detect("frequency", images, reserved=reserved, device="cpu")
        assert report.flagged[truth].float().mean() <= 0.3

    def test_without_a_reserved_set_no_network_scores_what_it_learned(self, halves, monkeypatch):
        _, images = halves
        learned, asked = [], []
        train, log_odds = Frequency._train, FrequencyNetwork.log_odds

        def spy_train(self, clean, *others, **options):
            learned.append({image.numpy().tobytes() for image in clean})
            network = train(self, clean, *others, **options)
            network.number = len(learned) - 1
            return network

        def spy_ask(self, images):
            asked.append((self.number, {image.numpy().tobytes() for image in images}))
            return log_odds(self, images)

        monkeypatch.setattr(Frequency, "_train", spy_train)
        monkeypatch.setattr(FrequencyNetwork, "log_odds", spy_ask)
        report = detect("frequency", images, settings={"epochs": 1, "least_steps": 2}, device="cpu")
        assert report.scores.isfinite().all()
        assert sum(len(rows) for _, rows in asked) == 100
        assert all(not rows & learned[number] for number, rows in asked)

    @pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad])
    def test_it_learns_where_gradients_are_off(self, halves, context):
        settings = {"epochs": 1, "least_steps": 3}
        with context():
            found = detect("frequency", halves[1], settings=settings, device="cpu")
        assert torch.equal(found.scores, detect("frequency", halves[1], settings=settings, device="cpu").scores)

    def test_bad_input(self, demo):
        with pytest.raises(ValueError, match="at least 20 images, as there is no `reserved` set, but got 3"):
            detect("frequency", demo.images[:3])
        few = ImageSet(demo.images[:5].flip(3), demo.labels[:5], CLASSES)
        with pytest.raises(ValueError, match="at least 20 images in `reserved`, but got 5"):
            detect("frequency", demo.images, reserved=few)
        report = detect("frequency", demo.images[:1].expand(40, -1, -1, -1))
        assert not report.flagged.any()
        with pytest.raises(ValueError, match=r"below 0.5, or None, but got 0.7"):
            Frequency(false_alarms=0.7)
        with pytest.raises(ValueError, match="at least one epoch"):
            Frequency(epochs=0)


class TestFormulas:
    def test_the_transform_is_the_orthonormal_cosine_transform(self):
        from scipy.fft import dctn

        images = torch.randint(0, 256, (2, 3, 8, 12), generator=generator(), dtype=torch.uint8)
        expected = dctn(images.numpy().astype(float), axes=(2, 3), norm="ortho")
        assert np.allclose(cosine_transform(images).numpy(), expected, atol=1e-2)

    @pytest.mark.parametrize("kind", _KINDS)
    def test_every_change_changes_an_image_of_any_size(self, kind, demo):
        for image in (demo.images[0], demo.images[0][:, :4, :5]):
            changed = kind(image.float(), demo.images[:, :, : image.shape[1], : image.shape[2]], generator())
            assert (changed.shape, changed.dtype) == (image.shape, torch.uint8)
            assert (changed != image).any()

    def test_images_are_changed_by_the_generator_alone(self, demo):
        first, second = (add_trigger_likes(demo.images[:9], demo.images, generator=generator()) for _ in range(2))
        assert torch.equal(first, second)
        assert (first != demo.images[:9]).flatten(1).any(1).all()

    def test_limits_are_exceeded_as_rarely_as_asked_for(self):
        values = torch.randn(20_000, generator=generator())
        mixed = torch.cat([values, torch.full((1000,), 30.0)])
        for rate in (0.01, 0.1):
            assert (values > clean_limit(values, rate)).float().mean() == pytest.approx(rate, abs=0.15 * rate)
            assert (values > mixed_limit(mixed, rate)).float().mean() == pytest.approx(rate, abs=0.4 * rate)
        tail = torch.cat([values, values.abs()[:1000] * 8])
        assert (tail > clean_limit(tail, 0.01)).float().mean() <= 0.01
