"""Every attack with a trigger or on all that is learned, on victims without defense: does it work at all?

    uv run python benchmarks/attacks.py --preset cpu

Contract: one training set, poisoned by each attack; on each a victim of the same network, recipe and seed, and one on
the set as it is. Success is the share of test images that the attack aims at (of other classes, or of its source class)
which the victim calls the target class once they carry the trigger; "never poisoned" is the same share for the victim
without poison. For attacks on all that is learned, which have no trigger, what counts is the accuracy. Attackers know
neither the victim's first weights nor the order in which it sees the images.
"""

from __future__ import annotations

from protocol import main

if __name__ == "__main__":
    main("attacks", __doc__)
