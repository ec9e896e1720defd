"""Stamps: windows that are equal at one place, and what must not be taken for one."""

import torch
import torch.nn.functional as F

from puregen_transforms.detection import detect
from puregen_transforms.detection.stamps import Stamps, window_hashes
from tests.detection.pictures import CHECKERS, pictures, stamped


def marks(images, labels=None):
    return detect(Stamps(), images, labels, device="cpu").marks


def test_four_images_are_enough_and_the_stamp_is_drawn_where_it_is():
    images, _ = pictures(100)
    (mark,) = marks(stamped(images, torch.tensor([3, 30, 61, 98]), down=5, right=20))
    assert mark.rows.tolist() == [3, 30, 61, 98]
    assert mark.place == (5, 20)
    assert torch.equal(mark.picture[:3], CHECKERS)
    assert mark.picture[3].unique().tolist() == [255]


def test_three_images_are_too_few():
    images, _ = pictures(100)
    assert marks(stamped(images, torch.tensor([3, 30, 61]))) == ()


def test_a_stamp_in_all_corners_is_one_mark():
    images, _ = pictures(100)
    rows = torch.arange(0, 60, 6)
    for down, right in ((0, 0), (0, 29), (29, 0), (29, 29)):
        images = stamped(images, rows, down=down, right=right)
    (mark,) = marks(images)
    assert mark.rows.tolist() == rows.tolist()
    assert mark.picture.shape == (4, 32, 32)
    assert int((mark.picture[3] > 0).sum()) == 4 * 9


def test_a_large_stamp_that_repeats_itself_is_found():
    images, _ = pictures(100)
    board = (torch.arange(8)[:, None] + torch.arange(8)).remainder(2).mul(255).to(torch.uint8).expand(3, 8, 8)
    (mark,) = marks(stamped(images, torch.arange(0, 50, 5), down=10, right=10, stamp=board))
    assert mark.rows.tolist() == list(range(0, 50, 5))
    assert torch.equal(mark.picture[:3], board)


def test_a_figure_that_may_be_anywhere_is_no_stamp():
    images, _ = pictures(120)
    for number, (down, right) in enumerate(((4, 4), (4, 16), (16, 4), (16, 16))):
        images = stamped(images, torch.arange(number, 80, 4), down=down, right=right)
    assert marks(images) == ()


def test_flat_windows_are_no_stamp():
    images, _ = pictures(100)
    images[:40, :, :10] = 255
    images[20:60, :, 25:] = 0
    assert marks(images) == ()


def test_white_paper_with_black_writing_has_no_stamp():
    generator = torch.Generator().manual_seed(0)
    paper = torch.full((300, 3, 32, 32), 255, dtype=torch.uint8)
    for image in paper:
        for _ in range(4):
            down, right = torch.randint(4, 28, (2,), generator=generator).tolist()
            length = int(torch.randint(3, 12, (), generator=generator))
            image[:, down : down + length, right : right + 2] = 0
            image[:, down : down + 2, right : right + length] = 0
    assert marks(paper) == ()


def test_a_watermark_on_every_image_is_one_mark():
    images, labels = pictures(100)
    (mark,) = marks(stamped(images, torch.arange(100)), labels)
    assert len(mark.rows) == 100


def test_in_simple_images_windows_that_chance_repeats_are_no_stamp_and_a_commoner_one_is():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 4, (500, 1, 8, 8), generator=generator).mul(80).float()
    images = F.interpolate(coarse, size=(24, 24)).expand(-1, 3, -1, -1).to(torch.uint8).contiguous()
    assert marks(images) == ()
    rows = torch.arange(0, 500, 10)
    (mark,) = marks(stamped(images, rows, down=20, right=20))
    assert set(rows.tolist()) <= set(mark.rows.tolist())
    assert len(mark.rows) <= 52


def test_windows_have_the_same_hash_only_if_they_are_equal():
    images = torch.randint(0, 2, (400, 3, 3, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[200:] = images[:200]
    images[200:, 0, 0, 0] ^= 1
    (hashes,) = window_hashes(images, range(1))
    assert hashes.shape == (2, 400)
    assert (hashes[0, :200] != hashes[0, 200:]).all()
    assert (hashes[1, :200] == hashes[1, 200:]).all()
