"""Rows composed of their pieces' rows by what the vocabulary's own merges show."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_dtypes import bfloat16
from model_files import EMBEDDING, store, tensors_of
from tiny import save_tiny_tokenizer
from tiny_model import tiny_llama

from speakeasy.errors import ModelError
from speakeasy.weights import composed
from speakeasy.weights.composed import composed_rows, merge_examples, untouched
from speakeasy.weights.trained_rows import TrainedRows, read_from_model

SYLLABLES = [a + b for a, b in product("bcdfg", "aeiou")]
WORDS = [a + b for a, b in product(SYLLABLES, SYLLABLES)]
ENTRIES = [*SYLLABLES, *WORDS]
PAIRS = np.array(list(product(range(25), range(25))))
WIDTH = 8


def write_tokenizer(directory: Path, merges: list, kind: str = "BPE") -> None:
    model = {"type": kind, "vocab": {entry: id for id, entry in enumerate(ENTRIES)}}
    (directory / "tokenizer.json").write_text(json.dumps({"model": model | {"merges": merges}}))


def syllables(directory: Path, seed: int = 0) -> np.ndarray:
    """A model whose vocabulary is syllables and all words of two; returns its embedding matrix."""
    tiny_llama(
        directory, vocab_size=len(ENTRIES), hidden=WIDTH, intermediate=8, layers=1, seed=seed
    )
    write_tokenizer(directory, [[word[:2], word[2:]] for word in WORDS])
    return tensors_of(directory)[EMBEDDING]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("syllables")
    syllables(directory)
    return directory


def put(directory: Path, embedding: np.ndarray) -> None:
    store(directory, tensors_of(directory) | {EMBEDDING: embedding})


@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1e-3, 1.0, 30.0]))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_planted_linear_map_is_found(
    seed: int, size: float, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where wholes are a linear function of their parts, unseen ones are composed exactly."""
    generator = np.random.default_rng(seed)
    first, last = generator.standard_normal((2, WIDTH, WIDTH))
    constant = size * generator.standard_normal(WIDTH)
    rows = size * generator.standard_normal((len(ENTRIES), WIDTH))
    rows[25:] = rows[PAIRS[:, 0]] @ first + rows[PAIRS[:, 1]] @ last + constant
    unseen = np.sort(generator.choice(len(WORDS), 50, replace=False))
    planted = rows.astype(np.float32)
    planted[25 + unseen] = size * generator.standard_normal((50, WIDTH))
    put(model, planted)
    monkeypatch.setattr(composed, "RIDGE", 1e-9)
    found = composed_rows(model, PAIRS[unseen].tolist(), leave_out=(25 + unseen).tolist())
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, rows[25 + unseen], rtol=0, atol=2e-4 * size)


def test_it_is_ridge_regression_by_the_textbook(tmp_path: Path) -> None:
    """Against least squares with a penalty row a feature, in float64, on pieces of any number."""
    rows = syllables(tmp_path).astype(np.float64)

    def features(pieces: list[tuple[int, ...]]) -> np.ndarray:
        return np.array([[*rows[list(p)].mean(0), *rows[p[0]], *rows[p[-1]], 1.0] for p in pieces])

    known = features([tuple(pair) for pair in PAIRS.tolist()])
    size = np.square(known[:, :-1]).mean()
    penalty = np.sqrt(composed.RIDGE * size) * np.eye(known.shape[1])[:-1]
    whole = np.vstack([known, penalty])
    targets = np.vstack([rows[25:], np.zeros((len(penalty), WIDTH))])
    learned = np.linalg.lstsq(whole, targets, rcond=None)[0]
    asked = [(0, 1), (3,), (5, 600, 7), (1, 1, 1, 1)]
    found = composed_rows(tmp_path, asked)
    np.testing.assert_allclose(found, features(asked) @ learned, rtol=0, atol=1e-6)


