"""The portable training state: what a run needs to go on, on any backend.

A state is a directory ``state/step-NNNNNN`` of two files: ``tensors.safetensors`` (float32,
canonical names under ``weight/``, ``exp_avg/`` and ``exp_avg_sq/``) and ``state.json`` (all the
rest). It appears whole or not at all.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from speakeasy.errors import ModelError, RunError
from speakeasy.files import disk_errors, new_directory, write_json
from speakeasy.weights.safetensors_io import TensorInfo, read_header, read_tensor

Tensors = Mapping[str, np.ndarray]
KEPT = 2
"""How many of the newest states are kept, beside the best."""

_TENSORS, _FACTS = "tensors.safetensors", "state.json"
_GROUPS = {"trainables": "weight/", "first": "exp_avg/", "second": "exp_avg_sq/"}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come.

    Attributes:
        step: optimizer steps done.
        epoch, cursor: position in the data, see ``schedule.DataOrder``.
        tokens, target_tokens: seen so far, padding not counted.
        nats: sum of the target losses so far.
        seconds: spent in training steps alone.
        best_score: lowest bits per byte on the held-out set, and the step it was reached at.
        stale: evaluations since then.
        evaluation_due: the step is done and its evaluation is not.
    """

    step: int = 0
    epoch: int = 0
    cursor: int = 0
    tokens: int = 0
    target_tokens: int = 0
    nats: float = 0.0
    seconds: float = 0.0
    best_score: float | None = None
    best_step: int = 0
    stale: int = 0
    evaluation_due: bool = False


@dataclass(frozen=True, slots=True)
class TrainingState:
    """``Progress`` with the weights and AdamW's moments, by canonical name."""

    progress: Progress
    trainables: Tensors
    first: Tensors = field(default_factory=dict)
    second: Tensors = field(default_factory=dict)


class Saved(Mapping[str, np.ndarray]):
    """Tensors of a file by name, each read anew when it is asked for: none stays in memory.

    Args:
        stored: of the file's header.
        prefix: of the names that count; it is not part of the keys.
    """

    def __init__(self, stored: Mapping[str, TensorInfo], prefix: str) -> None:
        self._stored = {
            name.removeprefix(prefix): info
            for name, info in stored.items()
            if name.startswith(prefix)
        }

    def __getitem__(self, name: str) -> np.ndarray:
        return read_tensor(self._stored[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def save(state: TrainingState, states: Path, *, best: int) -> Path:
    """Write a state under ``states`` and remove those no longer needed.

    Args:
        states: the ``state`` directory of a run.
        best: step of the best state, which is kept.
    """
    place = states / f"step-{state.progress.step:06d}"
    tensors = {
        prefix + name: np.ascontiguousarray(tensor, dtype=np.float32)
        for group, prefix in _GROUPS.items()
        for name, tensor in getattr(state, group).items()
    }
    with (
        disk_errors(str(place), "the states saved before it are whole"),
        new_directory(place, replace=True) as directory,
    ):
        save_file(tensors, directory / _TENSORS, metadata={"format": "pt"})
        write_json(directory / _FACTS, dataclasses.asdict(state.progress))
    _prune(states, keep={best, state.progress.step})
    return place


def load(place: Path) -> TrainingState:
    """Open a state; its tensors are read when they are asked for.

    Raises:
        RunError: a file is missing or broken.
    """
    try:
        facts = json.loads((place / _FACTS).read_text(encoding="utf-8"))
        stored, _ = read_header(place / _TENSORS)
        groups = {group: Saved(stored, prefix) for group, prefix in _GROUPS.items()}
        return TrainingState(progress=Progress(**facts), **groups)
    except (OSError, ValueError, TypeError, ModelError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"{place}: this state cannot be read ({reason}); remove it to go on from the one before"
        ) from error


def steps_saved(states: Path) -> list[int]:
    """Steps of the states under ``states``, in order."""
    if not states.is_dir():
        return []
    found = (re.fullmatch(r"step-(\d{6,})", entry.name) for entry in states.iterdir())
    return sorted(int(match[1]) for match in found if match)


def latest(states: Path) -> TrainingState | None:
    """The newest state, or None where there is none yet."""
    saved = steps_saved(states)
    return load(states / f"step-{saved[-1]:06d}") if saved else None


def at_step(states: Path, step: int) -> TrainingState:
    """The state of one step."""
    return load(states / f"step-{step:06d}")


def _prune(states: Path, keep: set[int]) -> None:
    saved = steps_saved(states)
    for step in set(saved) - set(saved[-KEPT:]) - keep:
        shutil.rmtree(states / f"step-{step:06d}")
