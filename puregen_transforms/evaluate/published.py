"""Figures of the PureGen paper (arXiv 2405.18627), to stand beside ours.

Of each: poison success, natural accuracy and success of the worst class, in percent; (success, accuracy) where there is
no worst class.
"""

from __future__ import annotations

from collections.abc import Mapping

Figures = tuple[float, ...]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Of the images that the figures are of: CIFAR-10's."""

PUBLISHED: Mapping[str, Mapping[str, Mapping[str, Figures]]] = {
    # Table 1, ResNet-18, 1 % of the rows; Table 4, HLB, 1 %. "Best baseline" there is not always the same one.
    "narcissus": {
        "ε 8": {
            "none": (43.95, 94.89, 93.59),
            "EPIC 0.2": (27.31, 82.20, 84.71),
            "FrieNDs, bernoulli": (8.32, 91.01, 83.03),
            "JPEG 75": (1.78, 92.94, 4.13),
            "PureGen-DDPM": (1.64, 90.99, 2.83),
            "PureGen-EBM": (1.39, 92.92, 2.50),
        },
        "ε 16": {
            "none": (83.63, 93.67, 97.36),
            "PureGen-DDPM": (5.21, 86.16, 13.32),
            "PureGen-EBM": (7.35, 85.61, 16.94),
            "PureGen-NAIVE": (5.20, 85.95, 9.80),
            "PureGen-REPS": (4.95, 85.79, 10.75),
            "PureGen-FILT": (5.74, 90.52, 16.08),
        },
    },
    # Table 1, ResNet-18, epsilon 8, 1 % of the rows.
    "gradient_matching": {
        "gradient matching": {
            "none": (44.0, 94.84),
            "EPIC 0.2": (10.0, 85.14),
            "FrieNDs, bernoulli": (0.0, 91.15),
            "JPEG 75": (0.0, 90.00),
            "PureGen-DDPM": (0.0, 90.93),
            "PureGen-EBM": (1.0, 92.98),
        },
    },
    # The transfer table: fine-tuning and black-box linear transfer, 10 %.
    "bullseye_polytope": {
        "all layers tuned": {
            "none": (46.0, 89.84),
            "JPEG 75": (0.0, 90.40),
            "PureGen-DDPM": (0.0, 91.53),
            "PureGen-EBM": (0.0, 87.52),
        },
        "last layer anew, extractor unknown": {
            "none": (93.75, 83.59),
            "JPEG 75": (0.0, 92.44),
            "PureGen-DDPM": (0.0, 93.81),
            "PureGen-EBM": (0.0, 92.38),
        },
    },
}
