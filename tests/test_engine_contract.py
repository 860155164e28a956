"""The contract of ``training.backend.Engine``: the same tests on every registered backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engines import (
    LORA,
    OPTIMIZER,
    adapter_tensors,
    courses_on_each,
    gradient_step,
    one_row_each,
    open_engine,
    packed,
    random_items,
    reference_losses,
    slope_along_gradient,
    whole_and_resumed,
)
from tiny import VOCABULARY
from tiny_model import tiny_llama

from speakeasy.batches.types import IGNORED
from speakeasy.config import LoraConfig, OptimizerConfig
from speakeasy.errors import BackendError
from speakeasy.training.backend import REGISTRY, Engine


@pytest.fixture
def engine(backend_name: str, tiny_directory: Path) -> Engine:
    return open_engine(backend_name, tiny_directory)


def test_every_registered_backend_is_collected(request: pytest.FixtureRequest) -> None:
    """A backend that the suite leaves out must not go unnoticed."""
    collected = {
        item.callspec.params["backend_name"]
        for item in request.session.items
        if hasattr(item, "callspec") and "backend_name" in item.callspec.params
    }
    assert collected == set(REGISTRY)


def test_losses_are_those_of_the_textbook(engine: Engine) -> None:
    items = random_items(6)
    for item, batch in zip(items, one_row_each(items), strict=True):
        losses_BT = engine.token_losses(batch)
        np.testing.assert_allclose(
            losses_BT[batch.labels_BT != IGNORED], reference_losses(engine, item), rtol=2e-5
        )
        assert not losses_BT[batch.labels_BT == IGNORED].any()


def test_packing_changes_no_loss(engine: Engine) -> None:
    """A conversation's losses do not depend on what shares its row, nor on its place in it."""
    items = random_items(9)
    batch = packed(items)
    assert len(batch.tokens_BT) < len(items)
    together_BT = engine.token_losses(batch)
    for index, alone in enumerate(one_row_each(items)):
        expected = engine.token_losses(alone)[alone.labels_BT != IGNORED]
        found = together_BT[(batch.items_BT == index) & (batch.labels_BT != IGNORED)]
        np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_accumulate_returns_the_summed_loss(engine: Engine) -> None:
    batch = packed(random_items(5))
    expected = engine.token_losses(batch).sum()
    assert float(engine.accumulate(batch, 0.25)) == pytest.approx(expected, rel=1e-5)
    engine.discard()


def test_rows_at_once_or_one_by_one_give_the_same_step(
    backend_name: str, tiny_directory: Path
) -> None:
    batch = packed(random_items(12), rows=3)
    at_once, norm = gradient_step(open_engine(backend_name, tiny_directory), [batch])
    parts = [batch.rows(index, index + 1) for index in range(3)]
    in_parts, norm_in_parts = gradient_step(open_engine(backend_name, tiny_directory), parts)
    assert norm == pytest.approx(norm_in_parts, rel=1e-5)
    for name, tensor in at_once.items():
        np.testing.assert_allclose(in_parts[name], tensor, rtol=0, atol=2e-5)


def test_gradient_agrees_with_finite_differences(backend_name: str, tiny_directory: Path) -> None:
    """Along the gradient that one plain step reveals, the loss falls as fast as it should."""
    plain = OptimizerConfig(max_grad_norm=0.0)
    engine = open_engine(backend_name, tiny_directory, optimizer=plain)
    computed, found = slope_along_gradient(engine, packed(random_items(6), rows=2))
    assert found == pytest.approx(computed, rel=2e-2)


