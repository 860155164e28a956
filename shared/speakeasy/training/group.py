"""Processes that train one run together, and what they say to each other.

Each holds the whole model, or its part of one that is divided, and computes its share of a step's
rows. The engines add up the gradients, so all take the same step. Process 0 leads: it alone writes
files and speaks. Whatever is to be known to all goes through ``gather`` and ``broadcast``, which
every process must call at the same point of its way.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TypeVar

import numpy as np

from speakeasy.errors import BackendError, first_line
from speakeasy.training.memory import out_of_memory

T = TypeVar("T")
PATIENCE_S = 10.0
"""How long a broken connection waits for the lifeline, which knows who has gone."""


class Group(Protocol):
    """The processes of a run.

    Attributes:
        rank: this process's number, from 0.
        size: how many there are.
    """

    rank: int
    size: int

    def gather(self, payload: bytes) -> list[bytes]:
        """What every process gives, by rank, on each of them."""
        ...

    def broadcast(self, payload: bytes) -> bytes:
        """What process 0 gives; that of the others is not looked at."""
        ...

    def close(self) -> None:
        """Leave the group."""
        ...


class Alone:
    """A group of one."""

    rank = 0
    size = 1

    def gather(self, payload: bytes) -> list[bytes]:
        """The one that is given."""
        return [payload]

    def broadcast(self, payload: bytes) -> bytes:
        """The same."""
        return payload

    def close(self) -> None:
        """Nothing."""


ALONE = Alone()


@contextmanager
def connected() -> Iterator[None]:
    """Around whatever a framework sends: turns its errors into one that says what to do.

    Raises:
        BackendError: a connection broke, and the lifeline has not ended this process meanwhile.
        RuntimeError: memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        time.sleep(PATIENCE_S)
        raise BackendError(
            f"the processes of this run have lost each other ({first_line(error)}); see that all "
            "machines reach each other, and go on with --resume"
        ) from error


def shared(group: Group, value: T) -> T:
    """Process 0's value on every process, as JSON carries it."""
    if group.size == 1:
        return value
    return json.loads(group.broadcast(json.dumps(value).encode()))


def total(group: Group, values: np.ndarray) -> np.ndarray:
    """The sum of the arrays of all processes, float64; taken in the same order on each."""
    parts = group.gather(np.ascontiguousarray(values, dtype="<f8").tobytes())
    arrays = [np.frombuffer(part, dtype="<f8").reshape(np.shape(values)) for part in parts]
    return np.sum(arrays, axis=0)


def barrier(group: Group) -> None:
    """Wait until every process has come here."""
    group.gather(b"")


def shared_tensors(group: Group, tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Process 0's float32 tensors on every process, sent one at a time."""
    if group.size == 1:
        return tensors
    shapes = shared(group, {name: list(tensor.shape) for name, tensor in tensors.items()})
    found = {}
    for name, shape in shapes.items():
        payload = b"" if group.rank else np.asarray(tensors[name], dtype="<f4").tobytes()
        found[name] = np.frombuffer(group.broadcast(payload), dtype="<f4").reshape(shape)
    return found


def dropout_seed(seed: int, step: int, group: Group) -> int:
    """The seed of a step's dropout: each process drops others, since it sees other rows."""
    return (seed << 32) + (group.rank << 24) + step


def processes_here(group: Group) -> int:
    """How many of the processes run on this machine."""
    here = socket.gethostname().encode()
    return group.gather(here).count(here)


def named(rank: int, group: Group) -> str:
    """A process as a message names it."""
    return f"process {rank} of {group.size}"
