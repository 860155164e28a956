from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import (
    EMBEDDING,
    HEAD,
    INDEX,
    VOCABULARY,
    config_of,
    edit_config,
    same_bits,
    store,
    stored_llama,
    tensors_of,
    use_small_blocks,
)

from speakeasy.errors import ModelError
from speakeasy.weights.checkpoint import model_shape
from speakeasy.weights.rows import RowsReport, add_rows, replace_rows

TOKENS = np.array([[5, 17, 3, 42, 7, 0, 60, 13]])


def expanded(
    source: Path, target: Path, rows: Mapping[int, Sequence[int]], **how: Any
) -> dict[str, np.ndarray]:
    target.mkdir(exist_ok=True)
    add_rows(source, target, rows, **{"init": "subword", **how})
    return tensors_of(target)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_new_rows_are_means_of_their_pieces_and_old_rows_keep_their_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, tied: bool, shards: int
) -> None:
    use_small_blocks(monkeypatch)
    source = stored_llama(tmp_path / "model", dtype, tied=tied, shards=shards)
    old = tensors_of(source)
    rows = {63: (9, 9, 2), 61: (5,), 62: (60, 0, 31, 17, 8)}
    (tmp_path / "new").mkdir()
    report = add_rows(source, tmp_path / "new", rows, init="subword")
    assert report == RowsReport(61, 64, 3, 0, tied)
    new = tensors_of(tmp_path / "new")
    assert new.keys() == old.keys()
    for name in old:
        if name not in (EMBEDDING, HEAD):
            assert same_bits(new[name], old[name])
            continue
        assert new[name].shape == (64, 32)
        assert same_bits(new[name][:61], old[name])
        for id, pieces in rows.items():  # each from its own matrix, cast once
            mean = old[name][list(pieces)].astype(np.float32).mean(axis=0)
            assert same_bits(new[name][id], mean.astype(old[name].dtype))
    config = config_of(tmp_path / "new")
    assert config["vocab_size"] == 64
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 50_000
    assert model_shape(tmp_path / "new").vocab_size == 64
    if shards > 1:
        index = json.loads((tmp_path / "new" / INDEX).read_text())
        assert index["metadata"]["total_size"] == sum(t.nbytes for t in new.values())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_the_matrix_mean_leaves_out_untrained_rows_and_those_that_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, tied: bool
) -> None:
    use_small_blocks(monkeypatch)
    source = stored_llama(tmp_path / "model", dtype, tied=tied)
    old = tensors_of(source)
    left_out = [0, 1, 30, 59, 60]
    for name in {EMBEDDING, HEAD} & old.keys():
        old[name][left_out] = 1e4  # one of them in the mean, and it would be far off
    store(source, old)
    rows: dict[int, tuple[int, ...]] = {59: (), 61: (), 62: (3,)}
    new = expanded(source, tmp_path / "new", rows, init="mean", exclude=[0, 1, 30, 60, 900])
    for name in {EMBEDDING, HEAD} & old.keys():
        trained = np.delete(old[name], left_out, axis=0).astype(np.float64).mean(axis=0)
        for id in rows:
            assert same_bits(new[name][id], trained.astype(np.float32).astype(old[name].dtype))
        kept = np.delete(np.arange(61), 59)
        assert same_bits(new[name][kept], old[name][kept])


def test_untrained_pieces_are_left_out_of_a_words_mean(tmp_path: Path) -> None:
    source = stored_llama(tmp_path / "model")
    old = tensors_of(source)[EMBEDDING]
    new = expanded(source, tmp_path / "new", {61: (4, 8, 9)}, exclude={8})[EMBEDDING]
    np.testing.assert_array_equal(new[61], old[[4, 9]].mean(axis=0))
    with pytest.raises(ModelError, match=r"new token 61: none of its old tokens \[8, 8\] was ever"):
        expanded(source, tmp_path / "none", {61: (8, 8)}, exclude={8})


def test_padding_is_taken_and_never_shrunk(tmp_path: Path) -> None:
    """Qwen's 151,936 rows for 151,665 tokens: the matrix stays, whatever becomes of its end."""
    source = stored_llama(tmp_path / "model", "BF16")
    old = tensors_of(source)[EMBEDDING]
    (tmp_path / "new").mkdir()
    report = add_rows(source, tmp_path / "new", {50: (1, 2), 51: (50, 3)}, init="subword")
    assert report == RowsReport(61, 61, 0, 2, True)
    new = tensors_of(tmp_path / "new")[EMBEDDING]
    others = np.delete(np.arange(61), [50, 51])
    assert same_bits(new[others], old[others])
    # A piece that is itself overwritten counts with its old value: old tokens spelled the word.
    mean = old[[50, 3]].astype(np.float32).mean(axis=0)
    assert same_bits(new[51], mean.astype(old.dtype))
    report = add_rows(source, tmp_path / "new", {60: (1,), 61: (2,)}, init="subword")
    assert report == RowsReport(61, 62, 1, 1, True)


