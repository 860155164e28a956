"""DoRA on every registered backend: what it starts from, learns, and leaves on disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import (
    adapter_tensors,
    courses_on_each,
    gradient_step,
    open_engine,
    packed,
    random_items,
    slope_along_gradient,
    whole_and_resumed,
)
from libraries import LOADERS
from safetensors.numpy import load_file, save_file
from tiny import VOCABULARY, save_tiny_tokenizer
from tiny_model import tiny_llama

from speakeasy.config import LoraConfig, OptimizerConfig
from speakeasy.training.backend import Engine
from speakeasy.weights.adapters import Adapter, draw_lora, read_adapter, write_mlx, write_peft
from speakeasy.weights.checkpoint import linear_layers
from speakeasy.weights.directory import tensor_index
from speakeasy.weights.lora import A_SUFFIX, B_SUFFIX, MAGNITUDE_SUFFIX
from speakeasy.weights.safetensors_io import read_tensor

DORA = LoraConfig(r=4, alpha=8.0, dora=True)
WRITERS: dict[str, Callable[[Adapter, Path], None]] = {
    "torch": write_peft,
    "mlx": lambda adapter, directory: write_mlx(adapter, directory, 2),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for 4 bits."""
    directory = tiny_llama(
        tmp_path_factory.mktemp("model"), vocab_size=VOCABULARY, hidden=64, intermediate=128,
        embedding_scale=0.2, seed=3,
    )  # fmt: skip
    save_tiny_tokenizer(directory)
    return directory


def start(backend: str, model: Path, **changes: Any) -> Engine:
    return open_engine(backend, model, **({"lora": DORA} | changes))


def weights(model: Path) -> dict[str, np.ndarray]:
    """The frozen matrices that are adapted, by module."""
    stored = tensor_index(model)
    return {name: read_tensor(stored[f"{name}.weight"]) for name in linear_layers(model)}


