"""Every detector on every poisoned set, what it costs, and what victims learn from what it leaves.

    uv run python benchmarks/detection.py --preset cpu --jobs 2

Contract: nineteen attacks on 10,000 CIFAR-10 images at the rates of their preset, with the target class airplane; and
two sets without poison, one of them with 5 % wrong labels. A detector is given images, labels, and what it asks for:
the victim that learned the set, and 2,000 clean images taken from the test set; whether a row is poisoned it is never
told. What reads or trains a network is measured with two victims (seeds 0 and 1). Confusion Training, the slowest,
meets ten of the sets, five of them twice. Victims of what is left have seed 0; at preset cpu they are trained for those
detectors that flag hardly anything in clean sets. Covers count as not poisoned, and once more apart; in the set with
wrong labels, the mislabeled rows stand in the place of poison.
"""

from __future__ import annotations

from protocol import main

if __name__ == "__main__":
    main("detection", __doc__)
