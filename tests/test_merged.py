"""Adapters as a part of the weights: values and gradients are those of adapters that are added."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import LORA, open_engine, packed, random_items
from one_thread import one_thread  # noqa: F401

from speakeasy.training.backend import Engine


def opened(backend: str, directory: Path, merges: bool, **options: Any) -> Engine:
    """An engine of which all or none of the adapters are merged."""
    module = f"speakeasy_{backend}.merged"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{module}.pays", lambda outputs, inputs, rank: merges)
        return open_engine(backend, directory, **options)


@pytest.mark.parametrize("recomputed", [False, True])
def test_three_steps_are_those_of_adapters_that_are_added(
    backend_name: str, tiny_directory: Path, recomputed: bool
) -> None:
    batches = [packed(random_items(6, seed=seed), rows=2) for seed in range(3)]
    outcomes = []
    for merges in (False, True):
        engine = opened(backend_name, tiny_directory, merges, gradient_checkpointing=recomputed)
        assert bool(engine._merged._layers) == merges
        losses = []
        for batch in batches:
            losses.append(float(engine.accumulate(batch, 1 / batch.target_count)))
            losses.append(engine.apply(1e-2))
        scored = engine.token_losses(batches[0])
        logits = engine.next_logits(batches[0].tokens_BT[:, :9])
        outcomes.append((losses, scored, logits, *engine.moments()))
    (losses, scored, logits, *moments), (found, found_scored, found_logits, *others) = outcomes
    assert found == pytest.approx(losses, rel=2e-5)
    np.testing.assert_allclose(found_scored, scored, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found_logits, logits, rtol=0, atol=1e-4 * np.abs(logits).max())
    for expected, moment in zip(moments, others, strict=True):
        for name, values in expected.items():
            largest = np.abs(values).max()
            np.testing.assert_allclose(moment[name], values, rtol=0, atol=1e-4 * largest)


def test_the_frozen_weights_do_not_drift(backend_name: str, tiny_directory: Path) -> None:
    """After other weights and back, every answer is what it was, to the bit."""
    batch = packed(random_items(6), rows=2)
    engine = opened(backend_name, tiny_directory, True)
    begun = {name: tensor.copy() for name, tensor in engine.trainables().items()}
    before = engine.token_losses(batch)
    for _ in range(20):
        engine.accumulate(batch, 1 / batch.target_count)
        engine.apply(0.1)
    assert not np.allclose(engine.token_losses(batch), before)
    engine.set_trainables(begun)
    np.testing.assert_array_equal(engine.token_losses(batch), before)


@pytest.mark.parametrize("kind", ["dropout", "dora", "bfloat16", "4 bits"])
def test_what_is_no_exact_sum_is_left(backend_name: str, tiny_directory: Path, kind: str) -> None:
    if (backend_name, kind) == ("mlx", "4 bits"):
        pytest.skip("MLX packs no layer as narrow as this model's")
    options: dict[str, Any] = {
        "dropout": {"lora": replace(LORA, dropout=0.1)},
        "dora": {"lora": replace(LORA, dora=True)},
        "bfloat16": {"precision": "bfloat16"},
        "4 bits": {"use_4bit": True},
    }[kind]
    engine = opened(backend_name, tiny_directory, True, **options)
    assert not engine._merged._layers
