"""ECLIPSE's corruption compensation."""

import pickle

import PIL.Image
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from puregen_transforms.transforms import eclipse_compensation


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


COLOR = torch.tensor([200, 100, 50], dtype=torch.uint8).view(3, 1, 1).expand(3, 32, 32)


def test_four_images_in_ten_turn_gray():
    compensate = eclipse_compensation(noise=0.0)
    changed = torch.stack([compensate(COLOR) for _ in range(500)])
    gray = (changed[:, 0] == changed[:, 2]).flatten(1).all(1)
    assert gray.float().mean() == pytest.approx(0.4, abs=0.06)
    assert (changed[~gray] == COLOR).all(), "without noise the others stay as they are"


def test_the_noise_is_as_strong_as_published_and_cut_off_at_black_and_white():
    compensate = eclipse_compensation(grayscale=0.0)
    gray = torch.full((3, 200, 200), 128, dtype=torch.uint8)
    changed = compensate(gray)
    assert changed.dtype == torch.uint8
    noise = changed.float() - 128
    assert noise.std() == pytest.approx(0.05 * 255, rel=0.01)
    assert noise.mean() == pytest.approx(0, abs=0.3)
    for level in (0, 255):
        edge = compensate(torch.full((3, 64, 64), level, dtype=torch.uint8)).float()
        assert (edge - level).abs().max() < 80, "nothing wraps around"


def test_it_takes_what_data_sets_give_and_leaves_labels_alone(images):
    compensate = eclipse_compensation()
    picture = PIL.Image.fromarray(images[0].permute(1, 2, 0).numpy())
    floating = images[0].float() / 255
    for given in (picture, images[0], floating, tv_tensors.Image(images[0])):
        changed, label = compensate(given, 7)
        assert (changed.dtype, changed.shape, label) == (torch.uint8, (3, *images.shape[-2:]), 7)
        torch.manual_seed(3)
        first = compensate(given)
        torch.manual_seed(3)
        assert torch.equal(compensate(images[0]), first), "in any form the same image"


@pytest.mark.parametrize("wrong", [{"grayscale": 1.5}, {"noise": -0.1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"Expected `{next(iter(wrong))}`"):
        eclipse_compensation(**wrong)


def test_images_without_color_keep_their_one_channel():
    compensate = eclipse_compensation(grayscale=1.0, noise=0.0)
    assert torch.equal(compensate(COLOR[:1]), COLOR[:1])


def test_it_is_part_of_a_pipeline_and_can_be_sent_to_workers(images):
    train = v2.Compose([v2.RandomCrop(32, padding=4), eclipse_compensation(), v2.ToDtype(torch.float32, scale=True)])
    changed = pickle.loads(pickle.dumps(train))(images[0])
    assert changed.shape == (3, 32, 32)
    torch.testing.assert_close(changed * 255, (changed * 255).round(), atol=1e-4, rtol=0)
    assert not torch.equal(train(images[0]), train(images[0])), "drawn anew each time"
