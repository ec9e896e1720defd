"""Energy networks trained on images unlike those to be purified: PureGen's Figure 4.

    uv run python benchmarks/shifted_generator.py --preset cpu

Contract: networks of one shape, recipe and seed learn photographs of 140 classes, of food alone, and of the 140 classes
in gray; CIFAR-10 has no food. Each then defends against the same attack.
"""

from __future__ import annotations

from protocol import main

if __name__ == "__main__":
    main("shifted_generator", __doc__)
