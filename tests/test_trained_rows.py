"""Rows of embedding and output matrices: read from a model, kept in a file, by canonical name."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_model import tiny_llama

from speakeasy.errors import ModelError
from speakeasy.files import write_json
from speakeasy.weights.directory import read_config
from speakeasy.weights.trained_rows import TrainedRows, load, read_from_model, save


@pytest.mark.parametrize("tied", [True, False])
def test_rows_are_those_of_the_model(tmp_path: Path, tied: bool) -> None:
    model = tiny_llama(tmp_path, vocab_size=40, tied=tied)
    stored = load_file(model / "model.safetensors")
    rows = read_from_model(model, [7, 3, 39, 3])
    assert rows.ids.tolist() == [3, 7, 39]
    np.testing.assert_array_equal(rows.embedding, stored["model.embed_tokens.weight"][[3, 7, 39]])
    if tied:
        assert rows.head is None
        assert list(rows.tensors()) == ["model.embed_tokens.rows"]
    else:
        np.testing.assert_array_equal(rows.head, stored["lm_head.weight"][[3, 7, 39]])
        assert list(rows.tables()) == ["model.embed_tokens.weight", "lm_head.weight"]
    assert len(read_from_model(model, []).ids) == 0


def test_rows_of_sixteen_bits_become_float32(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path, vocab_size=40)
    stored = load_file(model / "model.safetensors")
    halved = {name: value.astype(ml_dtypes.bfloat16) for name, value in stored.items()}
    save_file(halved, model / "model.safetensors")
    rows = read_from_model(model, [5])
    np.testing.assert_array_equal(
        rows.embedding, halved["model.embed_tokens.weight"][[5]].astype(np.float32)
    )


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    rows = read_from_model(tiny_llama(tmp_path / "m", vocab_size=40, tied=False), [1, 2])
    save(rows, tmp_path / "rows.safetensors")
    back = load(tmp_path / "rows.safetensors")
    for name in ("ids", "embedding", "head"):
        np.testing.assert_array_equal(getattr(back, name), getattr(rows, name))
    changed = rows.replaced({name: value + 1 for name, value in rows.tensors().items()})
    np.testing.assert_array_equal(changed.head, rows.head + 1)


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "m", vocab_size=40)
    with pytest.raises(ModelError, match="has 40 rows, but row 40"):
        read_from_model(model, [40])
    values = np.zeros((2, 4), np.float32)
    for ids in ([2, 1], [1, 1]):
        with pytest.raises(ModelError, match="rising"):
            TrainedRows(np.array(ids, np.int64), values, None)
    with pytest.raises(ModelError, match="a row an id"):
        TrainedRows(np.array([1], np.int64), values, None)
    odd = tmp_path / "odd.safetensors"
    save_file({"ids": np.array([1])}, odd)
    with pytest.raises(ModelError, match="missing or unknown"):
        load(odd)


def test_an_integer_matrix_is_refused(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path, vocab_size=40)
    stored = load_file(model / "model.safetensors")
    stored["model.embed_tokens.weight"] = stored["model.embed_tokens.weight"].astype(np.int32)
    save_file(stored, model / "model.safetensors")
    write_json(model / "config.json", read_config(model))
    with pytest.raises(ModelError, match="full-precision"):
        read_from_model(model, [1])
