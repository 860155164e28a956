"""safetensors files, one tensor in memory at a time.

Format: 8 bytes little-endian length of the header, the header (a JSON object from tensor name to
dtype, shape and byte range, with string pairs under ``__metadata__``), then the data without gaps
(https://github.com/huggingface/safetensors, "Format"). Headers are checked before anything is
allocated, so a truncated or hostile file costs one clear line.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LARGEST_HEADER = 100_000_000  # the reference implementation's own limit


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
            if size < 8 or length > min(size - 8, _LARGEST_HEADER):
                raise _broken(file, f"{size} bytes do not hold the header; copy it again")
            header = json.loads(handle.read(length))
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or absurdly nested
        raise _broken(file, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _broken(file, "its header is not a JSON object")
    metadata = header.pop("__metadata__", None) or {}
    tensors = [
        (name, _tensor(file, name, entry, 8 + length, size)) for name, entry in header.items()
    ]
    tensors.sort(key=lambda item: (item[1].start, item[1].stop))
    position = 8 + length
    for name, info in tensors:
        if info.start != position:
            raise _broken(file, f"data of tensor {name!r} overlap others or leave a gap")
        position = info.stop
    if position != size:
        raise _broken(file, f"holds {size} bytes where its header describes {position}")
    return dict(tensors), metadata


def _tensor(file: Path, name: str, entry: Any, data: int, size: int) -> TensorInfo:
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        start, stop = entry["data_offsets"]
        numbers = (*shape, start, stop)
        sound = all(type(n) is int and n >= 0 for n in numbers) and start <= stop
    except (TypeError, KeyError, ValueError):
        sound = False
    if not sound:
        raise _broken(file, f"tensor {name!r} has no sound dtype, shape and data_offsets")
    if dtype not in DTYPES:
        known = ", ".join(DTYPES)
        raise ModelError(f"{file}: tensor {name!r} has type {dtype!r}; expected one of {known}")
    if data + stop > size:
        raise _broken(
            file,
            f"is truncated: tensor {name!r} ends at byte {data + stop} of {size}; copy it again",
        )
    # Python's integers do not overflow, so an absurd shape is caught here and never allocated.
    if math.prod(shape) * DTYPES[dtype].itemsize != stop - start:
        raise _broken(
            file, f"tensor {name!r}: shape {shape} of {dtype} is not {stop - start} bytes"
        )
    return TensorInfo(file, dtype, shape, data + start, data + stop)


def _broken(file: Path, problem: str) -> ModelError:
    return ModelError(f"{file}: not a sound safetensors file: {problem}")


def read_tensor(info: TensorInfo) -> np.ndarray:
    """The tensor as a contiguous array of its own type (bfloat16 and float8 through ml_dtypes)."""
    array = np.empty(info.shape, dtype=DTYPES[info.dtype])
    with info.file.open("rb") as handle:
        handle.seek(info.start)
        # A view as bytes, since numpy offers no buffer of ml_dtypes' types.
        if handle.readinto(array.reshape(-1).view(np.uint8).data) != info.nbytes:
            raise _broken(info.file, "became shorter while it was read")
    return array


def write_tensors(
    file: Path,
    layout: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    tensors: Iterable[tuple[str, np.ndarray]],
) -> None:
    """Write a safetensors file from a stream; no more than one tensor is held in memory.

    The bytes depend on nothing but the arguments. The file is on the disk on return. Write into
    a directory of ``files.new_directory``: a file that was left half-way is not removed here.

    Args:
        file: where to; what stood there is replaced.
        layout: type and shape of every tensor, in the order in which ``tensors`` yields them.
        tensors: names and arrays; strided views are made contiguous.

    Raises:
        ValueError: ``tensors`` does not follow ``layout``.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape) in layout.items():
        stop = offset + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, stop],
        }
        offset = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data begin on a multiple of 8, as the reference has it
    with file.open("wb") as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        expected = iter(layout.items())
        for name, array in tensors:
            if next(expected, None) != (name, (array.dtype, array.shape)):
                raise ValueError(f"{name}: {array.dtype} {array.shape} is not next in the layout")
            handle.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        missing = next(expected, None)
        if missing is not None:
            raise ValueError(f"{missing[0]}: in the layout, but never written")
        handle.flush()
        os.fsync(handle.fileno())
