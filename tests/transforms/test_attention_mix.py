"""AttentionMix: hand-computed batches, what it keeps, and where it is used."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, default_collate
from torchvision.transforms import v2

from puregen_transforms.models.classifiers import CLASSIFIERS, build_classifier
from puregen_transforms.models.features import feature_maps
from puregen_transforms.transforms import AttentionMix, FeatureAttention


def brightness(images):
    return images.mean(1)


def drawn(count, classes=4, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, size, size, generator=generator), torch.arange(count) % classes


def seed_that_swaps_two():
    """A seed under which each of two images is the other's partner."""
    return next(s for s in range(99) if torch.randperm(2, generator=torch.Generator().manual_seed(s))[0] == 1)


def swapping(attention, **settings):
    generator = torch.Generator().manual_seed(seed_that_swaps_two())
    return AttentionMix(attention, num_classes=2, generator=generator, **settings)


def test_two_images_mixed_by_hand():
    """Of four places the first image draws its attention to two; of the partner's attention two thirds lie there."""
    maps = torch.tensor([[[4.0, 4.0], [0.0, 0.0]], [[4.0, 0.0], [2.0, 0.0]]])
    images = torch.stack([torch.full((1, 2, 2), 10.0), torch.full((1, 2, 2), 20.0)])
    mixed, labels = swapping(lambda _: maps)(images, torch.tensor([0, 1]))
    # First: W = 1, V = (1 + 0) / 1.5 = 2/3; W / (W + V) = 0.6.
    # Second: region where its map [1, 0, .5, 0] is at least 0.1; W = 1, V = 1 / 2; W / (W + V) = 2/3.
    expected = torch.tensor([[[[14.0, 14.0], [10.0, 10.0]]], [[[50 / 3, 20.0], [50 / 3, 20.0]]]])
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(labels, torch.tensor([[0.6, 0.4], [1 / 3, 2 / 3]]))


def test_attention_below_the_threshold_stays_with_the_label():
    """W = 10 / 13 of the first image's attention are in the region, and all of its partner's."""
    maps = torch.tensor([[[1.0, 0.3], [0.0, 0.0]], [[5.0, 0.0], [0.0, 0.0]]])
    images = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    mixed, labels = swapping(lambda _: maps, threshold=0.5)(images, torch.tensor([0, 1]))
    own = 1 / 1.3
    taken = 1 / (own + 1)
    torch.testing.assert_close(mixed[0, 0], torch.tensor([[taken, 0.0], [0.0, 0.0]]))
    first, second, third = 1 - own, own * own / (own + 1), own - own * own / (own + 1)  # the paper's three weights
    torch.testing.assert_close(labels[0], torch.tensor([first + second, third]))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.01, 0.1, 0.9, 1.0])
def test_label_mass_and_pixel_range_are_kept(seed, threshold):
    images, labels = drawn(16, seed=seed)
    mix = AttentionMix(brightness, threshold=threshold, num_classes=4, generator=torch.Generator().manual_seed(seed))
    mixed, weights = mix(images, labels)
    torch.testing.assert_close(weights.sum(1), torch.ones(16))
    assert (weights >= 0).all()
    assert images.min() <= mixed.min() <= mixed.max() <= images.max()
    assert not torch.equal(mixed, images)


