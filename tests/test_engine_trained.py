"""Training rows, rows with LoRA, and whole models: the same tests on every registered backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import (
    LORA,
    adapter_tensors,
    courses_on_each,
    gradient_step,
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
from speakeasy.config import OptimizerConfig
from speakeasy.training.backend import Engine
from speakeasy.weights.trained_rows import EMBEDDING, HEAD, SUFFIX, read_from_model

ROWS = (3, 7, 100, 101, 479)
KINDS = ["rows", "rows+lora", "full"]
TIED = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A tiny Llama with one matrix at both ends, and one with two."""
    folder = tmp_path_factory.mktemp("models")
    return {
        tied: tiny_llama(
            folder / str(tied), vocab_size=VOCABULARY, tied=tied, embedding_scale=0.2, seed=3
        )
        for tied in (True, False)
    }


def options(kind: str, model: Path) -> dict[str, Any]:
    return {
        "lora": LORA if kind == "rows+lora" else None,
        "adapter": adapter_tensors(model) if kind == "rows+lora" else None,
        "rows": None if kind == "full" else read_from_model(model, ROWS),
        "full": kind == "full",
    }


def start(backend: str, kind: str, model: Path, **changes: Any) -> Engine:
    return open_engine(backend, model, **(options(kind, model) | changes))


@TIED
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_trained_begins_as_the_model_has_it(
    backend_name: str, kind: str, tied: bool, models: dict[bool, Path]
) -> None:
    engine = start(backend_name, kind, models[tied])
    found = engine.trainables()
    rows = read_from_model(models[tied], ROWS)
    if kind == "full":
        whole = read_from_model(models[tied], range(VOCABULARY))
        np.testing.assert_array_equal(found[f"{EMBEDDING}.weight"], whole.embedding)
        assert (f"{HEAD}.weight" in found) is not tied
        assert "model.layers.1.mlp.down_proj.weight" in found
        assert found["model.layers.1.mlp.down_proj.weight"].shape == (32, 64)
    else:
        for name, values in rows.tensors().items():
            np.testing.assert_array_equal(found[name], values)
        assert len(found) == len(rows.tensors()) + (28 if kind == "rows+lora" else 0)
    item = random_items(1)[0]
    batch = packed([item])
    np.testing.assert_allclose(
        engine.token_losses(batch)[batch.labels_BT != IGNORED],
        reference_losses(engine, item),
        rtol=2e-5,
    )


@TIED
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_agrees_with_finite_differences(
    backend_name: str, kind: str, tied: bool, models: dict[bool, Path]
) -> None:
    """Along the gradient that one plain step reveals, the loss falls as fast as it should."""
    plain = OptimizerConfig(max_grad_norm=0.0, rows_rate=1.0)
    engine = start(backend_name, kind, models[tied], optimizer=plain)
    computed, found = slope_along_gradient(engine, packed(random_items(6), rows=2))
    assert found == pytest.approx(computed, rel=2e-2)


@TIED
def test_rows_alone_change_and_only_they(
    backend_name: str, tied: bool, models: dict[bool, Path]
) -> None:
    """The logits of other tokens, in a text without a trained one, stay as they were bit for bit;
    the optimizer holds moments for the trained rows and nothing else."""
    engine = start(backend_name, "rows", models[tied])
    others = np.setdiff1d(np.arange(VOCABULARY), ROWS)
    text_1T = others[None, 40:60].astype(np.int32)
    before_1TV = engine.next_logits(text_1T)
    for _ in range(3):
        gradient_step(engine, [packed(random_items(6))])
    after_1TV = engine.next_logits(text_1T)
    np.testing.assert_array_equal(after_1TV[..., others], before_1TV[..., others])
    assert (after_1TV[..., list(ROWS)] != before_1TV[..., list(ROWS)]).any()
    numbers = sum(tensor.size for tensor in engine.moments()[0].values())
    assert numbers == len(ROWS) * 32 * (1 if tied else 2)


def test_rows_have_a_rate_of_their_own(backend_name: str, models: dict[bool, Path]) -> None:
    """AdamW's first step moves every weight by its rate, whatever the gradient."""
    rates = OptimizerConfig(rows_rate=4.0)
    engine = start(backend_name, "rows+lora", models[True], optimizer=rates)
    before = engine.trainables()
    after, _ = gradient_step(engine, [packed(random_items(12))])
    moved = {name: np.abs(after[name] - before[name]).max() for name in after}
    assert moved[EMBEDDING + SUFFIX] == pytest.approx(4e-2, rel=1e-2)
    assert max(
        value for name, value in moved.items() if not name.endswith(SUFFIX)
    ) == pytest.approx(1e-2, rel=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_restored_engine_goes_on_bit_for_bit(
    backend_name: str, kind: str, models: dict[bool, Path]
) -> None:
    whole, resumed = whole_and_resumed(lambda: start(backend_name, kind, models[False]))
    for name, tensor in whole.trainables().items():
        np.testing.assert_array_equal(resumed.trainables()[name], tensor)


@TIED
@pytest.mark.parametrize("kind", KINDS)
def test_both_backends_take_the_same_course(
    kind: str, tied: bool, models: dict[bool, Path]
) -> None:
    courses, _ = courses_on_each(lambda name: start(name, kind, models[tied]))
    np.testing.assert_allclose(courses["mlx"], courses["torch"], rtol=1e-3)


def test_rows_of_a_base_in_four_bits(backend_name: str, tmp_path: Path) -> None:
    model = tiny_llama(tmp_path, vocab_size=VOCABULARY, hidden=64, intermediate=128)
    engine = start(backend_name, "rows+lora", model, use_4bit=True)
    batch = packed(random_items(6))
    before = engine.token_losses(batch).sum()
    for _ in range(5):
        gradient_step(engine, [batch])
    assert engine.token_losses(batch).sum() < before
