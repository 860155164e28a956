"""Engines and batches for tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy.batches.pack import build_batch, pack
from speakeasy.batches.types import PackedBatch, Rendered
from speakeasy.config import LoraConfig, OptimizerConfig
from speakeasy.training.backend import REGISTRY, Engine, EngineOptions, Tensors, open_backend
from speakeasy.weights.adapters import draw_lora, select_layers
from speakeasy.weights.checkpoint import linear_layers

LORA = LoraConfig(r=4, alpha=8.0)
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1)
ROW = 64


def adapter_tensors(model: Path, lora: LoraConfig = LORA, seed: int = 0) -> dict[str, np.ndarray]:
    """A fresh adapter whose B is not zero, so that it does something."""
    tensors = draw_lora(select_layers(linear_layers(model), lora.targets), lora.r, seed)
    generator = np.random.default_rng(seed)
    return {
        name: tensor
        if "lora_A" in name
        else (0.05 * generator.standard_normal(tensor.shape)).astype(np.float32)
        for name, tensor in tensors.items()
    }


def open_engine(backend: str, model: Path, **changes: Any) -> Engine:
    """A float32 engine with an adapter and an optimizer."""
    options: dict[str, Any] = {
        "model": model,
        "precision": "float32",
        "lora": LORA,
        "optimizer": OPTIMIZER,
    }
    options |= changes
    if options["lora"] is not None and "adapter" not in options:
        options["adapter"] = adapter_tensors(model, options["lora"])
    return open_backend(backend).load(EngineOptions(**options))


def slope_along_gradient(
    engine: Engine, batch: PackedBatch, move: Callable[[Tensors, Tensors], Tensors] | None = None
) -> tuple[float, float]:
    """How fast the mean loss changes along its gradient: as computed, and by finite differences.

    The gradient is what one step of AdamW without clipping leaves in the first moment.

    Args:
        engine: not clipping; its weights are changed.
        move: the weights after a step of the length given; the sum where None.
    """
    weights = engine.trainables()
    scale = 1 / batch.target_count
    engine.accumulate(batch, scale)
    norm = engine.apply(1e-3)
    first, _ = engine.moments()
    gradient = {name: tensor / (1 - OPTIMIZER.beta1) for name, tensor in first.items()}
    squares = sum((tensor.astype(np.float64) ** 2).sum() for tensor in gradient.values())
    assert relative(float(np.sqrt(squares)), norm) < 1e-4
    step = 0.02 / norm
    losses = []
    for sign in (1, -1):
        steps = {name: sign * step * tensor for name, tensor in gradient.items()}
        moved = {name: weights[name] + steps[name] for name in weights}
        engine.set_trainables(move(weights, steps) if move else moved)
        losses.append(float(engine.token_losses(batch).astype(np.float64).sum()) * scale)
    return norm**2, (losses[0] - losses[1]) / (2 * step)


def packed(items: list[Rendered], rows: int = 10_000) -> PackedBatch:
    """The first rows of packed items."""
    chosen = pack([len(item.tokens_T) for item in items], ROW, seed=0)[:rows]
    return build_batch(items, chosen, ROW)


def gradient_step(engine: Engine, batches: list[PackedBatch]) -> tuple[dict, float]:
    """Trainables after one step over ``batches``, and the gradient norm."""
    total = sum(batch.target_count for batch in batches)
    for batch in batches:
        engine.accumulate(batch, 1 / total)
    norm = engine.apply(1e-2)
    return engine.trainables(), norm


def course(
    engine: Engine, batches: Sequence[PackedBatch], rate: float = 3e-3, first: int = 0
) -> list[float]:
    """The mean loss of each batch, with a step after each; dropout is seeded from ``first`` on."""
    losses = []
    for number, batch in enumerate(batches, first):
        engine.seed_step(number)
        scale = 1 / batch.target_count
        losses.append(float(engine.accumulate(batch, scale)) * scale)
        engine.apply(rate)
    return losses


def courses_on_each(start: Callable[[str], Engine]) -> tuple[dict[str, list[float]], dict]:
    """Twenty steps on every backend: its losses, and its engine afterwards."""
    batches = [packed(random_items(8, seed=seed), rows=2) for seed in range(20)]
    engines = {name: start(name) for name in REGISTRY}
    return {name: course(engine, batches) for name, engine in engines.items()}, engines


def whole_and_resumed(start: Callable[[], Engine]) -> tuple[Engine, Engine]:
    """An engine after four steps, and one that took over another's state after two of them.

    Their losses are compared here, bit for bit; what is left in them is for the test.
    """
    batches = [packed(random_items(6, seed=seed), rows=2) for seed in range(4)]
    whole, half, resumed = start(), start(), start()
    losses = course(whole, batches, 1e-2)
    course(half, batches[:2], 1e-2)
    resumed.restore(half.trainables(), *half.moments(), step=2)
    assert course(resumed, batches[2:], 1e-2, first=2) == losses[2:]
    return whole, resumed


def random_items(count: int, seed: int = 0, vocabulary: int = 480) -> list[Rendered]:
    """Conversations of random tokens, about 60% of them targets."""
    generator = np.random.default_rng(seed)
    items = []
    for _ in range(count):
        length = int(generator.integers(6, 40))
        is_target = generator.random(length) < 0.6
        is_target[0], is_target[-1] = False, True
        items.append(
            Rendered(
                tokens_T=generator.integers(3, vocabulary, length).astype(np.int32),
                is_target_T=is_target,
                target_bytes=3 * int(is_target.sum()),
                target_words=max(1, int(is_target.sum()) // 2),
            )
        )
    return items


def one_row_each(items: list[Rendered], row_length: int = 64) -> list[PackedBatch]:
    """Every conversation in a row of its own."""
    return [build_batch(items, [[index]], row_length) for index in range(len(items))]


def reference_losses(engine: Engine, item: Rendered) -> np.ndarray:
    """Losses_N of an item's targets by the textbook: log-softmax of whole logits, float64."""
    logits_TV = engine.next_logits(item.tokens_T[None])[0].astype(np.float64)
    shifted_TV = logits_TV - logits_TV.max(axis=1, keepdims=True)
    log_probabilities_TV = shifted_TV - np.log(np.exp(shifted_TV).sum(axis=1, keepdims=True))
    targets = np.flatnonzero(item.is_target_T)
    return -log_probabilities_TV[targets - 1, item.tokens_T[targets]]


def relative(one: float, other: float) -> float:
    """Difference relative to the larger."""
    return abs(one - other) / max(abs(one), abs(other), math.ulp(1.0))
