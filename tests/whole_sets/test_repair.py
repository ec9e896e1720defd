from functools import partial
from time import sleep

from PIL import Image as PILImage
from PIL import ImageOps

from puregen_transforms.data.images import decode, encode
from puregen_transforms.whole_sets.repair import EncodedImage, repair
from puregen_transforms.whole_sets.storage import Storage


def encoded(pictures):
    return [EncodedImage(key=key, read=partial(encode, picture)) for key, picture in enumerate(pictures)]


def test_images_are_reported_as_soon_as_they_are_purified():
    reported, at_call = [], []

    def purify(pictures):
        at_call.append((sum(reported), {picture.size for picture in pictures}, len(pictures)))
        return pictures

    sizes = [(8, 8)] * 5 + [(20, 20)] * 3 + [(8, 8)] * 2
    images = encoded([PILImage.new("RGB", size) for size in sizes])
    images.insert(4, EncodedImage(key="broken", read=lambda: b"no image"))
    found = list(repair(images, purify, at_once=lambda pixels: 4 if pixels < 100 else 1, done=reported.append))
    assert at_call == [
        (1, {(8, 8)}, 4),
        (5, {(8, 8)}, 3),
        (8, {(20, 20)}, 1),
        (9, {(20, 20)}, 1),
        (10, {(20, 20)}, 1),
    ]
    assert sum(reported) == 11
    assert [result.key for result in found] == ["broken", *range(10)]


def test_a_batch_that_is_refused_is_reported_once():
    reported = []

    def purify(pictures):
        if any(picture.mode == "L" for picture in pictures):
            raise ValueError("gray")
        return pictures

    modes = ["RGB", "RGB", "L", "RGB"]
    images = encoded([PILImage.new(mode, (8, 8)) for mode in modes])
    found = list(repair(images, purify, at_once=lambda pixels: 4, done=reported.append))
    assert reported == [4]
    assert [result.problem for result in found] == [None, None, "gray", None]


def test_images_of_several_sizes_share_a_batch():
    sizes = []

    def purify(pictures):
        sizes.append([picture.width for picture in pictures])
        return pictures

    images = encoded([PILImage.new("RGB", (width, 1)) for width in (9, 2, 11, 10, 3, 8, 2)])
    found = list(repair(images, purify, at_once=lambda pixels: 4 if pixels < 5 else 2))
    assert sizes == [[2, 2, 3], [8, 9], [10, 11]], "each alone would leave threads idle"
    assert [result.key for result in found] == list(range(7))


def test_what_is_merely_converted_is_not_purified():
    palette = PILImage.new("RGB", (8, 8), (9, 9, 9)).quantize(2)
    storage = Storage(convert=True)
    images = [
        EncodedImage(key=key, read=partial(encode, palette), storage=storage, is_purified=key == 1) for key in range(3)
    ]
    reported = []
    found = list(repair(images, lambda given: [ImageOps.invert(one) for one in given], done=reported.append))
    colors = [decode(result.data).getpixel((0, 0)) for result in found]
    assert colors == [(9, 9, 9), (246, 246, 246), (9, 9, 9)]
    assert sum(reported) == 3


def test_of_large_images_few_are_decoded_at_once(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr("puregen_transforms.whole_sets.repair.CHUNK_PIXELS", 3 * 20 * 20)
    small, large = encode(PILImage.new("RGB", (4, 4))), encode(PILImage.new("RGB", (20, 20)))
    read, ahead = [], []

    def counted(data):
        read.append(data)
        return data

    def images():
        for number, data in enumerate([large] * 30 + [small] * 3):
            yield EncodedImage(key=number, read=partial(counted, data))

    done = 0

    def slowly(pictures):
        sleep(0.02)  # so that as much is read ahead as may be
        return pictures

    for one in repair(images(), slowly):
        ahead.append(len(read) - done)
        done += 1
        assert one.problem is None
    assert done == 33
    # A chunk is encoded, one purified and one decoded, of three images each. Images are decoded three at a time, so up
    # to two more wait for the next chunk.
    assert max(ahead) <= 3 * 3 + 2
