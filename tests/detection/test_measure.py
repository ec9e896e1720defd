import subprocess
import sys

import PIL.Image
import pytest
import torch

from puregen_transforms import PureGen
from puregen_transforms.detection import measure
from puregen_transforms.detection.measure import ImageMeter, commonest_size
from puregen_transforms.functional.images import to_signed
from puregen_transforms.hub.ebm import load_ebm, resolve_ebm
from puregen_transforms.models.ebm_inference import FrozenEBM


def silent(what, done, total):
    pass


@pytest.fixture
def network(tiny_checkpoint):
    return FrozenEBM(load_ebm(resolve_ebm(tiny_checkpoint)))


def meter(images, network):
    return ImageMeter(images, network, smallest=4, device=torch.device("cpu"), batch_size=7)


def test_energies_are_those_of_puregen(images, network, tiny_checkpoint):
    found = []
    energies, sizes = meter(images, network).energies(lambda *report: found.append(report))
    torch.testing.assert_close(energies, PureGen(checkpoint=tiny_checkpoint).energy(images))
    assert sizes == [(32, 32)] * 64
    assert found[-1][1:] == (64, 64)


def test_energies_of_some_rows_are_those_of_the_whole(images, network):
    pictures = [*images[:20], None, *images[20:30]]
    whole, sizes = meter(pictures, network).energies(silent)
    some, their_sizes = meter(pictures, network).energies(silent, range(15, 27))
    torch.testing.assert_close(some, whole[15:27], equal_nan=True)
    assert their_sizes == sizes[15:27]
    with pytest.raises(ValueError, match="in row 20, but got"):
        meter([*images[:20], "no image"], network).energies(silent, range(15, 21))


def test_images_of_many_forms_and_sizes(network, tiny_checkpoint):
    pictures = [
        PIL.Image.new("RGB", (32, 32), "red"),
        PIL.Image.new("L", (40, 20), 90),
        None,
        torch.rand(3, 32, 32),
        PIL.Image.new("RGBA", (32, 32), "blue"),
    ]
    energies, sizes = meter(pictures, network).energies(silent)
    assert sizes == [(32, 32), (20, 40), None, (32, 32), (32, 32)]
    assert energies.isnan().tolist() == [False, False, True, False, False]
    purify = PureGen(checkpoint=tiny_checkpoint)
    for index in (0, 1, 3, 4):
        torch.testing.assert_close(energies[index], purify.energy(pictures[index])[0])
    assert commonest_size(sizes) == (32, 32)
    assert commonest_size([None]) is None


def test_gradients_point_where_the_energy_rises(images, network, tiny_checkpoint):
    measured = meter(images[:10], network)
    rows = [3, 0, 9]
    directions, pictures = measured.gradients(rows)
    assert directions.shape == (3, 3, 32, 32)
    assert len(pictures) == 3
    x = to_signed(images[rows]).requires_grad_()
    (expected,) = torch.autograd.grad(load_ebm(resolve_ebm(tiny_checkpoint))(x).sum(), x)
    cosines = torch.nn.functional.cosine_similarity(directions.float().flatten(1), expected.flatten(1))
    assert cosines.min() > 0.999
    assert directions.float().square().mean((1, 2, 3)).sub(1).abs().max() < 0.01
    with torch.no_grad():
        again, _ = measured.gradients([9, 5])
    assert torch.equal(again[0], directions[2])


@pytest.mark.parametrize(
    "wrong", [PIL.Image.new("RGB", (32, 3)), PIL.Image.new("I;16", (32, 32)), "a path", torch.full((3, 32, 32), 7.0)]
)
def test_an_image_that_cannot_be_measured_is_named(wrong, network):
    with pytest.raises(ValueError, match="row 1"):
        meter([PIL.Image.new("RGB", (32, 32)), wrong], network).energies(silent)


def test_images_past_the_largest_size_are_refused(network):
    wide = torch.zeros(3, 2049, 2048, dtype=torch.uint8)
    with pytest.raises(ValueError, match="row 1, but got 2048x2049"):
        meter([PIL.Image.new("RGB", (32, 32)), wide], network).energies(silent)


@pytest.mark.parametrize("pixels", [1, 2048, 5000])
def test_images_read_at_once_change_nothing(images, network, monkeypatch, pixels):
    mixed = [None if row == 5 else image[:, : 32 - row % 3] for row, image in enumerate(images[:20])]
    expected, sizes = meter(mixed, network).energies(silent)
    directions = meter(images, network).gradients([4, 1, 7])
    reports = []
    monkeypatch.setattr(measure, "CHUNK_PIXELS", pixels)
    energies, again = meter(mixed, network).energies(lambda *report: reports.append(report))
    torch.testing.assert_close(energies, expected, equal_nan=True)
    assert again == sizes
    done = [count for _, count, _ in reports]
    assert done == sorted(done)
    assert done[-1] == 20
    for found, whole in zip(meter(images, network).gradients([4, 1, 7]), directions, strict=True):
        torch.testing.assert_close(found, whole)


def test_maps_show_where_energies_sit(images, network, monkeypatch):
    energies, _ = meter(images, network).energies(silent)
    monkeypatch.setattr(measure, "CHUNK_PIXELS", 2048)
    maps = meter(images, network).maps([4, 1, 7])
    assert maps.shape == (3, 8, 8)
    torch.testing.assert_close(maps.mean((1, 2)), energies[[4, 1, 7]], rtol=1e-4, atol=1e-5)


PHOTOGRAPHS = """
import resource, sys
import PIL.Image, torch
from puregen_transforms.hub.ebm import load_ebm, resolve_ebm
from puregen_transforms.detection.measure import ImageMeter
from puregen_transforms.models.ebm_inference import FrozenEBM

class Photographs(list):
    def __getitem__(self, row):
        return super().__getitem__(row).copy()

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

torch.set_num_threads(1)
network = FrozenEBM(load_ebm(resolve_ebm(sys.argv[1])))
picture = PIL.Image.effect_noise((512, 512), 50).convert("RGB")
for count in (2, 80):
    meter = ImageMeter(Photographs([picture] * count), network, smallest=4, device=torch.device("cpu"))
    meter.energies(lambda *report: None)
    print(peak())
"""


def test_memory_does_not_grow_with_the_number_of_photographs(tiny_checkpoint):
    done = subprocess.run(
        [sys.executable, "-c", PHOTOGRAPHS, tiny_checkpoint], capture_output=True, text=True, check=True
    )
    few, many = map(float, done.stdout.split())
    assert many - few < 100, "20 megapixels are 60 MiB, and 240 as float32"
