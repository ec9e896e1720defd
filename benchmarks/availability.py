"""Sets made unlearnable as a whole, against defenses that can do without clean images.

    uv run python benchmarks/availability.py --preset cpu --jobs 2

Contract: one training set, all of it poisoned by each attack; test images as they are. An attack succeeds by a low
accuracy of the victim, so accuracy is all there is to see; that without attack says what a defense costs, and the last
column is the mean over the attacks. Two victims a cell. Attackers know neither the victim's first weights nor the order
in which it sees the images.

Rows: ECLIPSE (weak diffusion, then gray images and noise in training), the same with one network call, and each of its
halves alone; PureGen's EBM and DDPM; the squeezings of Liu et al. 2023 (JPEG 10, gray images, 2 bits); UEraser, which
learns the worst of five augmented versions of each image in the first third of the training, and UEraser-max, which
does so throughout. The diffusion network is the packaged one and saw none of the images.

Estimated, not measured, for `--preset cpu` on two idle cores: six hours. 16 victims a row (seven attacks and none, two
seeds), a minute of one core each, of UEraser 2.5 and of UEraser-max 5.5: 2.5 hours in two processes; purification of
80,000 images by the EBM 50 minutes, by the DDPM 40, by ECLIPSE 35, in one call 3; the rest for the seven attacks.
"""

from __future__ import annotations

from protocol import main

if __name__ == "__main__":
    main("availability", __doc__)
