"""What both adapter formats share: the tensors' file, and a file of our own beside it.

Neither library's config has a place for the base's fingerprint, and PEFT warns of keys that it
does not know, so what they cannot hold goes to ``speakeasy.json``, which both leave alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from speakeasy.errors import AdapterError
from speakeasy.files import write_json
from speakeasy.weights.directory import read_json_object
from speakeasy.weights.lora import Adapter
from speakeasy.weights.safetensors_io import FLOATS, read_header, read_tensor, write_tensors

CONFIG = "adapter_config.json"
PROVENANCE = "speakeasy.json"


def read_config(directory: Path) -> dict[str, Any]:
    """The library's own config.

    Raises:
        AdapterError: there is none.
        ModelError: it is not a JSON object.
    """
    if not (directory / CONFIG).is_file():
        raise AdapterError(f"{directory}: no {CONFIG} beside the adapter's weights")
    return read_json_object(directory / CONFIG)


def read_float32(file: Path, skip: Collection[str] = ()) -> dict[str, np.ndarray]:
    """The tensors of an adapter as float32, but for those of the names in ``skip``.

    Raises:
        AdapterError: a tensor is not of a floating type, or holds NaN or infinity.
        ModelError: the file is not sound safetensors.
    """
    tensors = {}
    for name, info in read_header(file)[0].items():
        if name in skip:
            continue
        if info.dtype not in FLOATS:
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


def _is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a number that float32 holds."""
    return type(value) in (int, float) and abs(value) < 1e30


def flag(config: Mapping[str, Any], key: str, file: Path) -> bool:
    """Yes or no; no where it is missing.

    Raises:
        AdapterError: it is something else.
    """
    value = config.get(key)
    if not isinstance(value, bool | None):
        raise AdapterError(f"{file}: {key} is {value!r}; expected true or false")
    return bool(value)


def number(config: Mapping[str, Any], key: str, where: Path, default: float | None = None) -> float:
    """A number of a config.

    Raises:
        AdapterError: it is no number, or missing without a default.
    """
    value = config.get(key)
    value = default if value is None else value
    if not _is_number(value):
        raise AdapterError(f"{where / CONFIG}: {key} is {value!r}; expected a number")
    return value


def count(config: Mapping[str, Any], key: str, where: Path) -> int:
    """A whole number of a config.

    Raises:
        AdapterError: it is none.
    """
    value = number(config, key, where)
    if value != int(value):
        raise AdapterError(f"{where / CONFIG}: {key} is {value!r}; expected a whole number")
    return int(value)


def text(config: Mapping[str, Any], key: str, where: Path) -> str:
    """A text of a config; empty where it is missing.

    Raises:
        AdapterError: it is something else.
    """
    value = config.get(key)
    if not isinstance(value, str | None):
        raise AdapterError(f"{where / CONFIG}: {key} is {value!r}; expected text")
    return value or ""


def numbers(config: Mapping[str, Any], key: str, where: Path) -> dict[str, float]:
    """A mapping from names to numbers in ``speakeasy.json``.

    Raises:
        AdapterError: it is something else.
    """
    found = config.get(key)
    if not isinstance(found, dict) or not all(_is_number(value) for value in found.values()):
        raise AdapterError(f"{where / PROVENANCE}: {key} is {found!r}; expected numbers by module")
    return found


def names(config: Mapping[str, Any], key: str, where: Path) -> tuple[str, ...]:
    """A list of names in ``speakeasy.json``; empty where it is missing.

    Raises:
        AdapterError: it is something else.
    """
    found = config.get(key) or []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise AdapterError(f"{where / PROVENANCE}: {key} is {found!r}; expected a list of names")
    return tuple(found)


def plain(value: float) -> int | float:
    """A whole number as int, as the libraries write it."""
    return int(value) if float(value).is_integer() else value


def write_provenance(adapter: Adapter, directory: Path, **more: object) -> None:
    """Write ``speakeasy.json``: the base, and what ``more`` the library's config cannot hold."""
    write_json(
        directory / PROVENANCE,
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
    file = directory / PROVENANCE
    if not file.is_file():
        return {}
    found = read_json_object(file)
    for key in ("base", "base_fingerprint", "base_quantization"):
        if not isinstance(found.get(key), str | None):
            raise AdapterError(f"{file}: {key} is {found[key]!r}; expected text or null")
    return found
