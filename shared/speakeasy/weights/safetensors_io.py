"""safetensors files, one tensor or one block of rows in memory at a time.

The door to the format: headers (``safetensors_header``) can be imported from here, too.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy.errors import ModelError
from speakeasy.weights.safetensors_header import DTYPES, FLOATS, TensorInfo, broken, read_header

__all__ = [
    "BLOCK_BYTES",
    "DTYPES",
    "FLOATS",
    "Block",
    "TensorInfo",
    "read_header",
    "read_rows",
    "read_tensor",
    "row_blocks",
    "write_blocks",
    "write_tensors",
]

BLOCK_BYTES = 2**20
"""What a streaming pass reads at once: large enough for the disk, and small enough that the memory
of one block serves the next (measured: larger ones are mapped anew each time)."""

_NOT_IN_KERNEL = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

Block = np.ndarray | TensorInfo
"""A piece of a tensor to be written: its values, or where they lie, to be copied bit for bit."""


def read_tensor(info: TensorInfo) -> np.ndarray:
    """The tensor as a contiguous array of its own type (bfloat16 and float8 through ml_dtypes)."""
    array = np.empty(info.shape, dtype=DTYPES[info.dtype])
    with info.file.open("rb") as handle:
        handle.seek(info.start)
        _read_into(array, handle, info)
    return array


def row_blocks(info: TensorInfo) -> Iterator[tuple[int, np.ndarray]]:
    """A tensor in blocks of whole rows (entries of its first dimension), in order.

    Yields:
        The number of the block's first row, and the block, of at most ``BLOCK_BYTES`` unless a
        single row is larger. All blocks share one buffer: each is gone when the next is asked
        for. A scalar is one block of one row, a tensor without elements none.
    """
    if not info.nbytes:
        return
    rows, *inner = info.shape or (1,)
    step = min(rows, max(1, BLOCK_BYTES * rows // info.nbytes))
    buffer = np.empty((step, *inner), dtype=DTYPES[info.dtype])
    with info.file.open("rb", buffering=0) as handle:
        handle.seek(info.start)
        for start in range(0, rows, step):
            block = buffer[: rows - start]
            _read_into(block, handle, info)
            yield start, block


def read_rows(info: TensorInfo, ids: Sequence[int]) -> np.ndarray:
    """Some rows of a tensor of at least one dimension, in the order of ``ids``; nothing else is
    read.

    Raises:
        IndexError: an id is outside the tensor.
    """
    rows, *inner = info.shape
    found = np.empty((len(ids), *inner), dtype=DTYPES[info.dtype])
    with info.file.open("rb") as handle:
        for place, row in enumerate(ids):
            if not 0 <= row < rows:
                raise IndexError(f"row {row} of {rows}")
            handle.seek(info.start + row * (info.nbytes // rows))
            _read_into(found[place : place + 1], handle, info)
    return found


def _read_into(array: np.ndarray, handle: FileIO | BufferedReader, info: TensorInfo) -> None:
    # A view as bytes, since numpy offers no buffer of ml_dtypes' types.
    view = array.reshape(-1).view(np.uint8).data
    while view:
        count = handle.readinto(view)
        if not count:
            raise _shorter(info)
        view = view[count:]


def _shorter(info: TensorInfo) -> ModelError:
    return broken(info.file, "became shorter while it was read")


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

    def whole() -> Iterator[tuple[str, Iterable[np.ndarray]]]:
        for name, array in tensors:
            if layout.get(name) != (array.dtype, array.shape):
                raise ValueError(f"{name}: {array.dtype} {array.shape} is not in the layout")
            yield name, [array]

    write_blocks(file, layout, whole())


def write_blocks(
    file: Path,
    layout: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    tensors: Iterable[tuple[str, Iterable[Block]]],
    advance: Callable[[int], None] | None = None,
) -> None:
    """``write_tensors`` for tensors that come in blocks; no more than two blocks are held.

    A block is written while the next one is made, so an array must not change once it is yielded.

    Args:
        file: where to; what stood there is replaced.
        layout: type and shape of every tensor, in the order in which ``tensors`` yields them.
        tensors: names, and the blocks that make up the tensor when laid one behind the other.
        advance: called with the number of bytes after each block.

    Raises:
        ValueError: ``tensors`` does not follow ``layout``.
        ModelError: a file that blocks lie in is shorter than they say.
    """
    text = _header(layout)
    with file.open("wb", buffering=0) as handle, ThreadPoolExecutor(1) as writer:
        pending = writer.submit(_write, handle, len(text).to_bytes(8, "little") + text)
        for block in _in_layout(layout, tensors):
            pending.result()
            pending = writer.submit(_write, handle, block)
            if advance:
                advance(block.nbytes)
        pending.result()
        os.fsync(handle.fileno())


def _in_layout(
    layout: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    tensors: Iterable[tuple[str, Iterable[Block]]],
) -> Iterator[Block]:
    """All blocks in turn, each found to fit."""
    expected = iter(layout.items())
    for name, blocks in tensors:
        found, (dtype, shape) = next(expected, ("", (np.dtype("?"), ())))
        if found != name:
            raise ValueError(f"{name}: is not next in the layout")
        left = math.prod(shape)
        for block in blocks:
            left -= block.size
            stored = DTYPES[block.dtype] if isinstance(block, TensorInfo) else block.dtype
            if stored != dtype or left < 0:
                raise ValueError(
                    f"{name}: a block of {stored} {block.shape} does not fit into the layout's "
                    f"{dtype} {shape}"
                )
            yield block
        if left:
            raise ValueError(f"{name}: {left} elements short of the layout's {shape}")
    missing = next(expected, None)
    if missing is not None:
        raise ValueError(f"{missing[0]}: in the layout, but never written")


def _write(handle: FileIO, block: Block | bytes) -> None:
    if isinstance(block, TensorInfo):
        _copy(handle, block)
        return
    if isinstance(block, bytes):
        view = memoryview(block)
    else:
        view = np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
    while view:
        view = view[handle.write(view) :]


def _copy(handle: FileIO, info: TensorInfo) -> None:
    """Within the kernel where it can (Linux, one file system), as ``cp`` does."""
    position = info.start
    in_kernel = hasattr(os, "copy_file_range")
    with info.file.open("rb", buffering=0) as source:
        while position < info.stop:
            count = min(BLOCK_BYTES, info.stop - position)
            try:
                if not in_kernel:
                    data = os.pread(source.fileno(), count, position)
                    _write(handle, data)
                    done = len(data)
                else:
                    done = os.copy_file_range(
                        source.fileno(), handle.fileno(), count, offset_src=position
                    )
            except OSError as error:
                if not in_kernel or error.errno not in _NOT_IN_KERNEL:
                    raise
                in_kernel = False
                continue
            if not done:
                raise _shorter(info)
            position += done


def _header(layout: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> bytes:
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
    return text + b" " * (-len(text) % 8)  # data begin on a multiple of 8, as the reference has it
