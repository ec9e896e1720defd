"""A small set with a backdoor, and networks for it."""

import copy

import torch

from puregen_transforms.models.classifiers import small_classifier


def backdoored(count=480, poisoned=48, size=8, tint=12, seed=0):
    """Noise with a tint of red, green, blue or none, the four classes; poisoned images have a striped corner.

    Returns images, labels (N,) as a defender sees them, 0 for poisoned ones, true labels, and which are poisoned.
    """
    generator = torch.Generator().manual_seed(seed)
    truth = torch.arange(count) % 4
    images = torch.randint(0, 200, (count, 3, size, size), generator=generator)
    for channel in range(3):
        images[truth == channel, channel] += tint
    is_poisoned = torch.zeros(count, dtype=torch.bool)
    is_poisoned[(truth > 0).nonzero().flatten()[:poisoned]] = True
    images[is_poisoned] = stamped(images[is_poisoned])
    return images.clamp(0, 255).byte(), torch.where(is_poisoned, 0, truth), truth, is_poisoned


def stamped(images):
    """Put on the trigger: a striped corner."""
    images = images.clone()
    images[..., :4, :4] = 0
    images[..., 0:4:2, :4] = 255
    return images


def builder(classes=4, width=8, seed=0):
    """Give a function that builds networks with the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = small_classifier(classes, width)
    return lambda: copy.deepcopy(model)
