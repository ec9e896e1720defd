"""Write values of a sample that no column of a table holds as they are, and read them back the same.

Only data are written: numbers, texts, lists, tuples, dicts, tensors and arrays, with the metadata of tv_tensors.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

_TV_TENSORS = {
    kind.__name__: kind
    for kind in (getattr(tv_tensors, name, None) for name in ("Image", "Video", "Mask", "BoundingBoxes", "KeyPoints"))
    if kind is not None
}


def to_json(value: Any) -> str:
    """Encode a value.

    Raises:
        TypeError: something of another kind is in it; the message is its type's name.
    """
    return json.dumps(_encoded(value))


def from_json(text: str) -> Any:
    """Decode what `to_json` wrote.

    Raises:
        ValueError: it was changed since.
    """
    try:
        return _decoded(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, RecursionError) as error:
        raise ValueError(f"Expected a value as `purify_dataset` writes it, but got: {error}") from error


def _encoded(value: Any) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [_encoded(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_encoded(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_encoded(key), _encoded(item)] for key, item in value.items()]}
    if isinstance(value, Tensor):
        return _encoded_tensor(value)
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufcSU":
        kind = "array" if isinstance(value, np.ndarray) else "number"
        return {
            kind: value.dtype.str,
            "shape": list(value.shape),
            "bytes": _text(np.ascontiguousarray(value).tobytes()),
        }
    raise TypeError(type(value).__name__)


def _encoded_tensor(value: Tensor) -> dict[str, Any]:
    plain = value.detach().cpu().as_subclass(Tensor).contiguous()
    found: dict[str, Any] = {"tensor": str(plain.dtype).removeprefix("torch."), "shape": list(plain.shape)}
    found["bytes"] = _text(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    if isinstance(value, tv_tensors.TVTensor):
        metadata = {name: getattr(value, name) for name in ("format", "canvas_size") if hasattr(value, name)}
        if "format" in metadata:
            metadata["format"] = metadata["format"].value
        found["tv"], found["metadata"] = type(value).__name__, metadata
    return found


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_decoded(item) for item in value["tuple"])
    if "dict" in value:
        return {_decoded(key): _decoded(item) for key, item in value["dict"]}
    data = bytearray(base64.b64decode(value["bytes"]))
    if "tensor" in value:
        dtype = getattr(torch, value["tensor"])
        plain = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        plain = plain.reshape(value["shape"])
        if "tv" not in value:
            return plain
        metadata = {**value["metadata"]}
        if "canvas_size" in metadata:
            metadata["canvas_size"] = tuple(metadata["canvas_size"])
        return _TV_TENSORS[value["tv"]](plain, **metadata)
    array = np.frombuffer(data, dtype=value.get("array") or value["number"]).reshape(value["shape"])
    return array if "array" in value else array[()]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
