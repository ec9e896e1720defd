"""Copies, and an order of rows that their contents decide."""

import torch

from puregen_transforms.detection.look_alikes import (
    content_keys,
    copies_among,
    count_pictures,
    evenly,
    first_copies,
    order_by_content,
    small_pictures,
)
from puregen_transforms.functional.jpeg import jpeg
from tests.detection.pictures import pictures


def test_a_picture_compressed_or_shifted_by_a_pixel_is_the_same_picture():
    images, _ = pictures(30)
    same = torch.cat([images[:1], jpeg(images[:1], 50), images[:1].roll(1, 3)])
    assert count_pictures(small_pictures(same), most=10) == 1
    assert count_pictures(small_pictures(torch.cat([same, images])), most=10) == 10
    assert count_pictures(small_pictures(torch.cat([same, images])), most=100) == 30


def test_pairs_of_the_same_picture_are_marked():
    images, _ = pictures(10)
    pairs = copies_among(small_pictures(torch.cat([images, images[:2]])))
    assert pairs.nonzero().tolist() == sorted([[n, n] for n in range(12)] + [[0, 10], [10, 0], [1, 11], [11, 1]])


def test_rows_are_sorted_by_what_they_hold_and_then_by_label():
    images, labels = pictures(20)
    images[7] = images[3]
    labels[3], labels[7] = 2, 1
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    first = order_by_content(content_keys(images), labels)
    second = order[order_by_content(content_keys(images[order]), labels[order])]
    assert torch.equal(first, second)
    assert first.tolist().index(3) == first.tolist().index(7) + 1


def test_copies_name_the_first_row():
    keys = torch.tensor([5, 9, 5, 1, 9, 5])
    assert first_copies(keys).tolist() == [-1, -1, 0, -1, 1, 0]
    images, _ = pictures(8)
    images[5] = images[2]
    images[7, 0, 0, 0] ^= 1
    assert first_copies(content_keys(images)).tolist() == [-1] * 5 + [2, -1, -1]


def test_rows_are_chosen_evenly():
    assert evenly(torch.arange(10), 5).tolist() == [0, 2, 4, 6, 8]
    assert evenly(torch.arange(3), 5).tolist() == [0, 1, 2]
