"""Triggerless attacks on victims without defense: how many target images do they hit?

    uv run python benchmarks/triggerless.py --preset cpu

Contract: for every target image of gradient matching a victim is trained from scratch; for every one of Bullseye
Polytope it transfers to the poisoned small set, after the published split. Pairs of true and target class are drawn at
random; nothing is chosen by success. A target is hit if the victim calls it the target class; "never poisoned" counts
the same for a victim of the same kind on clean images. Attackers know the victim's network and what it is trained on,
but neither its first weights nor the order in which it sees the images; for Bullseye Polytope, where said, also the
extractor.
"""

from __future__ import annotations

from protocol import main

if __name__ == "__main__":
    main("triggerless", __doc__)