@settings(max_examples=30)
@given(st.data())
def test_any_set_of_rows_on_any_matrix(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    source = stored_llama(
        tmp_path_factory.mktemp("any") / "model",
        data.draw(st.sampled_from(["F32", "BF16", "F16"])),
        tied=data.draw(st.booleans()),
        shards=data.draw(st.integers(1, 3)),
        layers=1,
    )
    old = tensors_of(source)
    inside = data.draw(st.sets(st.integers(0, 60), max_size=4))
    beyond = range(61, 61 + data.draw(st.integers(0, 40)))
    pieces = st.lists(st.integers(0, 60), min_size=1, max_size=5)
    rows = {id: data.draw(pieces) for id in (*beyond, *inside)}
    with pytest.MonkeyPatch.context() as patch:
        use_small_blocks(patch, data.draw(st.integers(1, 5000)))
        new = expanded(source, source.with_name("new"), rows)
    for name in {EMBEDDING, HEAD} & old.keys():
        kept = np.delete(np.arange(61), sorted(inside))
        assert same_bits(new[name][kept], old[name][kept])
        assert len(new[name]) == 61 + len(beyond)
        for id, spelled in rows.items():
            mean = old[name][spelled].astype(np.float32).mean(axis=0)
            assert same_bits(new[name][id], mean.astype(old[name].dtype))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({62: (1,)}, "row 61 would belong to no token"),
        ({61: (1,), 63: (1,)}, "new token 63: row 62 would belong to no token"),
        ({-1: (1,)}, "new token -1: expected an id from 0"),
        ({61: ()}, "new token 61: no old tokens to take the mean of"),
        ({61: (1, 61)}, "made of old token 61, but the matrix has 61 rows"),
        ({61: (-1,)}, "made of old token -1"),
    ],
)
def test_rows_that_cannot_be_made_are_refused(
    tmp_path: Path, rows: dict[int, tuple[int, ...]], message: str
) -> None:
    source = stored_llama(tmp_path / "model")
    (tmp_path / "new").mkdir()
    with pytest.raises(ModelError, match=message):
        add_rows(source, tmp_path / "new", rows, init="subword")
    assert not list((tmp_path / "new").iterdir())


def test_models_that_do_not_hang_together_are_refused(tmp_path: Path) -> None:
    source = stored_llama(tmp_path / "model", tied=False)
    tensors = tensors_of(source)
    with pytest.raises(ModelError, match="no trained row is left"):
        expanded(source, tmp_path / "new", {61: ()}, init="mean", exclude=range(61))
    edit_config(source, vocab_size=64)
    with pytest.raises(
        ModelError, match=r"has shape \(61, 32\), but by config.json it is \(64, 32\)"
    ):
        expanded(source, tmp_path / "new", {61: (1,)})
    edit_config(source, vocab_size=61)
    store(source, tensors | {"lm_head.bias": np.zeros(61, np.float32)})
    with pytest.raises(ModelError, match=r"has a bias \(lm_head.bias\)"):
        expanded(source, tmp_path / "new", {61: (1,)})
    edit_config(source, quantization={"group_size": 64, "bits": 4})
    with pytest.raises(ModelError, match="mlx 4-bit; rows can only be changed in the full-"):
        expanded(source, tmp_path / "new", {61: (1,)})


def test_a_tied_head_that_is_stored_as_well_grows_with_the_embedding(tmp_path: Path) -> None:
    source = stored_llama(tmp_path / "model")
    tensors = tensors_of(source)
    store(source, tensors | {HEAD: tensors[EMBEDDING]})
    new = expanded(source, tmp_path / "new", {61: (1, 2)})
    assert HEAD not in new
    assert len(new[EMBEDDING]) == 62


