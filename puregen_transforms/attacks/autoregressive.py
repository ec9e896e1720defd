"""AR (Sandoval-Segura et al. 2022): noise in which each pixel follows from those before it, by a rule of the class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AvailabilityConfig
from puregen_transforms.attacks.crafting import Crafted, within_length
from puregen_transforms.attacks.selection import choose_share
from puregen_transforms.data.image_set import ImageSet

_CUT = 4
"""Rows and columns of a rolled out signal that are cut off, as the first ones are mere random numbers."""

_SIDE, _DRAWN, _TRIED, _POOLS = 32, 512, 500, 20
"""Of the search for rules: pixels of a signal, channels and triples that are drawn at a time, how many times."""

_LONGEST = 50.0
"""Euclidean length of a signal, 32 pixels wide, beyond which its rule is held for unstable."""

_PART = 1000


@dataclass(frozen=True, kw_only=True)
class AutoregressiveConfig(AvailabilityConfig):
    """Settings as published. Rules are searched anew with the seed, much as the authors searched theirs.

    Args:
        radius: Euclidean length of an image's change at 32 x 32 pixels in [0, 1]; it grows with the side, so that
            pixels are changed alike.
        response: how strongly the filter that cancels the signals of one class must answer to those of another, as the
            sum of what is positive of its convolution with a signal of length 1. None is 10 for up to 10 classes, and 3
            for more: the authors have these for 10 and for 100.
    """

    radius: float = 1.0
    response: float | None = None

    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {}, "cpu": {}, "paper": {}}


def craft(dataset: ImageSet, config: AutoregressiveConfig, attacker: Attacker) -> Crafted:
    """Search a rule for each class, roll it out from random numbers for each image, and add the signals.

    Raises:
        ValueError: no rules that differ enough.
    """
    generator, classes = attacker.generator(), len(dataset.class_names)
    response = (10.0 if classes <= 10 else 3.0) if config.response is None else config.response
    ids = choose_share(dataset, config.rate, generator=generator)
    rules = find_rules(classes, response, generator)
    originals, labels = dataset.images[ids], dataset.labels[ids]
    height, width = dataset.size
    radius = config.radius * (height * width) ** 0.5 / _SIDE
    images, parts = [], torch.arange(len(ids)).split(_PART)
    for done, rows in enumerate(parts, 1):
        changes = 255 * radius * scaled(signals(rules[labels[rows]], dataset.size, generator))
        images.append(within_length(changes, originals[rows], radius))
        attacker.progress("rolling out signals", done, len(parts))
    return Crafted(ids=ids, images=torch.cat(images), labels=labels, budget=radius, norm="l2")


def signals(rules: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Roll out rules from random numbers: (N, C, H, W).

    Args:
        rules: (N, C, 3, 3), of each channel the weights of a pixel's neighbors, those above and to the left; the pixel
            itself is the last, of weight 0.
        size: height and width.
        generator: of the numbers in the first rows and columns, which are cut off.
    """
    height, width = (side + _CUT for side in size)
    values = torch.randn(*rules.shape[:2], height, width, generator=generator)
    for row in range(2, height):
        for column in range(2, width):
            seen = values[:, :, row - 2 : row + 1, column - 2 : column + 1]
            values[:, :, row, column] = (seen * rules).sum((2, 3))
    return values[:, :, _CUT:, _CUT:]


def scaled(values: Tensor) -> Tensor:
    """Scale each signal to a Euclidean length of 1."""
    return values / values.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def find_rules(count: int, response: float, generator: torch.Generator) -> Tensor:
    """Search stable rules whose signals are told apart by their filters: (count, 3, 3, 3).

    Args:
        count: how many.
        response: least answer of each filter found so far to a signal of the next rule; see `AutoregressiveConfig`.
        generator: of all that is drawn.

    Raises:
        ValueError: too few are found.
    """
    found: list[Tensor] = []
    for _ in range(_POOLS):
        rules, examples = _stable_channels(generator)
        for chosen in torch.randint(len(rules), (_TRIED, 3), generator=generator):
            if not found or responses(torch.stack(found), scaled(examples[None, chosen])).min() >= response:
                found.append(rules[chosen])
            if len(found) == count:
                return torch.stack(found)
    raise ValueError(
        f"Expected {count} rules whose filters answer to each other's signals by {response:g} or more, but found "
        f"{len(found)}. Lower `response`."
    )


def responses(rules: Tensor, values: Tensor) -> Tensor:
    """Measure how the filters of rules (K, C, 3, 3) answer to signals (N, C, H, W): (N, K), 0 to their own."""
    filters = rules.clone()
    filters[..., 2, 2] = -1
    return F.conv2d(values, filters).relu().sum((2, 3))


def _stable_channels(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw rules of one channel whose weights sum to 1, (n, 3, 3), and a signal of each, (n, 32, 32)."""
    rules = torch.randn(_DRAWN, 3, 3, generator=generator)
    rules[:, 2, 2] = 0
    rules /= rules.sum((1, 2), keepdim=True)
    examples = signals(rules[:, None].repeat(3, 1, 1, 1), (_SIDE, _SIDE), generator)[:, 0]
    stable = (examples.reshape(3, _DRAWN, -1).norm(dim=2) <= _LONGEST).all(0)
    return rules[stable], examples[:_DRAWN][stable]


ATTACK = Attack("autoregressive", AutoregressiveConfig, craft, clean_label=True)
