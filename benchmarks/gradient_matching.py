"""Gradient matching, which has one test image misread, against the main defenses: PureGen's Table 1.

    uv run python benchmarks/gradient_matching.py --preset cpu

Contract: each target is an image of the test set with a wanted class, drawn at random, and a poison of its own; a
victim is trained from scratch for every target and defense. Success is the share of targets that are called the
wanted class.
"""

from __future__ import annotations

from protocol import main

if __name__ == "__main__":
    main("gradient_matching", __doc__)
