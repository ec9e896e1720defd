"""Detectors that compare with clean images, where none are given, and victims of what they leave.

    uv run python benchmarks/no_clean_images.py --preset cpu --jobs 2

Contract: as in `detection.py`, without the 2,000 clean images, for `moved_labels`, `class_split` and `whole_search`. At
preset cpu on the attacks that no search for a shared trigger finds, as the others need no clean images: wanet,
input_aware, flip, gcb and gradient_matching; and on two sets without poison. One seed.
"""

from __future__ import annotations

from protocol import main

if __name__ == "__main__":
    main("no_clean_images", __doc__)
