"""Triggers that a network makes."""

import ast

import pytest
import torch

from puregen_transforms.attacks.network_triggers import Encoded, Generated
from puregen_transforms.models.image_to_image import ImageToImage
from tests.test_imports import PACKAGE

GRAD_MODES = {"no_grad", "inference_mode", "enable_grad", "set_grad_enabled", "autocast", "fork_rng"}


@pytest.mark.parametrize(
    "trigger",
    [
        # A mask of another depth than its images', and a secret for another encoder: both fail inside the network.
        Generated(ImageToImage(3, 3, 4), ImageToImage(4, 1, 2)),
        Encoded(ImageToImage(3, 3, 4), torch.zeros(3, 2, 2), 4.0),
    ],
)
def test_a_failed_call_leaves_gradients_on(trigger):
    with pytest.raises(RuntimeError) as kept:  # as a debugger or a notebook keeps the traceback
        trigger(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    assert torch.is_grad_enabled()
    assert kept.value.__traceback__ is not None


def test_triggers_are_made_without_gradients():
    pattern, mask = ImageToImage(3, 3, 4), ImageToImage(3, 1, 2)
    assert not Generated(pattern, mask)(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).requires_grad
    assert Generated(pattern, mask).on(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)).requires_grad


def test_no_generator_waits_inside_a_state_of_the_process():
    """Who asks it for the next value, or drops it, would find gradients off, or other random numbers."""
    held = [
        f"{path.name}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.With) and GRAD_MODES & names_in(*(item.context_expr for item in node.items))
        if any(isinstance(inner, (ast.Yield, ast.YieldFrom)) for inner in ast.walk(node))
    ]
    assert not held


def names_in(*nodes):
    return {inner.attr for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Attribute)}
