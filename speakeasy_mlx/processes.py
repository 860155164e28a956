"""Several processes of the MLX backend: mx.distributed, on the ring that ``mlx.launch`` lays."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from speakeasy.errors import BackendError, first_line
from speakeasy.training.group import connected

BUCKET = 1 << 26
"""Most numbers, or bytes, that are sent at once: a copy of so many is in memory for a moment."""


class MlxGroup:
    """See ``speakeasy.training.group.Group``."""

    def __init__(self) -> None:
        try:
            self._group = mx.distributed.init(strict=True)
        except (RuntimeError, ValueError) as error:
            raise BackendError(
                f"mx.distributed cannot connect the processes ({first_line(error)}); see that the "
                "machines of the host file reach each other"
            ) from error
        self.rank, self.size = self._group.rank(), self._group.size()

    def gather(self, payload: bytes) -> list[bytes]:
        """What every process gives, by rank; padded to the longest on the way."""
        lengths = self._all(np.array([len(payload)], dtype=np.int32))
        longest = int(lengths.max())
        if not longest:
            return [b""] * self.size
        padded = np.frombuffer(payload.ljust(longest, b"\0"), dtype=np.uint8)
        rows = self._all(padded).reshape(self.size, longest)
        return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]

    def broadcast(self, payload: bytes) -> bytes:
        """What process 0 gives: the sum of that and of zeros."""
        length = int(self.gather(str(len(payload)).encode())[0])
        received = bytearray()
        while len(received) < length:
            count = min(BUCKET, length - len(received))
            part = np.zeros(count, dtype=np.uint8)
            if not self.rank:
                part = np.frombuffer(payload, np.uint8, count, len(received))
            with connected():
                summed = mx.distributed.all_sum(mx.array(part), group=self._group)
                mx.eval(summed)
            received += np.array(summed).tobytes()
        return bytes(received)

    def sum_gradients(self, gradients: Any, like: Any) -> Any:
        """The sum of the gradients of all processes, a tree.

        Args:
            gradients: this process's; None if it had no row of the step, which counts as zero.
            like: a tree of the same shapes, for that case.
        """
        named = tree_flatten(like if gradients is None else gradients)
        if gradients is None:
            named = [(name, mx.zeros_like(value)) for name, value in named]
        named.sort(key=lambda entry: entry[0])  # the same order on every process
        summed: list[tuple[str, mx.array]] = []
        start = 0
        while start < len(named):
            stop, count = start, 0
            while stop < len(named) and (stop == start or count + named[stop][1].size <= BUCKET):
                count += named[stop][1].size
                stop += 1
            summed += self._summed(named[start:stop])
            start = stop
        return tree_unflatten(summed)

    def close(self) -> None:
        """Nothing: the connections end with the process."""

    def _summed(self, bucket: list[tuple[str, mx.array]]) -> list[tuple[str, mx.array]]:
        flat = mx.concatenate([value.astype(mx.float32).flatten() for _, value in bucket])
        with connected():
            flat = mx.distributed.all_sum(flat, group=self._group)
            mx.eval(flat)
        ends = np.cumsum([value.size for _, value in bucket])
        parts = mx.split(flat, ends[:-1].tolist())
        return [
            (name, part.reshape(value.shape).astype(value.dtype))
            for (name, value), part in zip(bucket, parts, strict=True)
        ]

    def _all(self, values: np.ndarray) -> np.ndarray:
        with connected():
            gathered = mx.distributed.all_gather(mx.array(values), group=self._group)
            mx.eval(gathered)
        return np.array(gathered)