def test_each_label_is_that_of_what_is_seen():
    """In images of one color each, the color of the region tells the share that the label has there."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(6, 8, 8, generator=generator)
    images = torch.eye(6)[:, :, None, None].expand(6, 6, 8, 8)
    mixed, weights = AttentionMix(lambda _: maps, num_classes=6, generator=generator)(images, torch.arange(6))
    scaled = (maps - maps.amin((1, 2), keepdim=True)) / (maps.amax((1, 2)) - maps.amin((1, 2)))[:, None, None]
    seen = (mixed * scaled[:, None]).sum((2, 3)) / scaled.sum((1, 2))[:, None]
    torch.testing.assert_close(seen, weights)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes_stay(dtype):
    images, labels = drawn(4)
    mixed, weights = AttentionMix(brightness)(images.to(dtype), torch.eye(4)[labels].to(dtype))
    assert mixed.dtype == weights.dtype == dtype
    assert mixed.shape == images.shape
    assert weights.shape == (4, 4)


def test_coarse_attention_marks_whole_blocks():
    images, labels = drawn(2)
    maps = torch.zeros(2, 2, 2)
    maps[:, 0, 0] = 3.0
    mixed, _ = swapping(lambda _: maps)(images, labels)
    torch.testing.assert_close(mixed[..., :4, :4], images.mean(0).expand(2, 3, 8, 8)[..., :4, :4])
    untouched = torch.ones(8, 8, dtype=torch.bool)
    untouched[:4, :4] = False
    assert torch.equal(mixed[..., untouched], images[..., untouched])


@pytest.mark.parametrize("level", [0.0, 2.5])
def test_images_that_draw_no_attention_stay_as_they_are(level):
    images, labels = drawn(3)
    mixed, weights = AttentionMix(lambda x: torch.full((3, 4, 4), level), num_classes=4)(images, labels)
    assert torch.equal(mixed, images)
    assert torch.equal(weights, torch.eye(4)[labels])


def test_a_single_image_is_its_own_partner():
    images, labels = drawn(1)
    mixed, weights = AttentionMix(brightness, num_classes=4)(images, labels)
    torch.testing.assert_close(mixed, images)
    assert weights.tolist() == [[1, 0, 0, 0]]


def test_nothing_that_is_given_is_changed_and_a_seed_repeats_it():
    images, labels = drawn(6)
    before = images.clone()
    runs = [
        AttentionMix(brightness, num_classes=4, generator=torch.Generator().manual_seed(1))(images, labels)
        for _ in range(2)
    ]
    assert torch.equal(images, before)
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])


def test_soft_labels_are_mixed_whatever_their_mass():
    """Suppression leaves labels that sum to less than 1; mixing keeps the sums between those of the two."""
    images, _ = drawn(4)
    weights = torch.eye(4) * torch.tensor([0.2, 0.5, 0.8, 1.0])[:, None]
    _, mixed = AttentionMix(brightness)(images, weights)
    assert 0.2 <= mixed.sum(1).min() <= mixed.sum(1).max() <= 1


def test_it_takes_the_place_of_mixup_in_collate_fn():
    images, labels = drawn(10)
    mix = AttentionMix(brightness, num_classes=4)
    either = v2.RandomChoice([mix, v2.CutMix(num_classes=4)])
    for transform in (mix, either):
        loader = DataLoader(
            list(zip(images, labels, strict=True)), 4, collate_fn=lambda rows, t=transform: t(*default_collate(rows))
        )
        batches = list(loader)
        assert [len(x) for x, _ in batches] == [4, 4, 2]
        assert all(y.shape == (len(x), 4) for x, y in batches)
    pair = default_collate(list(zip(images, labels, strict=True)))
    assert mix(pair)[1].shape == (10, 4), "a pair, too, as torchvision's take one"


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_networks_of_every_kind_have_feature_maps(name):
    model = build_classifier(name, 4).eval()
    images = drawn(2, size=32)[0] * 2 - 1
    with torch.no_grad():
        maps = feature_maps(model, images)
        inputs = []
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        hook = last.register_forward_hook(lambda module, given, result: inputs.append(given[0]))
        model(images)
        hook.remove()
    pooled = maps.amax((2, 3)) / 9 if name == "hlb" else maps.mean((2, 3))
    torch.testing.assert_close(pooled, inputs[0], msg="what is pooled are the maps")
    assert maps.shape[-1] > 1
    attention = FeatureAttention(model)(images)
    torch.testing.assert_close(attention, maps.square().sum(1))
    mixed, _ = AttentionMix(FeatureAttention(model), num_classes=4)(images, torch.tensor([0, 1]))
    assert mixed.shape == images.shape


def test_networks_for_larger_images_have_feature_maps():
    import torchvision

    for make in (torchvision.models.resnet18, torchvision.models.efficientnet_b0):
        model = make(weights=None, num_classes=2).eval()
        with torch.no_grad():
            assert feature_maps(model, torch.zeros(1, 3, 64, 64)).shape[-2:] == (2, 2)


def test_mistakes_are_explained():
    images, labels = drawn(4)
    with pytest.raises(ValueError, match="convolutional network.* but none in Sequential"):
        FeatureAttention(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))(images)
    with pytest.raises(ValueError, match="above 0 and up to 1, but got 0"):
        AttentionMix(brightness, threshold=0)
    with pytest.raises(ValueError, match="`num_classes`, as the labels are class indices"):
        AttentionMix(brightness)(images, labels)
    with pytest.raises(ValueError, match=r"of the 4 images, but got shape \(3,\)"):
        AttentionMix(brightness, num_classes=4)(images, labels[:3])
    with pytest.raises(ValueError, match="floating dtype, but got torch.uint8"):
        AttentionMix(brightness, num_classes=4)(images.byte(), labels)
    with pytest.raises(ValueError, match="two tensors, but got Tensor"):
        AttentionMix(brightness, num_classes=4)(images)
    with pytest.raises(ValueError, match="map of attention .* but got shape \\(4, 3, 8, 8\\)"):
        AttentionMix(lambda x: x, num_classes=4)(images, labels)
    with pytest.raises(ValueError, match="of 5 classes .* but got 4"):
        AttentionMix(brightness, num_classes=5)(images, torch.eye(4))
