import inspect

import puregen_transforms


def test_public_names():
    assert set(dir(puregen_transforms)) == {
        "ImageCache",
        "PureGen",
        "PureGenTransform",
        "PurifiedDataset",
        "__version__",
        "purify_dataset",
    }
    assert all(hasattr(puregen_transforms, name) for name in puregen_transforms.__all__)


def test_signature_of_puregen():
    parameters = inspect.signature(puregen_transforms.PureGen).parameters
    assert list(parameters) == [
        "method", "checkpoint", "ddpm_checkpoint", "ebm_steps", "ddpm_steps", "ddpm_solver", "ddpm_inference_steps",
        "reps", "filter_fraction", "energy_threshold", "jpeg_quality", "dynamics", "temperature", "seed", "columns",
        "device", "dtype", "batch_size", "cache", "cache_dir",
    ]  # fmt: skip
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for name, p in parameters.items() if name != "method")
