"""What both adapter formats share: the tensors' file, and a file of our own beside it.

Neither library's config has a place for the base's fingerprint, and PEFT warns of keys that it
does not know, so what they cannot hold goes to ``speakeasy.json``, which both leave alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy.errors import AdapterError
from speakeasy.files import write_json
from speakeasy.weights.directory import read_json_object
from speakeasy.weights.lora import Adapter
from speakeasy.weights.safetensors_io import read_header, read_tensor, write_tensors

CONFIG = "adapter_config.json"
_PROVENANCE = "speakeasy.json"
_FLOATS = ("F32", "F16", "BF16", "F64")


def read_config(directory: Path) -> dict[str, Any]:
    """The library's own config.

    Raises:
        AdapterError: there is none.
        ModelError: it is not a JSON object.
    """
    if not (directory / CONFIG).is_file():
        raise AdapterError(f"{directory}: no {CONFIG} beside the adapter's weights")
    return read_json_object(directory / CONFIG)


def read_float32(file: Path) -> dict[str, np.ndarray]:
    """All tensors of an adapter as float32.

    Raises:
        AdapterError: a tensor is not of a floating type, or holds NaN or infinity.
        ModelError: the file is not sound safetensors.
    """
    tensors = {}
    for name, info in read_header(file)[0].items():
        if info.dtype not in _FLOATS:
            raise AdapterError(f"{file}: {name} has type {info.dtype}; expected a floating type")
        tensor = read_tensor(info).astype(np.float32, copy=False)
        if not np.isfinite(tensor).all():
            raise AdapterError(f"{file}: {name} holds NaN or infinity; take an earlier checkpoint")
        tensors[name] = tensor
    return tensors


def write_float32(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors sorted by name."""
    names = sorted(tensors)
    write_tensors(
        file,
        {name: (tensors[name].dtype, tensors[name].shape) for name in names},
        ((name, tensors[name]) for name in names),
    )


def number(config: Mapping[str, Any], key: str, where: Path, default: float | None = None) -> float:
    """A number of a config.

    Raises:
        AdapterError: it is no number, or missing without a default.
    """
    value = config.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise AdapterError(f"{where / CONFIG}: {key} is {value!r}; expected a number")
    return value


def plain(value: float) -> int | float:
    """A whole number as int, as the libraries write it."""
    return int(value) if float(value).is_integer() else value


def write_provenance(adapter: Adapter, directory: Path, **more: object) -> None:
    """Write ``speakeasy.json``: the base, and what ``more`` the library's config cannot hold."""
    write_json(
        directory / _PROVENANCE,
        {
            "base": adapter.base,
            "base_fingerprint": adapter.base_fingerprint,
            "base_quantization": adapter.base_quantization,
            **more,
        },
    )


def read_provenance(directory: Path) -> dict[str, Any]:
    """``speakeasy.json``; empty for an adapter that speakeasy did not write.

    Raises:
        AdapterError: a field has the wrong type.
        ModelError: it is not a JSON object.
    """
    file = directory / _PROVENANCE
    if not file.is_file():
        return {}
    found = read_json_object(file)
    for key in ("base", "base_fingerprint", "base_quantization"):
        if not isinstance(found.get(key), str | None):
            raise AdapterError(f"{file}: {key} is {found[key]!r}; expected text or null")
    return found
