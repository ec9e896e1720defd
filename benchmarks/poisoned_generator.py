"""An energy network trained on poisoned images: PureGen's Table 3.

    uv run python benchmarks/poisoned_generator.py --preset cpu

Contract: two networks of one shape, recipe and seed learn the same photographs; for one of them every image carries the
very trigger that the training set is attacked with. Both then defend against it, beside no defense. They are smaller,
and trained more briefly, than the packaged network: compare them with each other.
"""

from __future__ import annotations

from protocol import main

if __name__ == "__main__":
    main("poisoned_generator", __doc__)
