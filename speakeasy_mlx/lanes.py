"""Threads that take conversations side by side on MLX's CPU build, each with a core.

How a batch is divided: ``batches.lanes``. The build runs everything but products on one thread, so
that with one conversation at a time the other cores wait for half of a step. Streams belong to
threads, and what a thread evaluates must be of its own streams: so each makes its own graphs. Only
one may at a time, because for the duration the model holds placeholders.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import mlx.core as mx

from speakeasy.batches.lanes import Part
from speakeasy.training.backend import EngineOptions
from speakeasy.training.glibc import share_one_heap
from speakeasy.training.group import ALONE
from speakeasy_mlx import OPENBLAS, openblas_loaded

T = TypeVar("T")
MOST = 4
"""Cores up to which each has a lane. Of more, a product for all makes better use."""


def lane_count(options: EngineOptions) -> int:
    """How many lanes an engine has; one where lanes would disturb each other.

    They would draw dropout in turns, and a model that is trained whole would have as many copies of
    its gradient; a recomputed block is evaluated with its placeholders in place.
    """
    if mx.default_device().type != mx.DeviceType.cpu or not openblas_loaded:
        return 1
    dropout = options.lora is not None and options.lora.dropout > 0
    disturbed = dropout or options.full or options.gradient_checkpointing
    if disturbed or options.use_4bit or options.precision != "float32":
        return 1
    cores = int(ctypes.CDLL(OPENBLAS).openblas_get_num_threads())
    return cores if options.group is ALONE and cores <= MOST else 1


class Lanes:
    """Threads that last as long as the engine."""

    def __init__(self, count: int) -> None:
        self.count = count
        share_one_heap()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="lane")

    def map(self, work: Callable[[Sequence[Part]], T], lanes: Sequence[Sequence[Part]]) -> list[T]:
        """What ``work`` makes of each lane's parts, in the lanes' order."""
        with _one_thread_each():
            return list(self._pool.map(work, lanes))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Products of one thread, where OpenBLAS makes them; its number holds for the process."""
    if not openblas_loaded:
        yield
        return
    library = ctypes.CDLL(OPENBLAS)
    cores = library.openblas_get_num_threads()
    library.openblas_set_num_threads(1)
    try:
        yield
    finally:
        library.openblas_set_num_threads(cores)
