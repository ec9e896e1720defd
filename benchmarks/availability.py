"""Sets made unlearnable as a whole, against defenses that can do without clean images.

    uv run python benchmarks/availability.py --preset cpu --jobs 2

Contract: one training set, all of it poisoned by each attack; test images as they are. An attack succeeds by a low
accuracy of the victim, so accuracy is all there is to see; that without attack says what a defense costs, and the last
column is the mean over the attacks. Two victims a cell. Attackers know neither the victim's first weights nor the order
in which it sees the images.

Rows: ECLIPSE (weak diffusion, then gray images and noise in training), the same with one network call, and each of its
halves alone; `PureGen("eclipse")`, which has one call and first replaces single pixels that stand out, with the same
training, and with a check of what the classifier has learned (`CheckedCompensation`); PureGen's EBM and DDPM; the
squeezings of Liu et al. 2023 (JPEG 10, gray images, 2 bits); UEraser, which learns the worst of five augmented versions
of each image in the first third of the training, and UEraser-max, which does so throughout. The diffusion network is
the packaged one and saw none of the images.

For `--preset cpu` on two cores with AVX-512 and bfloat16 a victim takes 1.8 minutes of one core, 16 of which make a row
(seven attacks and none, two seeds): 15 minutes in two processes. Purification of 10,000 images by ECLIPSE's chain takes
six minutes of one core, in one call half a minute. UEraser takes four times as long as a plain training.
"""

from __future__ import annotations

from protocol import main

if __name__ == "__main__":
    main("availability", __doc__)
