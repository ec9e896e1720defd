"""Narcissus, a clean-label trigger, against every defense: PureGen's Tables 1 and 4.

    uv run python benchmarks/narcissus.py --preset cpu

Contract: one training set, poisoned once for each target class and strength. Each defense gets the poisoned set, and on
what it returns a victim of the same network, recipe and seed is trained. Success is the share of test images of other
classes that the victim calls the target class once they carry the trigger, not magnified; test images are purified by
nobody. Beside it the accuracy, also on a set without poison, and the success against a victim that never saw poison.
"""

from __future__ import annotations

from protocol import main

if __name__ == "__main__":
    main("narcissus", __doc__)
