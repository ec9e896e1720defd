"""Repair a stream of encoded images in bounded memory, with a reason for each one that cannot be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Generic, TypeVar

from PIL import Image

from puregen_transforms.data.images import LARGEST_LOOKED_AT, ImageProblemError, Purify, decode_input
from puregen_transforms.whole_sets.storage import LOSSLESS, Storage

Key = TypeVar("Key")

CHUNK_PIXELS = 2**24
"""Decoded pixels of a chunk, of which three are held at once: 64 MiB each, as Pillow holds RGB in four bytes."""


@dataclass(frozen=True, kw_only=True)
class EncodedImage(Generic[Key]):
    """An encoded image that is still to be read.

    Args:
        key: what the caller knows the image by.
        read: gives its bytes; an `OSError` is a problem of this image alone.
        image_format: to write it in.
        mode: converts it to this one, where that is asked for.
        storage: see `Storage`.
        is_purified: whether it is purified, rather than merely converted.
    """

    key: Key
    read: Callable[[], bytes]
    image_format: str = "PNG"
    mode: str | None = None
    storage: Storage = LOSSLESS
    is_purified: bool = True


@dataclass(frozen=True, kw_only=True)
class Repaired(Generic[Key]):
    """The new bytes of one image, or else the problem with it."""

    key: Key
    data: bytes | None = None
    problem: str | None = None


def repair(
    images: Iterable[EncodedImage[Key]],
    purify: Purify,
    *,
    chunk_images: int = 256,
    at_once: Callable[[int], int] = lambda pixels: 256,
    done: Callable[[int], None] = lambda count: None,
) -> Iterator[Repaired[Key]]:
    """Decode, purify and encode images, a chunk at a time.

    While one chunk is purified, the next is read and decoded, and the one before encoded.

    Args:
        images: read one by one in a thread of its own, no further ahead than the next chunk.
        purify: see `Purify`; a `ValueError` it raises is held against the images that cause it.
        chunk_images: images decoded at once, at most.
        at_once: number of pixels of an image -> how many such `purify` is given at once; of several sizes, as many as
            are as much work.
        done: told of images as soon as they are purified, or cannot be.

    Yields:
        One `Repaired` for each image. Within a chunk, those that could not be decoded come first.
    """
    workers = min(16, (os.cpu_count() or 1) + 2)
    with ThreadPoolExecutor(workers) as pool, ThreadPoolExecutor(1) as reader:
        chunks = _chunks(_decoded(images, pool, window=2 * workers), chunk_images)
        following = reader.submit(next, chunks, None)
        encoded: Iterable[Repaired[Key]] = ()
        while (chunk := following.result()) is not None:
            following = reader.submit(next, chunks, None)
            bad = [(source, picture) for source, picture in chunk if isinstance(picture, ImageProblemError)]
            good = [(source, picture) for source, picture in chunk if not isinstance(picture, ImageProblemError)]
            yield from (Repaired(key=source.key, problem=str(problem)) for source, problem in bad)
            if bad:
                done(len(bad))
            results = _purify_all(good, purify, at_once, done)
            yield from encoded
            encoded = pool.map(_encode_one, good, results)
        yield from encoded


def _decoded(
    images: Iterable[EncodedImage[Key]], pool: Executor, *, window: int
) -> Iterator[tuple[EncodedImage[Key], Image.Image | ImageProblemError]]:
    """Read and decode in threads, in order, `window` images at a time, of large ones fewer."""
    stream, count = iter(images), 1
    while batch := list(islice(stream, count)):
        pictures = list(pool.map(decode_one, batch))
        yield from zip(batch, pictures, strict=True)
        largest = max((one.width * one.height for one in pictures if isinstance(one, Image.Image)), default=1)
        count = max(1, min(window, CHUNK_PIXELS // largest))


def decode_one(source: EncodedImage[Key]) -> Image.Image | ImageProblemError:
    """Read and decode an image, or return the problem with it."""
    try:
        largest = None if source.is_purified else LARGEST_LOOKED_AT
        image = decode_input(source.read(), mode=source.mode, largest=largest, convert=source.storage.convert)
        return source.storage.fitted(image, source.image_format)
    except ImageProblemError as problem:
        return problem
    except OSError as error:
        return ImageProblemError(f"it cannot be read ({error.strerror or error})")


def _chunks(
    decoded: Iterable[tuple[EncodedImage[Key], Image.Image | ImageProblemError]], chunk_images: int
) -> Iterator[list[tuple[EncodedImage[Key], Image.Image | ImageProblemError]]]:
    """Cut the stream by number of images and by number of pixels."""
    chunk, pixels = [], 0
    for source, picture in decoded:
        chunk.append((source, picture))
        if isinstance(picture, Image.Image):
            pixels += picture.width * picture.height
        if len(chunk) >= chunk_images or pixels >= CHUNK_PIXELS:
            yield chunk
            chunk, pixels = [], 0
    if chunk:
        yield chunk


def _purify_all(
    good: list[tuple[EncodedImage[Key], Image.Image]],
    purify: Purify,
    at_once: Callable[[int], int],
    done: Callable[[int], None],
) -> list[Image.Image | ImageProblemError]:
    """Purify a list in batches, those of like size together; what is merely converted stays as it was decoded."""
    pixels = {place: picture.width * picture.height for place, (one, picture) in enumerate(good) if one.is_purified}
    results: dict[int, Image.Image | ImageProblemError] = {
        place: picture for place, (_, picture) in enumerate(good) if place not in pixels
    }
    if results:
        done(len(results))
    for places in _batches(pixels, at_once):
        results.update(zip(places, _purify_each([good[place][1] for place in places], purify), strict=True))
        done(len(places))
    return [results[place] for place in range(len(good))]


def _batches(pixels: Mapping[int, int], at_once: Callable[[int], int]) -> Iterator[list[int]]:
    """Group the places of images into batches, each full where its images' shares of `at_once` add up to 1."""
    batch: list[int] = []
    share = Fraction()
    for place in sorted(pixels, key=pixels.__getitem__):
        own = Fraction(1, at_once(pixels[place]))
        if batch and share + own > 1:
            yield batch
            batch, share = [], Fraction()
        batch.append(place)
        share += own
    if batch:
        yield batch


def _purify_each(pictures: list[Image.Image], purify: Purify) -> list[Image.Image | ImageProblemError]:
    """Purify a list; if that is refused, halve it until the pictures at fault stand alone."""
    if not pictures:
        return []
    try:
        return list(purify(pictures))
    except ValueError as error:
        if len(pictures) == 1:
            return [ImageProblemError(str(error))]
    middle = len(pictures) // 2
    return _purify_each(pictures[:middle], purify) + _purify_each(pictures[middle:], purify)


def _encode_one(good: tuple[EncodedImage[Key], Image.Image], result: Image.Image | ImageProblemError) -> Repaired[Key]:
    source, before = good
    if isinstance(result, ImageProblemError):
        return Repaired(key=source.key, problem=str(result))
    profile = before.info.get("icc_profile")
    data = source.storage.encode(result, source.image_format, color_profile=profile)
    return Repaired(key=source.key, data=data)
