"""Published figures, to stand beside ours."""

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
    "availability": {
        "lsp": {
            "none": (13.1,),
            "JPEG 10": (83.0,),
            "grayscale": (64.7,),
            "UEraser-max": (92.8,),
            "ECLIPSE": (84.58,),
        },
        "urp": {"none": (16.80,), "JPEG 10": (81.27,), "ECLIPSE": (86.98,)},
        "autoregressive": {
            "none": (11.7,),
            "JPEG 10": (85.2,),
            "grayscale": (35.2,),
            "UEraser-max": (90.1,),
            "ECLIPSE": (87.32,),
        },
        "one_pixel_shortcut": {"none": (14.7,), "JPEG 10": (82.5,), "grayscale": (19.9,), "UEraser-max": (78.0,)},
        "error_minimizing": {
            "none": (20.8,),
            "JPEG 10": (81.5,),
            "grayscale": (92.0,),
            "UEraser-max": (93.6,),
            "ECLIPSE": (82.80,),
        },
        "targeted_adversarial": {
            "none": (6.3,),
            "JPEG 10": (83.9,),
            "grayscale": (11.0,),
            "UEraser-max": (79.1,),
            "ECLIPSE": (86.13,),
        },
        "ntga": {
            "none": (22.8,),
            "JPEG 10": (69.5,),
            "grayscale": (70.4,),
            "UEraser-max": (86.8,),
            "PureGen-EBM": (85.22,),
            "PureGen-DDPM": (83.48,),
        },
    },
}
"""By protocol, group of attacks and defense, in percent: poison success, natural accuracy and success of the worst
class; (success, accuracy) where there is no worst class; of attacks on all that is learned the accuracy alone. Where
`SET_UPS` names no other source, they are of the PureGen paper (arXiv 2405.18627)."""

SET_UPS: Mapping[str, str] = {
    "availability": (
        "CIFAR-10 itself and not a JPEG copy, 50,000 images, ResNet-18, trained longer. Without defense, "
        "grayscale and UEraser-max: the leaderboard of APBench (Qin et al. 2024); JPEG 10: the authors of Image "
        "Shortcut Squeezing (Liu et al. 2023); ECLIPSE, with a generator trained on 2,000 images of CIFAR-10, and all "
        "of urp: Wang et al. 2024; PureGen: its paper. Undefended accuracies of these sources differ by up to 20 "
        "points. Ours of UEraser is another implementation, with other clouds."
    ),
}
"""How published figures came about, by protocol."""

PUREGEN = (
    "the published tables, of CIFAR-10 itself and not a JPEG copy, 50,000 images, ResNet-18 or HLB, 1 % of the rows "
    "poisoned, a larger generator; its JPEG and EPIC, of whichever quality and share, stand beside ours of 75 and 0.2."
)
"""The same of all other protocols."""

PUBLISHED_DETECTION: Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]] = {
    # arXiv 2411.19479, by the authors of FLARE: CIFAR-10, 50,000 images, ResNet-18.
    "FLARE's paper": {
        "no attack": {
            "activation_clustering": (0, 0.49),
            "confusion_training": (0, 18.65),
            "flare": (0, 2.89),
        },
        "badnets": {
            "activation_clustering": (0, 0.2),
            "confusion_training": (100, 0.7),
            "flare": (100, 0),
        },
        "blended": {
            "activation_clustering": (46.5, 0),
            "confusion_training": (94.1, 14),
            "flare": (100, 0),
        },
        "trojan": {
            "activation_clustering": (0, 0),
            "confusion_training": (100, 11.6),
            "flare": (100, 0),
        },
        "wanet": {
            "activation_clustering": (62.2, 0),
            "confusion_training": (79.4, 3.4),
            "flare": (93.7, 0),
        },
        "badnets, all-to-all": {
            "activation_clustering": (0, 0.5),
            "confusion_training": (0.7, 10.2),
            "flare": (100, 0),
        },
        "badnets, untargeted": {
            "activation_clustering": (0.5, 0.4),
            "confusion_training": (0.6, 27.5),
            "flare": (100, 0),
        },
    },
    # ICLR 2025, by the authors of AGPD: CIFAR-10, 10 % of 50,000 images, PreActResNet-18.
    "AGPD's paper": {
        "badnets": {"agpd": (90.1, 0.03)},
        "blended": {"agpd": (100, 0.02)},
        "sig": {"agpd": (100, 0.04)},
        "wanet": {"agpd": (97.8, 0.31)},
        "input_aware": {"agpd": (88.3, 1.13)},
        "tact": {"agpd": (100, 0.07)},
        "adaptive_blend": {"agpd": (89.3, 0.33)},
        "badnets, all-to-all": {"agpd": (97.3, 0.02)},
    },
}
"""Poisoned images that are found, and others that are flagged, in percent, by source, group of attacks and detector."""

PUBLISHED_MEANS: Mapping[str, tuple[float, float]] = {
    "scan": (72.8, 0.56),
    "strip": (51.2, 10.7),
    "spectral_signatures": (10.7, 2.6),
    "activation_clustering": (6.6, 1.9),
    "agpd": (96.66, 0.17),
}
"""The same over the twelve attacks of AGPD's table, by detector."""