def row_lengths(model: Path, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """||W + scale B A|| of each row, by module."""
    return {
        name: np.linalg.norm(
            w.astype(np.float64)
            + DORA.scale * tensors[name + B_SUFFIX].astype(np.float64) @ tensors[name + A_SUFFIX],
            axis=1,
        )
        for name, w in weights(model).items()
    }


def test_magnitudes_begin_as_the_lengths_of_the_rows(backend_name: str, model: Path) -> None:
    tensors = adapter_tensors(model, DORA)
    found = start(backend_name, model, adapter=tensors).trainables()
    lengths = row_lengths(model, tensors)
    assert set(found) == set(tensors) | {name + MAGNITUDE_SUFFIX for name in lengths}
    for name, length in lengths.items():
        np.testing.assert_allclose(found[name + MAGNITUDE_SUFFIX], length, rtol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("use_4bit", [False, True], ids=["full", "4-bit"])
def test_a_fresh_adapter_changes_nothing(
    backend_name: str, model: Path, use_4bit: bool, precision: str
) -> None:
    """Neither on the base as it is nor on one in 4 bits, whose rows have other lengths."""
    batch = packed(random_items(6))
    how = {"use_4bit": use_4bit, "precision": precision}
    fresh = draw_lora(linear_layers(model), DORA.r, seed=0)
    bare = open_engine(backend_name, model, lora=None, optimizer=None, **how)
    found = start(backend_name, model, adapter=fresh, **how).token_losses(batch)
    expected = bare.token_losses(batch)
    if precision == "float32":
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    else:  # mlx-lm rounds the weights that it takes out of 4 bits; the mean hardly moves
        assert found.sum() == pytest.approx(expected.sum(), rel=1e-3)


def test_it_is_the_formula_of_the_paper(backend_name: str, model: Path, tmp_path: Path) -> None:
    """m (W + scale B A) / ||W + scale B A||, written into a model of its own."""
    engine = start(backend_name, model)
    for _ in range(3):
        gradient_step(engine, [packed(random_items(6))])
    trained = engine.trainables()
    lengths = row_lengths(model, trained)
    written = load_file(model / "model.safetensors")
    for name, w in weights(model).items():
        adapted = w + DORA.scale * trained[name + B_SUFFIX] @ trained[name + A_SUFFIX]
        factor = trained[name + MAGNITUDE_SUFFIX] / lengths[name]
        written[f"{name}.weight"] = (factor[:, None] * adapted).astype(np.float32)
    merged = shutil.copytree(model, tmp_path / "merged")
    save_file(written, merged / "model.safetensors", metadata={"format": "pt"})
    bare = open_engine(backend_name, merged, lora=None, optimizer=None)
    batch = packed(random_items(6, seed=9))
    np.testing.assert_allclose(engine.token_losses(batch), bare.token_losses(batch), rtol=2e-5)


def test_gradient_agrees_with_finite_differences(backend_name: str, model: Path) -> None:
    """With the lengths taken for constants in the backward pass (section 4.3 of the paper).

    A step that holds m / ||W + scale B A|| at its present value, but for the step of m itself,
    has just that slope.
    """
    plain = OptimizerConfig(max_grad_norm=0.0)
    engine = start(backend_name, model, optimizer=plain)

    def move(now: dict[str, np.ndarray], steps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        moved = {name: now[name] + steps[name] for name in now}
        then, lengths = row_lengths(model, now), row_lengths(model, moved)
        for name, length in lengths.items():
            magnitude = moved[name + MAGNITUDE_SUFFIX] * length / then[name]
            moved[name + MAGNITUDE_SUFFIX] = magnitude.astype(np.float32)
        return moved

    computed, found = slope_along_gradient(engine, packed(random_items(6), rows=2), move)
    assert found == pytest.approx(computed, rel=2e-2)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_restored_engine_goes_on_bit_for_bit(
    backend_name: str, model: Path, checkpointing: bool
) -> None:
    how = {"gradient_checkpointing": checkpointing}
    whole, resumed = whole_and_resumed(lambda: start(backend_name, model, **how))
    for name, tensor in whole.trainables().items():
        np.testing.assert_array_equal(resumed.trainables()[name], tensor)
    assert set(whole.moments()[0]) == set(whole.trainables())


def test_both_backends_take_the_same_course(model: Path) -> None:
    courses, engines = courses_on_each(lambda name: start(name, model))
    ends = {name: engine.trainables() for name, engine in engines.items()}
    np.testing.assert_allclose(courses["mlx"], courses["torch"], rtol=1e-3)
    moved = [name for name in ends["mlx"] if name.endswith(MAGNITUDE_SUFFIX)]
    for name in moved:
        np.testing.assert_allclose(ends["mlx"][name], ends["torch"][name], rtol=1e-3)


def test_it_trains_on_a_base_in_4_bits(backend_name: str, model: Path) -> None:
    engine = start(backend_name, model, use_4bit=True)
    batch = packed(random_items(6))
    before = engine.token_losses(batch).sum()
    begun = engine.trainables()
    for _ in range(10):
        gradient_step(engine, [batch])
    assert engine.token_losses(batch).sum() < 0.98 * before
    for name, tensor in engine.trainables().items():
        assert (tensor != begun[name]).any(), name


def test_the_libraries_load_what_is_written(backend_name: str, model: Path, tmp_path: Path) -> None:
    """PEFT and mlx-lm give the logits of our own engine, in their own format and ours."""
    engine = start(backend_name, model)
    for _ in range(3):
        gradient_step(engine, [packed(random_items(6))])
    adapter = Adapter(
        tensors=engine.trainables(), r=DORA.r, alpha=DORA.alpha, rslora=False, dropout=0.0,
        targets=("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"),
        base=str(model),
    )  # fmt: skip
    tokens_BT = np.arange(40, 72, dtype=np.int32)[None]
    expected = engine.next_logits(tokens_BT)
    bare = open_engine(backend_name, model, lora=None, optimizer=None).next_logits(tokens_BT)
    assert np.abs(expected - bare).max() > 0.05
    for library, write in WRITERS.items():
        directory = tmp_path / library
        directory.mkdir()
        write(adapter, directory)
        found = LOADERS[library](model, directory)(tokens_BT)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        back = read_adapter(directory)
        again = start(backend_name, model, adapter=back.tensors, optimizer=None)
        np.testing.assert_allclose(again.next_logits(tokens_BT), expected, rtol=0, atol=1e-5)
