"""Every sample of a torch data set is looked at before the work."""

from __future__ import annotations

import pytest
import torch
from PIL import Image as PILImage

from puregen_transforms import PureGen, purify_dataset
from tests.whole_sets.samples import Samples

PURIFIER = PureGen("jpeg", jpeg_quality=50)


def purified(source, tmp_path, purifier=PURIFIER, **options):
    return purify_dataset(source, purifier, output_dir=tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda row: (PILImage.new("RGB", (32, 32)), 1)[: 2 - row], "sample|single|tuple"),
        (lambda row: (PILImage.new("RGB" if row == 0 else "CMYK", (32, 32)), 1), "sample 1 has mode 'CMYK'"),
        (lambda row: (PILImage.new("RGB", (32, 32)) if row == 0 else torch.zeros(3, 32, 32), 1), r"pil.*\(sample 1\)"),
        (lambda row: (PILImage.new("RGB", (32, 32)), object() if row else 1), "object as 'field_1'"),
        (lambda row: {"image": PILImage.new("RGB", (32, 32)), **({"text": "a"} if row else {})}, "sample 1 differs"),
    ],
)
def test_what_does_not_fit_is_said_before_the_work(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        purified(Samples(make, rows=2), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_table_cannot_hold_is_explained(pictures, purifier, tmp_path):
    with pytest.raises(ValueError, match="object as 'field_1'"):
        purify_dataset(Samples(lambda row: (pictures[row], object())), purifier, output_dir=tmp_path / "out")
    with pytest.raises(ValueError, match="before Normalize"):
        purify_dataset(Samples(lambda row: (torch.full((3, 32, 32), -1.0), row)), purifier, output_dir=tmp_path / "out")
    with pytest.raises(ValueError, match="empty"):
        purify_dataset(Samples(None, rows=0), purifier, output_dir=tmp_path / "out")
    with pytest.raises(ValueError, match="IterableDataset"):
        purify_dataset(iter(()), purifier, output_dir=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_random_images_are_noticed(purifier, tmp_path):
    source = Samples(lambda row: (torch.rand(3, 32, 32), row), rows=60)
    with pytest.raises(ValueError, match="sample 0 is another: a random transform"):
        purify_dataset(source, purifier, output_dir=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
