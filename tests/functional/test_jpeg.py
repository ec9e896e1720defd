import io

import numpy as np
import PIL.Image
import torch

from puregen_transforms.functional.jpeg import jpeg


def test_compresses_as_pil_does_and_leaves_the_input_alone():
    images = torch.randint(256, (3, 3, 24, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    compressed = jpeg(images, 40)
    assert torch.equal(images, before)
    assert compressed.dtype == torch.uint8 and compressed.shape == images.shape
    for image, ours in zip(images, compressed, strict=True):
        file = io.BytesIO()
        PIL.Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=40)
        assert np.array_equal(ours.permute(1, 2, 0).numpy(), np.array(PIL.Image.open(file)))


def test_takes_an_empty_batch():
    assert jpeg(torch.empty(0, 3, 8, 8, dtype=torch.uint8), 75).shape == (0, 3, 8, 8)
