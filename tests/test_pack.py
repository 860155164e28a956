from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_fixture import STARTER, real_tokenizer

from speakeasy.batches.pack import build_batch, fill_ratio, pack
from speakeasy.batches.render import render_all
from speakeasy.batches.types import IGNORED, Rendered
from speakeasy.data.dataset import starter_conversations

ROW = 32
lengths_strategy = st.lists(st.integers(1, ROW), max_size=80)
seeds = st.integers(0, 2**32 - 1)


def make_item(length: int, seed: int) -> Rendered:
    generator = np.random.default_rng(seed)
    is_target_T = generator.random(length) < 0.5
    is_target_T[0] = False
    tokens_T = generator.integers(1, 1000, length, dtype=np.int32)
    return Rendered(tokens_T, is_target_T, target_bytes=0, target_words=0)


@given(lengths_strategy, seeds)
def test_every_item_once_and_no_row_too_long(lengths: list[int], seed: int) -> None:
    rows = pack(lengths, ROW, seed)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[item] for item in row) <= ROW for row in rows)


@given(lengths_strategy, seeds)
def test_it_is_first_fit_decreasing(lengths: list[int], seed: int) -> None:
    """The same number of rows, filled alike, as the textbook's quadratic algorithm gives."""
    expected: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row, used in enumerate(expected) if used + length <= ROW]
        if fitting:
            expected[fitting[0]] += length
        else:
            expected.append(length)
    filled = [sum(lengths[item] for item in row) for row in pack(lengths, ROW, seed)]
    assert sorted(filled) == sorted(expected)


@given(lengths_strategy, seeds)
def test_the_same_seed_gives_the_same_rows(lengths: list[int], seed: int) -> None:
    assert pack(lengths, ROW, seed) == pack(lengths, ROW, seed)


def test_another_seed_gives_other_rows_of_the_same_fill() -> None:
    lengths = [1 + i % 20 for i in range(200)]
    one, other = pack(lengths, ROW, 1), pack(lengths, ROW, 2)
    assert one != other
    assert {frozenset(row) for row in one} != {frozenset(row) for row in other}
    assert fill_ratio(lengths, one, ROW) == fill_ratio(lengths, other, ROW)


@pytest.mark.parametrize("length", [0, ROW + 1])
def test_an_item_that_fits_no_row_is_named(length: int) -> None:
    with pytest.raises(ValueError, match=f"item 1 has {length} tokens; expected 1 to {ROW}"):
        pack([3, length], ROW, 0)


def test_nothing_packs_to_nothing() -> None:
    assert pack([], ROW, 0) == []
    assert fill_ratio([], [], ROW) == 1.0
    assert build_batch([], [], ROW).tokens_BT.shape == (0, ROW)


@given(lengths_strategy, seeds)
def test_labels_are_the_next_targets_of_the_same_conversation(
    lengths: list[int], seed: int
) -> None:
    items = [make_item(length, seed + i) for i, length in enumerate(lengths)]
    batch = build_batch(items, pack(lengths, ROW, seed), ROW)
    for b, t in np.argwhere(batch.labels_BT != IGNORED):
        assert batch.labels_BT[b, t] == batch.tokens_BT[b, t + 1]
        assert batch.segments_BT[b, t] == batch.segments_BT[b, t + 1] > 0
    assert batch.target_count == sum(int(item.is_target_T.sum()) for item in items)
    assert batch.token_count == sum(lengths)


@given(lengths_strategy, seeds)
def test_a_batch_holds_every_conversation_as_it_is(lengths: list[int], seed: int) -> None:
    items = [make_item(length, seed + i) for i, length in enumerate(lengths)]
    batch = build_batch(items, pack(lengths, ROW, seed), ROW)
    for index, item in enumerate(items):
        here = batch.items_BT == index
        np.testing.assert_array_equal(batch.tokens_BT[here], item.tokens_T)
        np.testing.assert_array_equal(batch.positions_BT[here], np.arange(item.tokens_T.size))
        assert len(set(batch.segments_BT[here].tolist())) == 1
        labels = batch.labels_BT[here]
        np.testing.assert_array_equal(labels[:-1] != IGNORED, item.is_target_T[1:])
        assert labels[-1] == IGNORED
    padding = batch.items_BT == -1
    assert not batch.tokens_BT[padding].any()
    assert not batch.segments_BT[padding].any()
    assert (batch.labels_BT[padding] == IGNORED).all()
    assert {a.dtype for a in (batch.tokens_BT, batch.segments_BT, batch.labels_BT)} == {
        np.dtype(np.int32)
    }


def test_rows_that_hold_too_much_are_refused() -> None:
    with pytest.raises(ValueError, match="row 0 holds 40 tokens"):
        build_batch([make_item(20, 0), make_item(20, 1)], [[0, 1]], ROW)


@pytest.mark.network
def test_the_starter_data_fill_at_least_97_percent() -> None:
    items = render_all(real_tokenizer(STARTER), starter_conversations(), 1024).items
    lengths = [item.tokens_T.size for item in items]
    rows = pack(lengths, 1024, seed=1)
    assert fill_ratio(lengths, rows, 1024) >= 0.97
    batch = build_batch(items, rows, 1024)
    assert batch.token_count / batch.tokens_BT.size == fill_ratio(lengths, rows, 1024)
