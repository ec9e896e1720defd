"""Narcissus by an attacker who has the defense's energy network: PureGen's Table 11.

    uv run python benchmarks/defense_aware.py --preset cpu

Contract: as `narcissus.py`. The attacker trains the surrogate on purified images, optimizes the trigger through the
Langevin chain (10 steps), or both.
"""

from __future__ import annotations

from protocol import main

if __name__ == "__main__":
    main("defense_aware", __doc__)