def test_step_is_adamw_with_bias_correction(backend_name: str, tiny_directory: Path) -> None:
    """Two steps against the update written out in numpy, float64 (arXiv 1711.05101)."""
    engine = open_engine(backend_name, tiny_directory)
    batch = packed(random_items(6), rows=2)
    weights = {name: tensor.astype(np.float64) for name, tensor in engine.trainables().items()}
    first = {name: np.zeros_like(tensor) for name, tensor in weights.items()}
    second = {name: np.zeros_like(tensor) for name, tensor in weights.items()}
    c = OPTIMIZER
    for step in (1, 2):
        before, _ = engine.moments()
        engine.accumulate(batch, 1 / batch.target_count)
        engine.apply(c.learning_rate)
        after, _ = engine.moments()
        for name in weights:
            gradient = (after[name] - c.beta1 * before[name].astype(np.float64)) / (1 - c.beta1)
            first[name] = c.beta1 * first[name] + (1 - c.beta1) * gradient
            second[name] = c.beta2 * second[name] + (1 - c.beta2) * gradient**2
            weights[name] *= 1 - c.learning_rate * c.weight_decay
            weights[name] -= (
                c.learning_rate
                * (first[name] / (1 - c.beta1**step))
                / (np.sqrt(second[name] / (1 - c.beta2**step)) + c.epsilon)
            )
    for name, tensor in engine.trainables().items():
        # The gradient is recovered from a float32 moment, so small entries carry its rounding,
        # which AdamW's division enlarges; two steps of 1e-2 leave it far below this.
        np.testing.assert_allclose(tensor, weights[name], rtol=0, atol=2e-4)


def test_gradients_are_clipped_to_the_norm(backend_name: str, tiny_directory: Path) -> None:
    limit = 1e-3
    engine = open_engine(
        backend_name, tiny_directory, optimizer=OptimizerConfig(max_grad_norm=limit)
    )
    _, norm = gradient_step(engine, [packed(random_items(4))])
    first, _ = engine.moments()
    clipped = np.sqrt(sum((tensor.astype(np.float64) ** 2).sum() for tensor in first.values()))
    assert norm > limit
    assert clipped / (1 - 0.9) == pytest.approx(limit, rel=1e-3)


def test_a_step_that_is_not_finite_changes_nothing(backend_name: str, tiny_directory: Path) -> None:
    engine = open_engine(backend_name, tiny_directory)
    before = engine.trainables()
    engine.accumulate(packed(random_items(3)), float("inf"))
    assert not np.isfinite(engine.apply(1e-2))
    for name, tensor in engine.trainables().items():
        np.testing.assert_array_equal(tensor, before[name])
    assert all(not tensor.any() for tensor in engine.moments()[0].values())
    assert np.isfinite(gradient_step(engine, [packed(random_items(3))])[1])


def test_discard_forgets_gradients(backend_name: str, tiny_directory: Path) -> None:
    items = random_items(6)
    engine = open_engine(backend_name, tiny_directory)
    engine.accumulate(packed(items), 1.0)
    engine.discard()
    disturbed, _ = gradient_step(engine, [packed(items[:3])])
    clean, _ = gradient_step(open_engine(backend_name, tiny_directory), [packed(items[:3])])
    for name, tensor in clean.items():
        np.testing.assert_array_equal(disturbed[name], tensor)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_restored_engine_goes_on_bit_for_bit(
    backend_name: str, tiny_directory: Path, dropout: float
) -> None:
    lora = LoraConfig(r=4, alpha=8.0, dropout=dropout)
    whole, resumed = whole_and_resumed(
        lambda: open_engine(backend_name, tiny_directory, lora=lora, seed=5)
    )
    for found, expected in zip(
        (resumed.trainables(), *resumed.moments()),
        (whole.trainables(), *whole.moments()),
        strict=True,
    ):
        for name, tensor in expected.items():
            np.testing.assert_array_equal(found[name], tensor)


def test_dropout_is_drawn_in_training_alone(backend_name: str, tiny_directory: Path) -> None:
    engine = open_engine(backend_name, tiny_directory, lora=LoraConfig(r=4, alpha=8.0, dropout=0.5))
    batch = packed(random_items(6))
    quiet = engine.token_losses(batch)
    draws = []
    for step in (1, 2, 1):
        engine.seed_step(step)
        draws.append(float(engine.accumulate(batch, 1.0)))
        engine.discard()
    assert draws[0] == draws[2] != draws[1]
    np.testing.assert_array_equal(engine.token_losses(batch), quiet)


