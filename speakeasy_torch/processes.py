"""Several processes of the torch backend, set up by accelerate: gloo on CPUs, NCCL on GPUs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import reduce

from speakeasy.errors import BackendError
from speakeasy.training.group import connected

WAIT = timedelta(days=1)
"""How long a process waits for the others: while process 0 prepares something, they do. That one of
them has died is for the lifeline to notice."""
BUCKET = 1 << 26
"""Most numbers that are sent at once: a copy of so many is in memory for a moment."""


class TorchGroup:
    """See ``speakeasy.training.group.Group``.

    What the processes say to each other goes through gloo on GPUs too, so that it need not wait for
    the arithmetic.
    """

    def __init__(self) -> None:
        gpus, here = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        if gpus and here > gpus:
            raise BackendError(
                f"{here} processes on this machine, which has {gpus} GPUs: expected one or more a "
                "process; start fewer (torchrun --nproc-per-node)"
            )
        with _connecting():
            state = PartialState(cpu=not gpus, timeout=WAIT)
            self.rank, self.size = state.process_index, state.num_processes
            self._words = dist.new_group(backend="gloo", timeout=WAIT)

    def gather(self, payload: bytes) -> list[bytes]:
        """What every process gives, by rank."""
        found: list[Any] = [None] * self.size
        with connected():
            dist.all_gather_object(found, payload, group=self._words)
        return found

    def broadcast(self, payload: bytes) -> bytes:
        """What process 0 gives."""
        found = [b"" if self.rank else payload]
        with connected():
            dist.broadcast_object_list(found, src=0, group=self._words)
        return found[0]

    def close(self) -> None:
        """Take the process group apart."""
        dist.destroy_process_group()


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Give every parameter the sum of its gradients in all processes.

    One that has none here counts as zero: this process may have had no row of the step.
    """
    for bucket in _buckets(parameters):
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in bucket]
        )
        with connected():
            flat = reduce(flat, "sum")
        for parameter, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)


def _buckets(parameters: Iterable[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    bucket: list[torch.nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and size + parameter.numel() > BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket


@contextlib.contextmanager
def _connecting() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BackendError(
            f"torch.distributed cannot connect the processes ({reason}); see that process 0's "
            "machine can be reached at the rendezvous address"
        ) from error
