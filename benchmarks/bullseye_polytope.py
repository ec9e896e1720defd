"""Bullseye Polytope, which has one image misread after transfer, against defenses of the images, as PureGen does.

    uv run python benchmarks/bullseye_polytope.py --preset cpu

Contract: the published split: a feature extractor learns the first images of each class, the victim transfers to 50
others of each, which are poisoned, and targets are among the rest. Either the last layer is trained anew (500 Langevin
steps), by an attacker who has the extractor or has not, or all layers are tuned (1,000 steps). Success is the share of
targets that are called the wanted class.
"""

from __future__ import annotations

from protocol import main

if __name__ == "__main__":
    main("bullseye_polytope", __doc__)
