"""Visible, blended, warped and learned triggers against the main defenses.

    uv run python benchmarks/triggers.py --preset cpu

Contract: as `narcissus.py`; one target class, airplane, for every attack. Some of these triggers change labels, and
some are patches that look like parts of an image: purification cannot take those away, and the table shows it.
"""

from __future__ import annotations

from protocol import main

if __name__ == "__main__":
    main("triggers", __doc__)
