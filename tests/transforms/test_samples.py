"""Finding images in samples, and putting them back."""

from collections import OrderedDict, namedtuple

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision import tv_tensors

from puregen_transforms.transforms.samples import find_images

GRAY = np.full((8, 8), 100, dtype=np.uint8)
Pair = namedtuple("Pair", ["image", "label"])


def pil(mode="RGB"):
    return PIL.Image.fromarray(GRAY).convert(mode)


def whiten(sample, **options):
    """Stand in for purification: every pixel becomes 255."""
    found = find_images(sample, **options)
    return found.put_back([torch.full_like(image.rgb, 255, dtype=torch.uint8) for image in found.images])


def tensor(*shape, dtype=torch.uint8):
    return torch.zeros(*shape, dtype=dtype)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
def test_pil(mode):
    image = pil(mode)
    before = np.array(image)
    out = whiten(image)
    assert (out.mode, out.size) == (image.mode, image.size)
    pixels = np.array(out)
    if "A" in mode:
        assert (pixels[..., -1] == before[..., -1]).all(), "alpha is kept"
        pixels = pixels[..., :-1]
    assert (pixels == 255).all()
    assert (np.array(image) == before).all(), "the input is not modified"


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_tensors(channels, lead, dtype):
    image = tensor(*lead, channels, 5, 6, dtype=dtype)
    out = whiten(image)
    assert (out.shape, out.dtype, type(out)) == (image.shape, dtype, torch.Tensor)
    white = 255 if dtype == torch.uint8 else 1
    assert (out[..., :3, :, :] == white).all()
    if channels == 4:
        assert (out[..., 3, :, :] == 0).all()
    assert (image == 0).all()


@pytest.mark.parametrize("shape", [(5, 6, 3), (5, 6, 1), (5, 6, 4), (2, 5, 6, 3)])
def test_arrays_have_channels_last(shape):
    image = np.zeros(shape, dtype=np.uint8)
    out = whiten(image)
    assert (out.shape, out.dtype, type(out)) == (shape, np.uint8, np.ndarray)
    assert (out[..., :3] == 255).all()


def test_tv_tensors_beside_masks_and_boxes():
    sample = {
        "boxes": tv_tensors.BoundingBoxes(torch.tensor([[0, 0, 2, 2]]), format="XYXY", canvas_size=(8, 8)),
        "mask": tv_tensors.Mask(tensor(1, 8, 8)),
        "image": tv_tensors.Image(tensor(3, 8, 8)),
        "extra": tensor(3, 8, 8),
        "label": torch.tensor(3),
    }
    out = whiten(sample)
    assert type(out["image"]) is tv_tensors.Image
    assert (out["image"] == 255).all()
    assert all(out[key] is sample[key] for key in ("boxes", "mask", "extra", "label"))
    assert list(out) == list(sample)


def test_a_mask_alone_is_no_image():
    with pytest.raises(ValueError, match="found no image"):
        whiten({"mask": tv_tensors.Mask(tensor(3, 8, 8))})


@pytest.mark.parametrize(
    "label", [torch.tensor([1, 2]), torch.rand(2, 10), np.array([1, 2]), 5, "name", None, torch.rand(2, 4, 4)]
)
def test_labels_first_in_a_dict_stay_the_same_object(label):
    sample = {"label": label, "image": tensor(2, 3, 8, 8)}
    out = whiten(sample)
    assert out["label"] is label
    assert (out["image"] == 255).all()
    assert (sample["image"] == 0).all()


def test_containers_keep_their_type():
    ordered = whiten(OrderedDict(label=1, image=pil()))
    assert type(ordered) is OrderedDict
    assert list(ordered) == ["label", "image"]
    named = whiten(Pair(pil(), 7))
    assert type(named) is Pair
    assert named.label == 7
    collated = whiten([tensor(2, 3, 8, 8), torch.tensor([0, 1])])
    assert type(collated) is list
    nested = whiten(({"meta": {"id": 4}, "views": [pil(), pil()]}, 3))
    assert nested[0]["meta"] == {"id": 4}
    assert len(nested[0]["views"]) == 2


def test_a_list_is_a_batch_and_holes_stay_holes():
    out = whiten([pil(), None, pil("L")])
    assert out[1] is None
    assert [image.mode for image in (out[0], out[2])] == ["RGB", "L"]


@pytest.mark.parametrize(
    "sample",
    [
        (pil(), pil("L")),
        {"image": pil(), "mask": pil()},
        (tensor(3, 8, 8), tensor(1, 8, 8)),
        [tensor(2, 3, 8, 8), tensor(2, 1, 8, 8)],
        {"a": tensor(3, 8, 8), "b": torch.rand(3, 8, 8)},
    ],
)
def test_ambiguous_samples_are_refused(sample):
    with pytest.raises(ValueError, match="several images.*columns="):
        whiten(sample)


def test_columns_decide():
    sample = {"image": pil(), "depth": pil(), "id": 4}
    out = whiten(sample, columns=("image",))
    assert out["depth"] is sample["depth"]
    assert (np.array(out["image"]) == 255).all()
    pair = (tensor(3, 8, 8), tensor(3, 8, 8))
    second = whiten(pair, columns=(1,))
    assert second[0] is pair[0]
    assert (second[1] == 255).all()
    both = whiten(sample, columns=("image", "depth"))
    assert (np.array(both["depth"]) == 255).all()


def test_a_column_that_is_not_there():
    with pytest.raises(ValueError, match="'img'.*'image'"):
        whiten({"image": pil()}, columns=("img",))


@pytest.mark.parametrize("sample", [3, "path.png", [], {}, (), {"label": 3}, torch.tensor([1, 2]), None, [None]])
def test_no_image_is_an_error(sample):
    with pytest.raises(ValueError, match="found no image"):
        whiten(sample)


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "I", "F", "I;16", "YCbCr"])
def test_other_pil_modes_say_what_to_do(mode):
    image = PIL.Image.new(mode, (8, 8))
    with pytest.raises(ValueError, match=rf"mode '{mode}'.*convert\(\"RGB\"\)"):
        whiten(image)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.full((3, 8, 8), 2.0), r"\[2, 2\].*Normalize"),
        (torch.full((3, 8, 8), float("nan")), "NaN"),
        (torch.full((3, 8, 8), float("inf")), "inf"),
        (torch.randn(1, 3, 8, 8), "Expected float images"),
    ],
)
def test_bad_values(image, message):
    with pytest.raises(ValueError, match=message):
        whiten({"image": image, "label": 0})


def test_a_bad_image_in_a_list_is_located():
    with pytest.raises(ValueError, match=r"\['image'\], item 1"):
        whiten({"image": [pil(), pil("CMYK")]})


def test_named_columns_of_other_dtypes_are_refused():
    with pytest.raises(ValueError, match="image"):
        whiten({"image": torch.zeros(3, 8, 8, dtype=torch.int32)}, columns=("image",))
