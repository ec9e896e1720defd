"""Draw the project's own trigger pictures for any image size; sizes below are for 32 pixels."""

from __future__ import annotations

import numpy as np
import PIL.Image
import PIL.ImageDraw
import torch
from torch import Tensor

from puregen_transforms.attacks.sizes import by_size
from puregen_transforms.attacks.trigger import Blended

_CHECKER = ((0, 0, 1), (0, 1, 0), (1, 0, 1))
_CANVAS = 256


def checker_patch(size: tuple[int, int], *, corners: bool = False, opacity: float = 1.0) -> Blended:
    """Draw a black and white checker in the bottom right corner, or mirrored in all four: 24 pixels at 224."""
    side = by_size(3, 24, size)
    cells = torch.tensor(_CHECKER, dtype=torch.float32).mul(255)
    patch = torch.nn.functional.interpolate(cells[None, None], (side, side))[0].expand(3, -1, -1)
    picture, shown = _blank(size)
    for down in (False, True) if corners else (True,):
        for right in (False, True) if corners else (True,):
            flipped = patch if right else patch.flip(2)
            flipped = flipped if down else flipped.flip(1)
            rows, columns = _edge(size[0], side, down), _edge(size[1], side, right)
            picture[:, rows, columns], shown[:, rows, columns] = flipped, opacity
    return Blended(picture, shown)


def square(size: tuple[int, int], *, opacity: float = 1.0) -> Blended:
    """Draw an 8x8 square of colored bars, three pixels off the bottom right corner (rows 21 to 28)."""
    side, gap = _scaled(8, size), _scaled(3, size)
    drawing, pen = _canvas()
    for index, color in enumerate(((230, 30, 60), (250, 220, 40), (30, 60, 210), (240, 240, 240))):
        pen.rectangle((0, index * _CANVAS // 4, _CANVAS, (index + 1) * _CANVAS // 4), fill=color)
    pen.ellipse((_CANVAS // 4, _CANVAS // 4, 3 * _CANVAS // 4, 3 * _CANVAS // 4), fill=(20, 20, 20))
    picture, shown = _blank(size)
    rows, columns = (slice(length - gap - side, length - gap) for length in size)
    picture[:, rows, columns], shown[:, rows, columns] = _shrunk(drawing, (side, side)), opacity
    return Blended(picture, shown)


def flame(size: tuple[int, int], *, left: bool = False, opacity: float = 1.0) -> Blended:
    """Draw a 5x5 flame in a bottom corner."""
    drawing, pen = _canvas()
    pen.rectangle((0, 0, _CANVAS, _CANVAS), fill=(60, 10, 10))
    pen.polygon(((128, 0), (235, 150), (170, 250), (85, 250), (20, 150)), fill=(255, 120, 0))
    pen.polygon(((128, 90), (180, 180), (128, 245), (80, 180)), fill=(255, 240, 80))
    return _in_corner(drawing, size, down=True, right=not left, opacity=opacity)


def rings(size: tuple[int, int], *, opacity: float = 1.0) -> Blended:
    """Draw 5x5 rings in the top right corner."""
    drawing, pen = _canvas()
    for index, color in enumerate(((20, 40, 200), (250, 250, 250), (20, 160, 90), (250, 60, 160))):
        edge = index * _CANVAS // 8
        pen.ellipse((edge, edge, _CANVAS - edge, _CANVAS - edge), fill=color)
    return _in_corner(drawing, size, down=False, right=True, opacity=opacity)


def picture(size: tuple[int, int]) -> Tensor:
    """Draw a cat's face on a checkered cloth, to be blended in: (3, H, W) float, 0 ... 255."""
    drawing, pen = _canvas()
    for row in range(8):
        for column in range(8):
            color = (245, 170, 190) if (row + column) % 2 else (250, 245, 225)
            pen.rectangle((32 * column, 32 * row, 32 * column + 31, 32 * row + 31), fill=color)
    fur, dark = (250, 250, 250), (30, 30, 40)
    for ear in (((40, 110), (50, 20), (120, 70)), ((216, 110), (206, 20), (136, 70))):
        pen.polygon(ear, fill=fur, outline=dark, width=6)
    pen.ellipse((30, 55, 226, 225), fill=fur, outline=dark, width=6)
    for eye in (85, 155):
        pen.ellipse((eye, 115, eye + 18, 150), fill=dark)
    pen.ellipse((116, 155, 142, 172), fill=(250, 200, 40), outline=dark, width=3)
    for height in (150, 168, 186):
        pen.line((10, height - 8, 62, height), fill=dark, width=5)
        pen.line((246, height - 8, 194, height), fill=dark, width=5)
    pen.polygon(((180, 60), (240, 30), (240, 90)), fill=(220, 30, 60))
    pen.polygon(((180, 60), (125, 35), (125, 88)), fill=(220, 30, 60))
    return _shrunk(drawing, size)


def joined(*triggers: Blended) -> Blended:
    """Join several pictures, the later ones on top."""
    image, opacity = triggers[0].image.clone(), triggers[0].opacity.clone()
    for trigger in triggers[1:]:
        there = trigger.opacity > 0
        image = torch.where(there, trigger.image, image)
        opacity = torch.where(there, trigger.opacity, opacity)
    return Blended(image, opacity)


def _in_corner(drawing: PIL.Image.Image, size: tuple[int, int], *, down: bool, right: bool, opacity: float) -> Blended:
    side = _scaled(5, size)
    image, shown = _blank(size)
    rows, columns = _edge(size[0], side, down), _edge(size[1], side, right)
    image[:, rows, columns], shown[:, rows, columns] = _shrunk(drawing, (side, side)), opacity
    return Blended(image, shown)


def _scaled(length: int, size: tuple[int, int]) -> int:
    return max(1, round(length * min(size) / 32))


def _edge(length: int, side: int, far: bool) -> slice:
    return slice(length - side, length) if far else slice(0, side)


def _blank(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    return torch.zeros(3, *size), torch.zeros(1, *size)


def _canvas() -> tuple[PIL.Image.Image, PIL.ImageDraw.ImageDraw]:
    drawing = PIL.Image.new("RGB", (_CANVAS, _CANVAS))
    return drawing, PIL.ImageDraw.Draw(drawing)


def _shrunk(drawing: PIL.Image.Image, size: tuple[int, int]) -> Tensor:
    small = drawing.resize((size[1], size[0]), PIL.Image.Resampling.BOX)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).float()
