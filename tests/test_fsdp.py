"""Two processes divide the frozen blocks: as one process would train, with half of them in each.

As a program it is one of the processes, and compares engines that are divided with whole ones.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli import speakeasy
from engines import LORA, open_engine, packed, random_items
from test_distributed import (
    CLOSE,
    STEPS,
    files,  # noqa: F401
    model,  # noqa: F401
    one_thread,  # noqa: F401
    own_cache,  # noqa: F401
    pretraining,
    same_losses,
    text,  # noqa: F401
    words,
)
from together import Call, Killed, carry_out, launch
from torch.distributed.tensor import DTensor
from training_runs import killed_after

from speakeasy.batches.types import PackedBatch
from speakeasy.config import TrainConfig
from speakeasy.errors import UsageError
from speakeasy.training import backend
from speakeasy.training import state as states
from speakeasy.training.group import ALONE, Group, total
from speakeasy.training.run import Run
from speakeasy.weights.trained_rows import read_from_model

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "recomputed": {"gradient_checkpointing": True},
    "dora": {"lora": replace(LORA, dora=True)},
    "attention": {"lora": replace(LORA, targets="attention")},
    "rows": {"rows": (3, 7, 11)},
    "rows alone": {"rows": (3, 7, 11), "lora": None},
    "bfloat16": {"precision": "bfloat16"},
}


Inputs = tuple[Path, tuple[Path, Path], Path]


@pytest.fixture(scope="module")
def inputs(model: Path, files: tuple[Path, Path], text: Path) -> Inputs:  # noqa: F811
    return model, files, text


class Runs:
    """What one process made, and what two made that divided the model."""

    ends: dict[str, list[dict]]
    killed: Killed

    def __init__(self, inputs: Inputs, at: Path) -> None:
        base, data, raw = inputs
        self.at = at
        speakeasy(*words(base, data, at / "one"))
        speakeasy(*words(base, data, at / "one-row", **{"max-steps": 3, "batch-size": 1}))
        speakeasy(*pretraining(base, raw, at / "one-text"))
        killed_after(at / "one", 10, at / "one-then-two")
        resume = ["train", "--resume", "--output-dir"]
        cut = {"max-steps": 5000, "save-every": 2, "eval-every": 5000}
        row = {"max-steps": 3, "batch-size": 1}
        self.ends, self.killed = carry_out(
            "torch",
            {
                "two": Call([*words(base, data, at / "two"), "--fsdp"]),
                "one-then-two": Call([*resume, str(at / "one-then-two"), "--fsdp"]),
                "row": Call([*words(base, data, at / "row", **row), "--fsdp"]),
                "text": Call([*pretraining(base, raw, at / "text"), "--fsdp"]),
                "stopped": Call([*words(base, data, at / "stopped"), "--fsdp"], signal_after=4),
                "resumed": Call([*resume, str(at / "stopped")]),
                "killed": Call([*words(base, data, at / "killed", **cut), "--fsdp"]),
            },
            1,
            at / "calls",
        )


@pytest.fixture(scope="module")
def runs(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(inputs, tmp_path_factory.mktemp("fsdp"))


@pytest.mark.parametrize("name", ["two", "one-then-two", "row", "text", "resumed"])
def test_all_end_well_with_the_same_weights(runs: Runs, name: str) -> None:
    first, second = runs.ends[name]
    assert [first["status"], second["status"]] == [0, 0], first["stderr"]
    assert first["weights"] == second["weights"]
    assert second["stdout"] == ""
    assert "blocks divided by 2" in first["stderr"]


def test_the_losses_are_those_of_one_process(runs: Runs) -> None:
    for one, two in (("one", "two"), ("one-row", "row"), ("one-text", "text")):
        same_losses(runs.at / one, runs.at / two, rtol=CLOSE)
    assert len(Run.open(runs.at / "two").steps()) == STEPS
    assert Run.open(runs.at / "text").rows_fitted == Run.open(runs.at / "one-text").rows_fitted


def test_states_do_not_know_of_the_division(runs: Runs) -> None:
    same_losses(runs.at / "one", runs.at / "one-then-two", rtol=CLOSE)
    out = killed_after(runs.at / "two", 10, runs.at / "two-then-one")
    done = speakeasy("train", "--resume", "--output-dir", out, check=False)
    assert done.returncode == 2
    assert "--fsdp: divides the model among processes" in done.stderr
    speakeasy("train", "--resume", "--output-dir", out, "--no-fsdp")
    same_losses(runs.at / "one", out, rtol=CLOSE)


def test_a_signal_stops_all_and_they_go_on_bit_for_bit(runs: Runs) -> None:
    assert [end["status"] for end in runs.ends["stopped"]] == [143, 143]
    same_losses(runs.at / "two", runs.at / "stopped", rtol=0)


def test_when_one_is_killed_the_other_ends_and_says_how_to_go_on(runs: Runs) -> None:
    assert runs.killed.seconds < 10
    (line,) = [line for line in runs.killed.said.splitlines() if line.startswith("error")]
    assert "process 1 of 2 has ended, as if it was killed" in line
    assert states.steps_saved(runs.at / "killed" / "state")


@pytest.fixture(scope="module")
def compared(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("compared")
    process = launch("torch", __file__, inputs[0], folder)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_divided_engine_computes_what_a_whole_one_does(
    compared: list[dict[str, Any]], kind: str
) -> None:
    for found in compared:
        whole, divided, moved = (found[kind][name] for name in ("whole", "divided", "moved"))
        np.testing.assert_allclose(divided, whole, rtol=1e-5 if kind != "bfloat16" else 2e-3)
        assert moved > 1e-3


def test_each_process_holds_half_of_every_block_and_all_of_the_rest(
    compared: list[dict[str, Any]],
) -> None:
    for found in compared:
        held = found["held"]
        blocks = {name: count for name, count in held.items() if ".layers." in name}
        frozen = {name: count for name, count in blocks.items() if ".lora_" not in name}
        assert len(frozen) == 2 * 9
        for name, (here, whole) in held.items():
            assert here == (whole // 2 if name in frozen else whole), name


def test_no_other_block_is_whole_while_one_is_computed(compared: list[dict[str, Any]]) -> None:
    for found in compared:
        assert found["computed"][:4] == [[0, [0]], [1, [1]], [1, [1]], [0, [0]]]
        assert found["afterwards"] == []


# What is refused ------------------------------------------------------------------------------


def test_one_process_has_nobody_to_divide_with(inputs: Inputs, tmp_path: Path) -> None:
    done = speakeasy(*words(*inputs[:2], tmp_path / "out"), "--fsdp", check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: --fsdp: divides the model among proc")
    assert "start two or more with torchrun" in done.stderr
    assert not (tmp_path / "out").exists()


def test_mlx_cannot_divide(inputs: Inputs, tmp_path: Path) -> None:
    call = [*words(*inputs[:2], tmp_path / "out"), "--fsdp", "--backend", "mlx"]
    done = speakeasy(*call, check=False)
    assert done.returncode == 2
    assert "--fsdp: the mlx backend cannot divide a model" in done.stderr


def test_what_is_not_frozen_in_full_precision_is_not_divided(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--fsdp: a base in 4 bits"):
        TrainConfig(fsdp=True, use_4bit=True)
    call = ["pretrain", "--train", "full", "--fsdp", "--output-dir", tmp_path / "out"]
    done = speakeasy(*call, check=False)
    assert done.returncode == 2
    assert "--fsdp: divides frozen weights, and --train full freezes none" in done.stderr


# One of the processes ---------------------------------------------------------------------------


def steps(engine: Any, batch: PackedBatch, group: Group) -> tuple[list[float], float]:
    """Losses before and after, gradient norms; and how far the weights have moved.

    The second pass of each step has one row: only one process has something to do.
    """

    def total_of(value: float) -> float:
        return float(total(group, np.array(value)))

    before = engine.trainables()
    found = []
    for number in range(3):
        engine.seed_step(number)
        sums = 0.0
        for part in (batch.rows(0, 3), batch.rows(3, 4)):
            mine = part.rows(group.rank, None, group.size)
            sums += float(engine.accumulate(mine, 1 / batch.target_count))
            found.append(total_of(float(engine.token_losses(mine).sum())))
        found += [total_of(sums), engine.apply(1e-2)]
    after = engine.trainables()
    return found, max(float(np.abs(after[name] - before[name]).max()) for name in after)


def whole_blocks(engine: Any) -> list[int]:
    """The blocks that are gathered now."""
    layers = engine._model.get_decoder().layers
    weights = [layer.mlp.gate_proj.base_layer.weight for layer in layers]
    return [n for n, weight in enumerate(weights) if not isinstance(weight, DTensor)]


def part(parameter: torch.Tensor) -> torch.Tensor:
    """What this process holds of a parameter."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def watch(engine: Any) -> list[Any]:
    """A list that gets each block as it is computed, forward and backward, and those gathered."""
    seen: list[Any] = []
    for number, layer in enumerate(engine._model.get_decoder().layers):

        def look(*_: Any, number: int = number) -> None:
            seen.append([number, whole_blocks(engine)])

        layer.mlp.register_forward_hook(look)
        layer.mlp.gate_proj.lora_A["default"].weight.register_hook(look)
    return seen


def main(base: Path, folder: Path) -> None:
    group = backend.join()
    batch = packed(random_items(20), rows=4)
    ends: dict[str, Any] = {}
    for kind, given in KINDS.items():
        options = dict(given)
        if "rows" in options:
            options["rows"] = read_from_model(base, list(options["rows"]))
        whole, _ = steps(open_engine("torch", base, **options), batch, ALONE)
        engine = open_engine("torch", base, group=group, fsdp=True, **options)
        if kind == "lora":
            ends["computed"] = watch(engine)
        divided, moved = steps(engine, batch, group)
        ends[kind] = {"whole": whole, "divided": divided, "moved": moved}
        if kind == "lora":
            ends["afterwards"] = whole_blocks(engine)
            ends["held"] = {
                name: (part(value).numel(), value.numel())
                for name, value in engine._model.named_parameters()
            }
    (folder / f"{group.rank}.json").write_text(json.dumps(ends), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
