"""The starter model itself, on both backends: the same losses step by step, the same figures."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from cli import alone
from libraries import LOADERS, library_loss
from training_runs import BACKENDS, column, distance, killed_after, other

from speakeasy.data.dataset import starter_conversations
from speakeasy.training import state as states
from speakeasy.training.run import Run
from speakeasy.weights.adapters import draw_lora
from speakeasy.weights.checkpoint import linear_layers
from speakeasy.weights.hub import resolve_model

pytestmark = [pytest.mark.starter, pytest.mark.timeout(1500)]

STEPS = 20


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict]]:
    """The same twenty-step plan on both backends, on short conversations: minutes on two cores.

    MLX's own BLAS on Linux is many times slower than OpenBLAS, so without that they are cut.
    """
    import speakeasy_mlx

    directory = tmp_path_factory.mktemp("starter")
    length, letters = (192, None) if speakeasy_mlx.openblas_loaded else (64, 24)
    shortest = sorted(starter_conversations(), key=lambda c: sum(len(t.content) for t in c.turns))
    chosen = random.Random(0).sample(shortest[:26], 26)
    for name, part in (("train", chosen[:20]), ("eval", chosen[20:])):
        lines = [
            json.dumps(
                {
                    "messages": [
                        {"role": turn.role, "content": turn.content[:letters].strip()}
                        for turn in conversation.turns[-2:]
                    ]
                }
            )
            + "\n"
            for conversation in part
        ]
        (directory / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    runs = {}
    for backend in ("torch", "mlx"):
        # Alone: beside MLX's OpenBLAS, whose names are global, torch is several times slower.
        done = alone(
            "train", "--model_name", "starter", "--train_file", directory / "train.jsonl",
            "--eval_file", directory / "eval.jsonl", "--output_dir", directory / backend,
            "--max-steps", STEPS, "--lora_r", 64, "--lora_alpha", 16, "--batch_size", 1,
            "--max-length", length, "--eval-every", STEPS, "--save-every", STEPS // 2,
            "--precision", "float32", "--seed", 1,
            "--backend", backend, "--json", threads=0,
        )  # fmt: skip
        runs[backend] = directory / backend, done.result
    return runs


def test_both_backends_take_the_same_course(runs: dict) -> None:
    losses = {
        name: [step["loss"] for step in Run.open(run).steps()] for name, (run, _) in runs.items()
    }
    assert len(losses["torch"]) == STEPS
    np.testing.assert_allclose(losses["mlx"], losses["torch"], rtol=1e-3)


@pytest.mark.parametrize("first", BACKENDS)
def test_half_on_each_is_the_whole_on_either(runs: dict, first: str, tmp_path: Path) -> None:
    """Losses within 1e-3, rates and data the same, the adapters apart by float noise.

    How far that noise carries, two unbroken runs show: AdamW's first steps move every weight by
    the rate, whatever its gradient, so where that is near zero rounding decides the direction.
    They end about 1% of the way apart, and a moved run no further from either. From the one that
    it began as, it has only the second half to part: seen 5e-5.
    """
    moved = killed_after(runs[first][0], STEPS // 2, tmp_path / "moved")
    alone("train", "--resume", "--output-dir", moved, "--backend", other(first), threads=0)
    start = draw_lora(linear_layers(resolve_model("starter").path), 64, seed=1)

    def end(run: Path) -> states.Tensors:
        return states.at_step(run / "state", STEPS).trainables

    for whole, _ in runs.values():
        for name in ("learning_rate", "epoch", "tokens", "target_tokens"):
            assert column(moved, name) == column(whole, name), name
        np.testing.assert_allclose(column(moved, "loss"), column(whole, "loss"), rtol=1e-3)
    begun, elsewhere = runs[first][0], runs[other(first)][0]
    noise = distance(end(begun), end(elsewhere), start)
    assert noise < 0.03
    assert distance(end(moved), end(begun), start) < 1e-3
    assert distance(end(moved), end(elsewhere), start) < 1.1 * noise


def test_it_learns(runs: dict) -> None:
    for _, summary in runs.values():
        assert summary["eval_bits_per_byte"] < 0.95 * summary["eval_bits_per_byte_before"]


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_the_adapter_loads_in_its_own_library(runs: dict, backend: str) -> None:
    run, summary = runs[backend]
    model = resolve_model("starter").path
    loss = library_loss(LOADERS[backend](model, run / "adapter"), model, run.parent / "eval.jsonl")
    assert loss == pytest.approx(summary["eval_loss"], rel=1e-4)
