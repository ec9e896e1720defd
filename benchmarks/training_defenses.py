"""The Victim and The Beneficiary, split by its Victim or by a detector, beside its parts and its rivals.

    uv run python benchmarks/training_defenses.py --preset cpu --jobs 2
    uv run python benchmarks/training_defenses.py --preset cpu --kept  # the tables of a run that ended early

Contract: eight attacks on 10,000 CIFAR-10 images, dirty-label ones at a rate of 10 %, with the target class airplane;
and the set without poison. A defense is given images and labels alone: no clean images, nor whether a row is poisoned.
The detector (`whole_search`) may look into the undefended victim of the set. What counts is the network after the last
epoch; after each, it is judged on 2,000 of the test images. Costs are seconds of search and training against the median
of plain trainings in the same run; what purification takes is not counted. One victim a cell, but two where a run
before has kept defenses that lie within five points against an attack. Two attacks also meet the defense with parts
left out. What tells most is computed first.
"""

from __future__ import annotations

from protocol import main

if __name__ == "__main__":
    main("training_defenses", __doc__)
