"""Documents cut into pieces: nothing lost, nothing scored twice, whatever the row's length."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from speakeasy.batches.pieces import Cutter, Joined, Pieces, item_lengths, start_token, write
from speakeasy.errors import ModelError

TEXTS = st.lists(st.text(st.sampled_from("ab nçé😀.\n<|im_end>"), max_size=60), max_size=6)


@given(texts=TEXTS, row_length=st.integers(2, 40))
def test_pieces_hold_every_token_once(texts: list[str], row_length: int) -> None:
    tokenizer = tiny_tokenizer()
    cut = list(Cutter(tokenizer, row_length).cut(texts))
    assert len(cut) == len(texts)
    for text, pieces in zip(texts, cut, strict=True):
        if not text.strip():
            assert pieces == []
            continue
        scored = [token for ids, _, _ in pieces for token in ids[1:]]
        assert tokenizer.decode(scored, clean_up_tokenization_spaces=False) == text
        assert sum(size for _, size, _ in pieces) == len(text.encode())
        assert all(2 <= len(ids) <= row_length for ids, _, _ in pieces)
        for (before, _, _), (after, _, _) in pairwise(pieces):
            assert after[0] == before[-1], "the context of a piece is the end of the one before"
        if pieces:
            assert pieces[0][0][0] == start_token(tokenizer)
            assert not set(scored) & {0, 1, 2}, "control tokens in a text are text"


def test_words_are_counted_once() -> None:
    ((only,),) = Cutter(tiny_tokenizer(), 400).cut(["una àvia  i\nun avi"])
    assert only[2] == 5


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = [
        piece
        for pieces in Cutter(tiny_tokenizer(), 8).cut(["bon dia, nen"] * 3)
        for piece in pieces
    ]
    found = write(tmp_path, made)
    assert len(found) == len(made)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pieces.npy", "tokens.npy"]
    for item, (ids, size, words) in zip(Pieces.open(tmp_path), made, strict=True):
        assert item.tokens_T.tolist() == ids
        assert item.is_target_T.tolist() == [False] + [True] * (len(ids) - 1)
        assert (item.target_bytes, item.target_words) == (size, words)
    assert found.lengths.tolist() == [len(ids) for ids, _, _ in made]
    assert found.targets == sum(len(ids) - 1 for ids, _, _ in made)
    np.testing.assert_array_equal(
        np.load(tmp_path / "tokens.npy"), np.concatenate([m[0] for m in made])
    )


def test_sequences_can_be_joined_and_chosen_from(tmp_path: Path) -> None:
    first = write(tmp_path, [([1, 2], 1, 1), ([1, 3, 4], 2, 1)])
    second = first.take(np.array([1]))
    both = Joined(first, second)
    assert [item.tokens_T.tolist() for item in both] == [[1, 2], [1, 3, 4], [1, 3, 4]]
    assert both[-1].tokens_T.tolist() == [1, 3, 4]
    assert item_lengths(both) == [2, 3, 3] == item_lengths(list(both))
    assert item_lengths(first[1:]) == [3]
    assert [item.tokens_T.size for item in both[:2]] == [2, 3]
    with pytest.raises(IndexError):
        both[3]


def test_nothing_can_be_written(tmp_path: Path) -> None:
    assert len(write(tmp_path, [])) == 0


def test_a_tokenizer_without_ends_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    assert start_token(tokenizer) == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    bare = tiny_tokenizer()
    bare.eos_token = None
    vocabulary = bare.get_vocab()
    del vocabulary["<|endoftext|>"]
    bare.get_vocab = lambda: vocabulary
    with pytest.raises(ModelError, match="no document could begin"):
        start_token(bare)