def test_gradient_checkpointing_changes_nothing_but_memory(
    backend_name: str, tiny_directory: Path
) -> None:
    batch = packed(random_items(6))
    plain, norm = gradient_step(open_engine(backend_name, tiny_directory), [batch])
    recomputed, same_norm = gradient_step(
        open_engine(backend_name, tiny_directory, gradient_checkpointing=True), [batch]
    )
    assert same_norm == pytest.approx(norm, rel=1e-5)
    for name, tensor in plain.items():
        np.testing.assert_allclose(recomputed[name], tensor, rtol=0, atol=2e-5)


def test_recomputing_draws_the_same_dropout_or_is_refused(
    backend_name: str, tiny_directory: Path
) -> None:
    """MLX would draw anew in the recomputation; there the two do not go together."""
    batch = packed(random_items(6))
    steps = []
    for recompute in (False, True):
        options = {"lora": LoraConfig(r=4, alpha=8.0, dropout=0.5), "seed": 3}
        if recompute and backend_name == "mlx":
            with pytest.raises(BackendError, match="leave one of them out"):
                open_engine("mlx", tiny_directory, gradient_checkpointing=True, **options)
            return
        engine = open_engine(
            backend_name, tiny_directory, gradient_checkpointing=recompute, **options
        )
        engine.seed_step(1)
        steps.append(gradient_step(engine, [batch])[1])
    assert steps[0] == pytest.approx(steps[1], rel=1e-5)


def test_trainables_are_the_canonical_adapter(backend_name: str, tiny_directory: Path) -> None:
    tensors = adapter_tensors(tiny_directory)
    found = open_engine(backend_name, tiny_directory, adapter=tensors).trainables()
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)


def test_targets_choose_the_layers(backend_name: str, tiny_directory: Path) -> None:
    engine = open_engine(
        backend_name, tiny_directory, lora=LoraConfig(r=2, targets="q_proj,up_proj")
    )
    modules = {name.split(".lora_")[0].rpartition(".")[2] for name in engine.trainables()}
    assert modules == {"q_proj", "up_proj"}


def test_untied_head_and_several_chunks(backend_name: str, tmp_path: Path) -> None:
    """A head of its own, and a vocabulary so large that targets are scored in several chunks."""
    vocabulary = 500_000
    model = tiny_llama(tmp_path, vocab_size=vocabulary, tied=False, hidden=8, heads=2, layers=1)
    engine = open_engine(backend_name, model)
    items = random_items(6, vocabulary=vocabulary)
    batch = packed(items)
    assert batch.target_count > 32, "several chunks"
    found = engine.token_losses(batch)
    for index, item in enumerate(items):
        scored = (batch.items_BT == index) & (batch.labels_BT != IGNORED)
        np.testing.assert_allclose(found[scored], reference_losses(engine, item), rtol=2e-5)
    assert np.isfinite(gradient_step(engine, [batch])[1])


def test_four_bits_train(backend_name: str, tmp_path: Path) -> None:
    """The 4-bit base is near the full one, and its adapter learns nearly as much."""
    model = tiny_llama(tmp_path, vocab_size=VOCABULARY, hidden=64, intermediate=128)
    batch = packed(random_items(6))
    losses = {}
    for use_4bit in (False, True):
        engine = open_engine(backend_name, model, use_4bit=use_4bit)
        before = engine.token_losses(batch).sum()
        for _ in range(10):
            gradient_step(engine, [batch])
        losses[use_4bit] = before, engine.token_losses(batch).sum()
    assert losses[True][0] == pytest.approx(losses[False][0], rel=0.02)
    assert losses[True][0] != losses[False][0]
    learned = {use_4bit: before - after for use_4bit, (before, after) in losses.items()}
    assert learned[True] > 0.7 * learned[False] > 0


def test_both_backends_take_the_same_course(tiny_directory: Path) -> None:
    """Twenty float32 steps: losses within 1e-3 relative, as issue 2 asks; here far closer."""
    courses, _ = courses_on_each(lambda name: open_engine(name, tiny_directory))
    np.testing.assert_allclose(courses["mlx"], courses["torch"], rtol=1e-3)
    assert LORA.scale == 2.0