def test_what_shows_nothing_composes_nothing(tmp_path: Path) -> None:
    syllables(tmp_path)
    for merges in ([], [["ba", "xx"]], [["b", "a"]]):
        write_tokenizer(tmp_path, merges)
        assert composed_rows(tmp_path, [(0, 1)]) is None
    unigram = {"type": "Unigram", "vocab": [["ba", -1.0]], "unk_id": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": unigram}))
    assert composed_rows(tmp_path, [(0, 1)]) is None
    (tmp_path / "tokenizer.json").unlink()
    assert composed_rows(tmp_path, [(0, 1)]) is None


def test_both_spellings_of_merges(tmp_path: Path) -> None:
    syllables(tmp_path)
    lists = merge_examples(tmp_path)
    assert len(lists) == len(WORDS)
    write_tokenizer(tmp_path, [f"{word[:2]} {word[2:]}" for word in WORDS])
    assert merge_examples(tmp_path) == lists
    write_tokenizer(tmp_path, ["ba"])
    with pytest.raises(ModelError, match="'ba' is no merge"):
        merge_examples(tmp_path)


def test_examples_of_a_real_tokenizer(tmp_path: Path) -> None:
    """Parts spell the whole; one level and two; only letters; nothing that is left out."""
    save_tiny_tokenizer(tmp_path)
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    entry = {id: text for text, id in vocabulary.items()}
    found = merge_examples(tmp_path)
    assert {len(parts) for _, parts in found} >= {2, 3, 4}
    for whole, parts in found:
        assert "".join(entry[part] for part in parts) == entry[whole]
        assert len(entry[whole]) >= 3
        assert entry[whole].lstrip("Ġ").isalpha()
    out = {found[0][0], found[3][1][0]}
    kept = merge_examples(tmp_path, out)
    assert kept == [(w, p) for w, p in found if not out & {w, *p}]
    assert len(kept) < len(found)


def test_rows_that_training_never_reached_teach_nothing(tmp_path: Path) -> None:
    rows = syllables(tmp_path)
    asked = [(0, 1), (2, 3)]
    dead = [30, 31, 32, 33]
    rows[dead] = rows[dead[0]]
    put(tmp_path, rows)
    found = composed_rows(tmp_path, asked)
    rows[dead] = 0
    put(tmp_path, rows)
    np.testing.assert_array_equal(composed_rows(tmp_path, asked), found)


def test_work_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer kinds of features for a wide model, a seeded sample of many examples."""
    syllables(tmp_path)
    everything = composed_rows(tmp_path, [(0, 1)])
    monkeypatch.setattr(composed, "_BLOCK_VALUES", 500)  # in many blocks
    np.testing.assert_allclose(composed_rows(tmp_path, [(0, 1)]), everything, rtol=0, atol=1e-7)
    monkeypatch.setattr(composed, "MOST_EXAMPLES", 100)
    sampled = composed_rows(tmp_path, [(0, 1)])
    assert (sampled != everything).any()
    np.testing.assert_array_equal(sampled, composed_rows(tmp_path, [(0, 1)]))
    assert (sampled != composed_rows(tmp_path, [(0, 1)], seed=1)).any()
    monkeypatch.setattr(composed, "MOST_FEATURES", 2)
    only_mean = composed_rows(tmp_path, [(0, 1), (1, 0)])
    np.testing.assert_array_equal(only_mean[0], only_mean[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, bfloat16])
def test_untouched_rows_are_told_from_trained_ones(tmp_path: Path, dtype: type) -> None:
    rows = syllables(tmp_path).astype(dtype)
    pieces = {id: (id - 400, id - 399, 3) for id in range(400, 410)}
    means = np.array([rows[list(p)].astype(np.float32).mean(0) for p in pieces.values()])
    rows[400:410] = means.astype(dtype)
    rows[407] += dtype(0.02) * rows[5]  # trained
    put(tmp_path, rows)
    read = read_from_model(tmp_path, range(398, 412))
    assert untouched(tmp_path, read, pieces) == [i for i in range(400, 410) if i != 407]
    assert untouched(tmp_path, read, {}) == []
    rows[400:410] = rows[0]  # as --init mean has it
    put(tmp_path, rows)
    assert untouched(tmp_path, read_from_model(tmp_path, range(400, 410)), pieces) == list(pieces)


def test_pieces_without_a_row_are_refused(model: Path) -> None:
    rows = TrainedRows(np.array([400]), np.zeros((1, WIDTH), np.float32), None)
    with pytest.raises(ModelError, match=r"made of token 9999, and .* only 650 rows"):
        untouched(model, rows, {400: (1, 9999)})