@pytest.mark.parametrize("tied", [True, False])
def test_both_libraries_load_it_and_old_tokens_are_judged_as_before(
    tmp_path: Path, tied: bool
) -> None:
    source = stored_llama(tmp_path / "model", tied=tied, scale=6)
    new = expanded(source, tmp_path / "new", {61: (5, 9), 62: (7,)})
    head = new[EMBEDDING if tied else HEAD]
    for library in (_with_transformers, _with_mlx_lm):
        before, after = library(source), library(tmp_path / "new")
        assert after.shape == (1, 8, 63)
        np.testing.assert_allclose(after[..., :61], before, atol=2e-5)
        # A logit is linear in its row, so a mean of rows has the mean of their logits.
        np.testing.assert_allclose(after[..., 61], before[..., [5, 9]].mean(axis=-1), atol=2e-5)
        np.testing.assert_allclose(after[..., 62], before[..., 7], atol=2e-5)
    assert len(head) == 63


def _with_transformers(path: Path) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(TOKENS)).logits.numpy()


def _with_mlx_lm(path: Path) -> np.ndarray:
    import speakeasy_mlx  # noqa: F401  (loads OpenBLAS first where there is one)
    import mlx.core as mx  # isort: skip
    from mlx_lm.utils import load_model

    model, _ = load_model(path)
    return np.array(model(mx.array(TOKENS.astype(np.int32))))


# --- replacing -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_replaced_rows_are_cast_and_all_else_keeps_its_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    use_small_blocks(monkeypatch)
    source = stored_llama(tmp_path / "model", dtype, tied=False, shards=2)
    old = tensors_of(source)
    values = np.random.default_rng(1).standard_normal((3, 32)).astype(np.float32)
    tables = {
        EMBEDDING: (np.array([60, 2, 31]), values),
        HEAD: (np.array([7, 8]), -values[:2]),
        "model.layers.1.mlp.up_proj.weight": (np.array([], np.int64), values[:0]),
    }
    (tmp_path / "new").mkdir()
    replace_rows(source, tmp_path / "new", tables)
    new = tensors_of(tmp_path / "new")
    for name, tensor in old.items():
        expected = tensor.copy()
        if name in tables:
            ids, rows = tables[name]
            expected[ids] = rows.astype(tensor.dtype)
        assert same_bits(new[name], expected)
    assert config_of(tmp_path / "new")["vocab_size"] == VOCABULARY


@pytest.mark.parametrize(
    ("name", "ids", "shape", "message"),
    [
        (HEAD, [1], (1, 32), "no tensor 'lm_head.weight'"),
        (EMBEDDING, [61], (1, 32), "id 61 is outside the model's 61 rows"),
        (EMBEDDING, [3, -1], (2, 32), "id -1 is outside"),
        (EMBEDDING, [3, 4, 3], (3, 32), "id 3 occurs twice"),
        (EMBEDDING, [3, 4], (3, 32), r"expected whole numbers \(n,\) and \(n, 32\)"),
        (EMBEDDING, [3], (1, 31), r"values \(1, 31\)"),
        (EMBEDDING, [3.0], (1, 32), "ids float64"),
    ],
)
def test_tables_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, ids: list[float], shape: tuple[int, int], message: str
) -> None:
    source = stored_llama(tmp_path / "model")
    (tmp_path / "new").mkdir()
    with pytest.raises(ModelError, match=message):
        replace_rows(source, tmp_path / "new", {name: (np.array(ids), np.ones(shape, np.float32))})
    rows = (np.array([1]), np.full((1, 32), np.nan, np.float32))
    with pytest.raises(ModelError, match="NaN or infinity"):
        replace_rows(source, tmp_path / "new", {EMBEDDING: rows})


# --- memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["subword", "mean"])
def test_memory_is_that_of_a_few_blocks_and_not_of_a_tensor(tmp_path: Path, init: str) -> None:
    """The embedding is 134 MB; the pass may take less than half of that above its beginning."""
    source = stored_llama(
        tmp_path / "model", "BF16", vocab_size=65_536, hidden=1024, layers=1, heads=8, kv_heads=8
    )
    program = (
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from speakeasy.training.memory import peak_process_bytes\n"
        "from speakeasy.weights.rows import add_rows\n"
        "rows = {65536 + i: (i, i + 1, i + 2) for i in range(3000)}\n"
        f"source, target = Path({str(source)!r}), Path({str(tmp_path / 'new')!r})\n"
        "target.mkdir()\n"
        "before = peak_process_bytes()\n"
        f"add_rows(source, target, rows, init={init!r}, exclude=range(60000, 60100))\n"
        "print(peak_process_bytes() - before)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    )
    assert int(done.stdout) < 64 * 2**20
