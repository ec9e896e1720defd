import inspect
from dataclasses import fields

import puregen_transforms
from puregen_transforms._docs import argument_docs
from puregen_transforms.purifier.puregen_config import PureGenConfig


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
