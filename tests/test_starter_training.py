"""The starter model itself, on both backends: the same losses step by step, the same figures."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from cli import alone
from libraries import LOADERS, library_loss

from speakeasy.data.dataset import starter_conversations
from speakeasy.training.run import Run
from speakeasy.weights.hub import resolve_model

pytestmark = pytest.mark.starter

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
            "--max-length", length, "--eval-every", STEPS, "--precision", "float32", "--seed", 1,
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


def test_it_learns(runs: dict) -> None:
    for _, summary in runs.values():
        assert summary["eval_bits_per_byte"] < 0.95 * summary["eval_bits_per_byte_before"]


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_the_adapter_loads_in_its_own_library(runs: dict, backend: str) -> None:
    run, summary = runs[backend]
    model = resolve_model("starter").path
    loss = library_loss(LOADERS[backend](model, run / "adapter"), model, run.parent / "eval.jsonl")
    assert loss == pytest.approx(summary["eval_loss"], rel=1e-4)
