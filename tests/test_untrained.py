from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from model_files import (
    EMBEDDING,
    HEAD,
    edit_config,
    store,
    stored_llama,
    tensors_of,
    use_small_blocks,
)

from speakeasy.errors import ModelError
from speakeasy.weights.hub import resolve_model
from speakeasy.weights.rows import add_rows
from speakeasy.weights.untrained import untrained_by_matrix, untrained_rows


def model(directory: Path, rows: dict[str, dict[int, np.ndarray]], dtype: str = "F32") -> Path:
    """A model with some rows of its matrices set; untied where the head is among them."""
    stored_llama(directory, dtype, tied=HEAD not in rows)
    tensors = tensors_of(directory)
    for name, values in rows.items():
        for id, row in values.items():
            tensors[name][id] = row
    store(directory, tensors)
    return directory


def drawn(seed: int, scale: float = 0.02) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(32)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_trained_matrix_has_none(tmp_path: Path, dtype: str, tied: bool) -> None:
    path = stored_llama(tmp_path / "model", dtype, tied=tied)
    assert untrained_rows(path).tolist() == []
    assert untrained_rows(path).dtype == np.int64


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_rows_that_vanish_as_llama_3s_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    use_small_blocks(monkeypatch)
    small = {7: np.zeros(32), 8: drawn(1, 1e-23), 40: -drawn(2, 1e-23), 41: drawn(3, 1e-4)}
    path = model(tmp_path / "model", {EMBEDDING: small}, dtype)
    assert untrained_rows(path).tolist() == [7, 8, 40]  # 41 is only small


def test_rows_that_many_share_and_rows_near_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_blocks(monkeypatch)
    shared, norm = drawn(1), np.linalg.norm(drawn(1))
    off = drawn(2) / np.linalg.norm(drawn(2)) * norm
    rows = {3: shared, 20: shared, 60: shared, 21: shared + 0.008 * off, 22: shared + 0.012 * off}
    path = model(tmp_path / "model", {EMBEDDING: rows})
    assert untrained_rows(path).tolist() == [3, 20, 21, 60]


def test_two_equal_rows_may_be_words_of_the_same_pieces(tmp_path: Path) -> None:
    path = stored_llama(tmp_path / "model")
    (tmp_path / "new").mkdir()
    add_rows(path, tmp_path / "new", {61: (4, 5), 62: (5, 4)}, init="subword")
    assert untrained_rows(tmp_path / "new").tolist() == []


def test_rows_that_were_all_given_the_matrix_mean(tmp_path: Path) -> None:
    path = stored_llama(tmp_path / "model", "BF16")
    (tmp_path / "new").mkdir()
    add_rows(path, tmp_path / "new", {61: (4,), 62: (5,), 63: (6,)}, init="mean")
    assert untrained_rows(tmp_path / "new").tolist() == [61, 62, 63]


def test_an_untied_model_is_judged_at_both_ends(tmp_path: Path) -> None:
    """Llama 3 base: chat tokens vanish at the input; unused outputs meet, the first token's too."""
    shared = drawn(1)
    rows = {
        EMBEDDING: {30: np.zeros(32), 31: drawn(5, 1e-23)},
        HEAD: {0: shared, 30: shared, 31: shared},
    }
    path = model(tmp_path / "model", rows, "BF16")
    found = untrained_by_matrix(path)
    assert {name: ids.tolist() for name, ids in found.items()} == {
        EMBEDDING: [30, 31],
        HEAD: [0, 30, 31],
    }
    assert untrained_rows(path).tolist() == [0, 30, 31]


def test_a_quantised_model_cannot_be_judged(tmp_path: Path) -> None:
    path = stored_llama(tmp_path / "model")
    edit_config(path, quantization={"group_size": 64, "bits": 4})
    with pytest.raises(ModelError, match="mlx 4-bit; its rows cannot be judged"):
        untrained_rows(path)


@pytest.mark.starter
def test_the_starter_model_has_its_reserved_rows_and_no_other() -> None:
    """Eleven of SmolLM2's 17 special tokens, and four words, have rows within 0.3% of one another.
    ``<|im_start|>`` and ``<|im_end|>``, which the model learned with its chat template, are 12%
    and 14% away from them."""
    from tokenizers import Tokenizer

    path = resolve_model("starter").path
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    assert [tokenizer.id_to_token(int(id)) for id in untrained_rows(path)] == [
        "<file_sep>",
        "<gh_stars>",
        "<issue_start>",
        "<issue_comment>",
        "<issue_closed>",
        "<jupyter_start>",
        "<jupyter_text>",
        "<jupyter_code>",
        "<jupyter_output>",
        "<jupyter_script>",
        "<empty_output>",
        "PlaneProtection",
        "ManagementPlaneProtection",
        "Ġtransistorsum",
        "ĠInstancePreprocess",
    ]
