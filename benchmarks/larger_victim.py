"""Detectors that read a network, where it is larger and learned longer than in `detection`.

    uv run python benchmarks/larger_victim.py --preset cpu --jobs 2

Contract: as in `detection.py`, for badnets, blended, wanet and no attack; the victim is PureGen's fast network, trained
for 30 epochs, twice as long as its recipe is made for. One seed.
"""

from __future__ import annotations

from protocol import main

if __name__ == "__main__":
    main("larger_victim", __doc__)
