"""Runs as a kill leaves them, and what of a run can be compared with another's."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy.data.dataset import starter_conversations
from speakeasy.training import state as states
from speakeasy.training.run import Run

BACKENDS = ("mlx", "torch")
KEPT = ("run.toml", "environment.json", "metrics.jsonl", "evaluations.jsonl", "state")


def other(backend: str) -> str:
    """The one that a run moves to."""
    return "torch" if backend == "mlx" else "mlx"


def write_conversations(directory: Path, train: int, held_out: int) -> tuple[Path, Path]:
    """Starter conversations in two files."""
    directory.mkdir(parents=True, exist_ok=True)
    chosen = random.Random(0).sample(starter_conversations(), train + held_out)
    paths = directory / "train.jsonl", directory / "eval.jsonl"
    for path, part in zip(paths, (chosen[:train], chosen[train:]), strict=True):
        lines = [json.dumps({"messages": c.to_messages()}) + "\n" for c in part]
        path.write_text("".join(lines), encoding="utf-8")
    return paths


def killed_after(finished: Path, step: int, out: Path) -> Path:
    """A copy of a finished run as it would lie there if it had been killed after ``step``.

    Log lines behind the step are left in: a killed run has some, too.
    """
    out.mkdir()
    for name in KEPT:
        copy = shutil.copytree if (finished / name).is_dir() else shutil.copy
        copy(finished / name, out / name)
    for saved in states.steps_saved(out / "state"):
        if saved > step:
            shutil.rmtree(out / "state" / f"step-{saved:06d}")
    assert states.steps_saved(out / "state")[-1] == step
    return out


def column(run: Path, name: str) -> list[Any]:
    """One figure of every step."""
    return [record[name] for record in Run.open(run).steps()]


def distance(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], start: Mapping
) -> float:
    """How far two results of training are apart, as a share of how far training went.

    L2 norms over all tensors together, in float64.
    """
    assert found.keys() == expected.keys()

    def norm(one: Mapping[str, np.ndarray], two: Mapping[str, np.ndarray]) -> float:
        squares = [((one[n].astype(np.float64) - two[n]) ** 2).sum() for n in one]
        return float(np.sqrt(sum(squares)))

    return norm(found, expected) / norm(expected, start)
