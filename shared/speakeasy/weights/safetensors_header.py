"""Headers of safetensors files, checked before anything is allocated.

Format: 8 bytes little-endian length of the header, the header (a JSON object from tensor name to
dtype, shape and byte range, with string pairs under ``__metadata__``), then the data without gaps
(https://github.com/huggingface/safetensors, "Format"). A truncated or hostile file costs one clear
line.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import ml_dtypes
import numpy as np

from speakeasy.errors import ModelError

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
"""safetensors' names of the types that numpy (with ml_dtypes) can hold."""

FLOATS = ("F64", "F32", "F16", "BF16")
"""Those of weights that are not quantised."""

_LARGEST_HEADER = 25_000_000
"""Of some 200,000 tensors. The reference takes 100 MB, but what is parsed from a hostile header can
be twenty times its size."""

_MOST_DIMENSIONS = 64  # numpy's own limit
_LARGEST_SIZE = 2**63 - 1  # of numpy's arrays, also of those that lack elements


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies and what it is.

    Attributes:
        file: the safetensors file.
        dtype: safetensors' name of the type, a key of ``DTYPES``.
        shape: dimensions, outermost first.
        start: first byte of the data, counted from the beginning of the file.
        stop: the byte after the last.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.stop - self.start

    def rows(self, first: int, last: int) -> TensorInfo:
        """The part that holds the rows from ``first`` up to ``last``, which is not among them."""
        width = self.nbytes // self.shape[0]
        return TensorInfo(
            self.file,
            self.dtype,
            (last - first, *self.shape[1:]),
            self.start + first * width,
            self.start + last * width,
        )


def read_header(file: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """All tensors of one file, in the order of their data, and the file's metadata.

    Raises:
        ModelError: the file is missing, truncated or not safetensors; a shape does not fit its
            bytes; data overlap or leave a gap.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if size < 8 or length > size - 8:
                raise broken(file, f"{size} bytes do not hold the header; copy it again")
            if length > _LARGEST_HEADER:
                raise broken(file, f"a header of {length} bytes; expected at most 25 MB")
            text = handle.read(length).decode("utf-8")
        header = json.loads(text, object_pairs_hook=_each_key_once)
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}") from error
    except _DuplicateKeyError as error:
        raise broken(file, f"its header names {error.args[0]!r} twice") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or absurdly nested
        raise broken(file, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise broken(file, "its header is not a JSON object")
    metadata = header.pop("__metadata__", None) or {}  # MLX writes null
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise broken(file, "its metadata are not pairs of texts")
    tensors = [
        (name, _tensor(file, name, entry, 8 + length, size)) for name, entry in header.items()
    ]
    tensors.sort(key=lambda item: (item[1].start, item[1].stop))
    position = 8 + length
    for name, info in tensors:
        if info.start != position:
            raise broken(file, f"data of tensor {name!r} overlap others or leave a gap")
        position = info.stop
    if position != size:
        raise broken(file, f"holds {size} bytes where its header describes {position}")
    return dict(tensors), metadata


class _DuplicateKeyError(ValueError):
    """A JSON object has a key twice; readers would differ in which of them they take."""


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _DuplicateKeyError(
            next(key for key, n in Counter(k for k, _ in pairs).items() if n > 1)
        )
    return found


def _tensor(file: Path, name: str, entry: Any, data: int, size: int) -> TensorInfo:
    dtype, shape, offsets = (
        entry.get(key) if isinstance(entry, dict) else None
        for key in ("dtype", "shape", "data_offsets")
    )
    if not (
        isinstance(dtype, str)
        and _are_counts(shape)
        and len(shape) <= _MOST_DIMENSIONS
        and _are_counts(offsets)
        and len(offsets) == 2
        and offsets[0] <= offsets[1]
    ):
        raise broken(file, f"tensor {name!r} has no sound dtype, shape and data_offsets")
    start, stop = offsets
    if dtype not in DTYPES:
        known = ", ".join(DTYPES)
        raise ModelError(f"{file}: tensor {name!r} has type {dtype!r}; expected one of {known}")
    if data + stop > size:
        raise broken(
            file,
            f"is truncated: tensor {name!r} ends at byte {data + stop} of {size}; copy it again",
        )
    # Python's integers do not overflow, so an absurd shape is caught here and never allocated.
    width = DTYPES[dtype].itemsize
    if math.prod(shape) * width != stop - start:
        raise broken(file, f"tensor {name!r}: shape {shape} of {dtype} is not {stop - start} bytes")
    if math.prod(n for n in shape if n) * width > _LARGEST_SIZE:
        raise broken(file, f"tensor {name!r}: shape {shape} is larger than any array can be")
    return TensorInfo(file, dtype, tuple(shape), data + start, data + stop)


def _are_counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        type(n) is int and 0 <= n <= _LARGEST_SIZE for n in value
    )


def broken(file: Path, problem: str) -> ModelError:
    """The error that says what is wrong with a file."""
    return ModelError(f"{file}: not a sound safetensors file: {problem}")
