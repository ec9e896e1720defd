import inspect
import pkgutil
from dataclasses import fields
from importlib import import_module

import pytest

import puregen_transforms
from puregen_transforms._docs import argument_docs
from puregen_transforms.purifier.puregen_config import PureGenConfig

SUB_PACKAGES = {
    "functional": {
        "Energy",
        "KeyedNoise",
        "Noise",
        "NoisePredictor",
        "add_noise",
        "alpha_bars_of",
        "beta_schedule",
        "ddpm_step",
        "energy_and_gradient",
        "keyed_normal",
        "langevin_step",
        "normalize",
        "restore",
        "temperature_for",
        "to_pixels",
        "to_signed",
        "to_uint8",
    },
    "models": {
        "Denoiser",
        "DenoiserConfig",
        "EBM",
        "EBMConfig",
        "FrozenDenoiser",
        "FrozenEBM",
        "FrozenUNet",
        "InvariantDenoiser",
        "InvariantEBM",
        "InvariantUNet",
        "SavedClassifier",
        "UNetConfig",
        "build_classifier",
        "build_unet",
        "load_classifier",
        "save_classifier",
        "save_ddpm",
        "save_denoiser",
        "save_ebm",
    },
    "purifier": {
        "DenoiserStage",
        "DiffusionConfig",
        "DiffusionStage",
        "FilterStage",
        "JPEGStage",
        "LangevinConfig",
        "LangevinStage",
        "PureGenConfig",
        "Purifier",
        "Stage",
    },
    "hub": {
        "CATALOGUE",
        "CatalogueEntry",
        "DDPMCheckpoint",
        "DenoiserCheckpoint",
        "EBMCheckpoint",
        "alpha_bars",
        "fill_card",
        "load_denoiser",
        "load_ebm",
        "load_record",
        "load_unet",
        "pull_checkpoint",
        "push_checkpoint",
        "resolve_ddpm",
        "resolve_denoiser",
        "resolve_ebm",
        "write_card",
    },
    "transforms": {
        "AttentionMix",
        "FeatureAttention",
        "ImageCache",
        "PureGen",
        "PureGenTransform",
        "eclipse_compensation",
    },
    "data": {"Demo", "ImageSet", "iterate_images", "load_demo", "load_image_tensor", "open_source"},
    "train": {
        "DDPMTrainer",
        "DDPMTraining",
        "DDPM_PRESETS",
        "DENOISER_PRESETS",
        "DenoiserTrainer",
        "DenoiserTraining",
        "EBMTrainer",
        "EBMTraining",
        "EBM_PRESETS",
        "Trainer",
        "TrainingDivergedError",
        "read_log",
        "run_training",
    },
    "attacks": {"ATTACKS", "Attack", "Attacker", "Poison", "craft"},
    "detection": {
        "ClassSplit",
        "ConfusionTraining",
        "DETECTORS",
        "Decisions",
        "DetectionReport",
        "Detector",
        "EnergyOutliers",
        "UnusualEnergies",
        "LabelDisagreement",
        "LabelEvidence",
        "Mark",
        "MovedLabels",
        "Patches",
        "ResidualPatterns",
        "SharedPatterns",
        "Shortcuts",
        "Stamps",
        "Stripes",
        "SuspectSet",
        "Verdict",
        "WholeSearch",
        "detect",
        "find_outliers",
        "find_patterns",
        "register",
        "search_set",
    },
    "defenses": {
        "AntiBackdoorLearning",
        "BitDepthReduction",
        "CheckedCompensation",
        "CorruptionCompensation",
        "Epic",
        "Friends",
        "Look",
        "TRAINING_DEFENSES",
        "Trained",
        "TrainingDefense",
        "UEraser",
        "VictimBeneficiary",
        "build_training_defense",
    },
    "inspection": {"ImageScores", "Inspection", "add_to_datalab", "fiftyone_samples", "inspect_images"},
    "review": {"Suspect", "Suspects"},
    "evaluate": {
        "AttackSpec",
        "Bench",
        "Cell",
        "Component",
        "DefenseSpec",
        "PROTOCOLS",
        "SCALES",
        "Sets",
        "Store",
        "VictimSpec",
        "load_sets",
        "run_benchmark",
    },
    "cleaning": {"CleanedDataset", "CleaningReport", "Findings", "clean_dataset"},
    "whole_sets": {"PurifiedDataset", "changes_since", "problems_of", "purify_copy", "purify_with_ray"},
}


@pytest.mark.parametrize("name", SUB_PACKAGES)
def test_sub_packages_export_their_public_names(name):
    package = import_module(f"puregen_transforms.{name}")
    assert set(dir(package)) == set(package.__all__) == SUB_PACKAGES[name]
    for exported in package.__all__:
        assert getattr(package, exported) is not None
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert not modules & set(package.__all__), "a module of the same name would hide what is exported"
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        getattr(package, "nonsense")  # noqa: B009


def test_public_names():
    assert set(dir(puregen_transforms)) == {
        "CleanedDataset",
        "ImageCache",
        "PureGen",
        "PureGenTransform",
        "PurifiedDataset",
        "__version__",
        "clean_dataset",
        "purify_dataset",
    }
    assert all(hasattr(puregen_transforms, name) for name in puregen_transforms.__all__)


def test_puregen_takes_and_documents_the_options_of_its_config():
    parameters = inspect.signature(puregen_transforms.PureGen).parameters
    options = {field.name: field.default for field in fields(PureGenConfig)}
    assert {name: p.default for name, p in parameters.items() if name in options} == options
    assert set(parameters) - set(options) == {"device", "batch_size", "cache", "cache_dir"}
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for name, p in parameters.items() if name != "method")

    documented = argument_docs(puregen_transforms.PureGen)
    assert set(documented) == set(parameters)
    assert documented.items() >= argument_docs(PureGenConfig).items()
    assert all(len(line) <= 120 for line in puregen_transforms.PureGen.__doc__.splitlines())
