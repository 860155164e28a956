"""How this process was started: alone, or beside others that train one run together.

Launchers say so in the environment: ``torchrun`` and ``accelerate launch`` by the variables of
torch.distributed's ``env://``, ``mlx.launch`` by its own (``MLX_RANK`` and a file of hosts, of
devices, or a number).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")
_MLX_FILES = ("MLX_HOSTFILE", "MLX_IBV_DEVICES")


@dataclass(frozen=True, slots=True)
class Launched:
    """One of several processes.

    Attributes:
        launcher: the program that started them.
        backend: the one whose processes it starts.
        rank: this process's number, from 0.
        size: how many there are, 2 or more.
    """

    launcher: str
    backend: str
    rank: int
    size: int


def launched(environment: Mapping[str, str] = os.environ) -> Launched | None:
    """What the environment says of other processes; None where this one is alone."""
    found = None
    if "MLX_RANK" in environment:
        rank = int(environment["MLX_RANK"])
        found = Launched("mlx.launch", "mlx", rank, _mlx_size(environment))
    elif all(name in environment for name in _TORCH):
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        found = Launched("torchrun", "torch", rank, size)
    return found if found is not None and found.size > 1 else None


def _mlx_size(environment: Mapping[str, str]) -> int:
    if "MLX_WORLD_SIZE" in environment:
        return int(environment["MLX_WORLD_SIZE"])
    for name in _MLX_FILES:
        if path := environment.get(name):
            # Empty where mlx.launch was given one host.
            return len(json.loads(Path(path).read_text(encoding="utf-8") or "[]"))
    return 1
