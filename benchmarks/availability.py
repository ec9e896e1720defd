"""Sets made unlearnable as a whole, against defenses that can do without clean images.

    uv run python benchmarks/availability.py --preset cpu

Contract: one training set, all of it poisoned by each attack; test images as they are. An attack succeeds by a low
accuracy of the victim, so accuracy is all there is to see; that without attack says what a defense costs. Two victims a
cell. Attackers know neither the victim's first weights nor the order in which it sees the images.
"""

from __future__ import annotations

from protocol import main

if __name__ == "__main__":
    main("availability", __doc__)
