"""The rows of tables: defenses at the settings of a preset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from puregen_transforms.defenses.abl import AntiBackdoorLearning
from puregen_transforms.defenses.ueraser import UEraser
from puregen_transforms.defenses.victim_beneficiary import VictimBeneficiary
from puregen_transforms.detection.detector import Detector
from puregen_transforms.detection.registry import DETECTORS
from puregen_transforms.evaluate.cells import Component, DefenseSpec
from puregen_transforms.evaluate.presets import Scale
from puregen_transforms.evaluate.summaries import LEFT_OUT

NO_DEFENSE = DefenseSpec()
PATTERNS, OUTLIERS = Component(name="shared_patterns"), Component(name="energy_outliers")
COMPENSATION = Component(name="corruption_compensation")
CHECKED_COMPENSATION = Component(name="checked_compensation")

EXTRAS = ("JPEG 50", "JPEG 85", "EPIC 0.2", "PureGen-adaptive")
"""Rows for which 2 cores have no time unless they are asked for."""


def purify(name: str, scale: Scale, **options: Any) -> DefenseSpec:
    """Purify all images by a method of `PureGen`, with the calls of the diffusion network that the preset has."""
    return DefenseSpec(name=name, purify_others={**scale.purify.get(options.get("method", "ebm"), {}), **options})


def onestep(scale: Scale, strength: str) -> DefenseSpec:
    """Purify by one call of the denoiser for each sign of the noise."""
    return purify(f"PureGen-onestep, {strength}", scale, method="onestep", strength=strength)


def jpeg(quality: int) -> DefenseSpec:
    """Compress all images: the baseline, and a trap where they were stored at that quality to begin with."""
    return DefenseSpec(name=f"JPEG {quality}", purify_others={"method": "jpeg", "jpeg_quality": quality})


def grayscale() -> DefenseSpec:
    """Train on gray images (Liu et al. 2023); those of the test keep their color."""
    settings = {"grayscale": 1.0, "noise": 0.0}
    return DefenseSpec(name="grayscale", train=Component(name="corruption_compensation", settings=settings))


def bit_depth(bits: int) -> DefenseSpec:
    """Train on images of few levels (Liu et al. 2023); those of the test keep all."""
    return DefenseSpec(name=f"{bits} bits", train=Component(name="bit_depth_reduction", settings={"bits": bits}))


def ueraser(name: str, scale: Scale, **settings: Any) -> DefenseSpec:
    """Train on the worst of several augmented versions of each image (Qin et al. 2023)."""
    settings = {**UEraser.presets[scale.name], **settings}
    return DefenseSpec(name=name, train=Component(name="ueraser", settings=settings))


PUBLISHED_ECLIPSE = {"ddpm_solver": "ddpm", "ddpm_inference_steps": 12, "despeckle_threshold": 255}
"""Options of "eclipse" as published; its defaults are others."""


def eclipse(name: str, scale: Scale, **options: Any) -> DefenseSpec:
    """Purify all images a little, and cover up what is left in training (Wang et al. 2024)."""
    return replace(purify(name, scale, method="eclipse", **options), train=COMPENSATION)


def friends(scale: Scale, noise: str = "bernoulli") -> DefenseSpec:
    """Train with FrieNDs; its friendly noise is made after 5 epochs."""
    settings = {"noise": noise, **scale.friends}
    return DefenseSpec(name=f"FrieNDs, {noise}", train=Component(name="friends", settings=settings))


def epic(scale: Scale, share: float = 0.2) -> DefenseSpec:
    """Train with EPIC; it looks every 10 epochs, of short trainings every third."""
    settings = {"share": share, **scale.epic}
    return DefenseSpec(name=f"EPIC {share:g}", train=Component(name="epic", settings=settings))


def vab(
    scale: Scale,
    detector: Component | None = None,
    *,
    purified: bool = False,
    as_published: bool = False,
    name: str | None = None,
    **settings: Any,
) -> DefenseSpec:
    """Train The Victim and The Beneficiary.

    Args:
        scale: the preset.
        detector: splits the set, as it came, in place of the Victim; its split stays.
        purified: whether both networks learn images that the energy network has purified, suspicious ones, too.
        as_published: whether a set that a detector has split is learned as published, too, and not by the preset
            "flagged" for such sets.
        name: of the row; None names the parts.
        settings: of the defense, beside those of its preset.
    """
    parts = "V&B" if detector is None else f"V&B, split by {detector.name}"
    chosen = VictimBeneficiary.presets[scale.name] if detector is None or as_published else _flagged(scale)
    return DefenseSpec(
        name=name or parts + " + PureGen" * purified,
        detect=() if detector is None else [detector],
        keep_flagged=detector is not None,
        purify_others=scale.purify.get("ebm", {}) if purified else None,
        train=Component(name="victim_beneficiary", settings={**chosen, **settings}),
    )


_EPOCHS_WITH_FLAGS = {"smoke": 40, "paper": 80}
"""As many as plain trainings of these presets have; at "cpu" those of the preset "flagged"."""


def _flagged(scale: Scale) -> dict[str, Any]:
    """List the settings for a set that a detector has split."""
    settings = dict(VictimBeneficiary.presets["flagged"])
    if epochs := _EPOCHS_WITH_FLAGS.get(scale.name):
        settings |= {"epochs": epochs, "clean_epochs": epochs // 2, "weight_rise": epochs * 3 // 4}
    return settings | ({"batch": 16} if scale.name == "smoke" else {})


def abl(scale: Scale) -> DefenseSpec:
    """Train with Anti-Backdoor Learning."""
    return DefenseSpec(name="ABL", train=Component(name="abl", settings=AntiBackdoorLearning.presets[scale.name]))


def patterns_left_out() -> DefenseSpec:
    """Leave out the images in which `puregen inspect` finds a shared pattern."""
    return DefenseSpec(name="PureGen-inspect, found images left out", detect=[PATTERNS])


def patterns_and_outliers_left_out() -> DefenseSpec:
    """Leave out these, and images whose energy lies beyond that of nearly all others."""
    return DefenseSpec(name="PureGen-inspect, and high energies left out", detect=[PATTERNS, OUTLIERS])


def patterns_purified() -> DefenseSpec:
    """Purify the images in which a shared pattern is found, twice as far as usual and by both networks."""
    options = {"method": "naive", "dynamics": "cooled", "ebm_steps": 300, "ddpm_steps": 150, "ddpm_inference_steps": 15}
    return DefenseSpec(name="PureGen-inspect, found images purified", detect=[PATTERNS], purify_flagged=options)


def only_detect(name: str, detectors: Sequence[Component]) -> DefenseSpec:
    """Run detectors, and train on all images."""
    return DefenseSpec(name=name, detect=detectors, keep_flagged=True)


def leave_out(name: str, detectors: Sequence[Component]) -> DefenseSpec:
    """Leave out the images that any of the detectors flags."""
    return DefenseSpec(name=f"{name}{LEFT_OUT}", detect=detectors)


def every_detector(scale: Scale) -> dict[str, list[Component]]:
    """List the registered detectors by name, with the settings that they have for the preset."""
    return {name: [Component(name=name, settings=_settings(made, scale))] for name, made in DETECTORS.items()}


def _settings(made: Callable[..., Detector], scale: Scale) -> dict[str, Any]:
    return dict(getattr(made, "presets", {}).get(scale.name, {}))


def every_defense(scale: Scale) -> list[DefenseSpec]:
    """List the defenses of victims from scratch."""
    if scale.name == "smoke":
        rows = [NO_DEFENSE, jpeg(25), friends(scale), epic(scale), purify("PureGen-EBM", scale), patterns_left_out()]
        return rows
    defenses = [
        NO_DEFENSE,
        *map(jpeg, (25, 50, 75, 85)),
        friends(scale),
        epic(scale),
        purify("PureGen-EBM", scale),
        purify("PureGen-DDPM", scale, method="ddpm"),
        purify("PureGen-adaptive", scale, method="adaptive"),
        patterns_purified(),
        patterns_left_out(),
    ]
    if scale.name == "paper":
        defenses += [
            friends(scale, "gaussian"),
            *(epic(scale, share) for share in (0.1, 0.3)),
            purify("PureGen-EBM, published chain", scale, dynamics="paper"),
            *(purify(f"PureGen-{name.upper()}", scale, method=name) for name in ("naive", "reps", "filt")),
        ]
    return defenses


def main_defenses(scale: Scale) -> list[DefenseSpec]:
    """List the same, without those that say least where there is no time for all."""
    left_out = (*EXTRAS, patterns_purified().name) if scale.name == "cpu" else ()
    return [defense for defense in every_defense(scale) if defense.name not in left_out]


def availability_defenses(scale: Scale) -> list[DefenseSpec]:
    """List defenses of whole sets that were made unlearnable."""
    main = [
        NO_DEFENSE,
        jpeg(10),
        ueraser("UEraser", scale),
        purify("PureGen-DDPM", scale, method="ddpm"),
        eclipse("PureGen-eclipse", scale),
    ]
    if scale.name == "smoke":
        return main
    return [
        *main,
        grayscale(),
        bit_depth(2),
        ueraser("UEraser-max", scale, share=1.0),
        purify("PureGen-EBM", scale),
        eclipse("ECLIPSE", scale, **PUBLISHED_ECLIPSE),
        eclipse("ECLIPSE, one call", scale, despeckle_threshold=255),
        replace(eclipse("PureGen-eclipse, checked", scale), train=CHECKED_COMPENSATION),
        purify("ECLIPSE, purification alone", scale, method="eclipse", **PUBLISHED_ECLIPSE),
        DefenseSpec(name="ECLIPSE, compensation alone", train=COMPENSATION),
    ]


def photograph_defenses(scale: Scale) -> list[DefenseSpec]:
    """List defenses that photographs have time for: one call of a network each, and the search that trains none."""
    return [
        NO_DEFENSE,
        purify("PureGen-onestep", scale, method="onestep"),
        jpeg(50),
        leave_out("PureGen-detect", [Component(name="whole_search", settings={"budget": "2m"})]),
    ]


def transfer_defenses(scale: Scale, langevin_steps: int) -> list[DefenseSpec]:
    """List defenses of the images alone, with the paper's steps for transfer (Table 10)."""
    qualities = (25,) if scale.name == "smoke" else (25, 50, 75, 85)
    return [
        NO_DEFENSE,
        *map(jpeg, qualities),
        purify("PureGen-EBM", scale, ebm_steps=langevin_steps),
        purify("PureGen-DDPM", scale, method="ddpm", ddpm_steps=125),
        patterns_left_out(),
    ]
