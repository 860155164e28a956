"""Repetition, loops and copying, on cases worked out by hand."""

from __future__ import annotations

import pytest

from speakeasy.evaluation.surface import (
    TRAINING,
    loops,
    ngrams,
    prompt_overlap,
    repetition,
    training_ngrams,
)
from speakeasy.evaluation.words import fold, located_words, sentences, words


def test_words_are_folded_and_keep_what_stands_inside_them() -> None:
    assert words("¡L’Àvia fa el col·legi, i em fem-la 2 cops!") == [
        "l'àvia", "fa", "el", "col·legi", "i", "em", "fem-la", "2", "cops",
    ]  # fmt: skip
    assert words("a\u0301") == ["á"]  # one letter, however it was written
    assert words("'avi' - _que_") == ["avi", "que"]
    assert words("¿…?") == []


def test_words_know_their_places() -> None:
    folded = fold("Sí, l’avi.")
    assert [folded[word.start : word.end] for word in located_words(folded)] == ["Sí", "l'avi"]


def test_sentences_end_at_marks_and_at_line_ends() -> None:
    assert sentences("Hola. ¿Qué tal? Pues 3.5 kilos…\nBien") == [
        "Hola.", "¿Qué tal?", "Pues 3.5 kilos…", "Bien",
    ]  # fmt: skip
    assert sentences(" \n ") == []


def test_ngrams_are_all_runs() -> None:
    assert list(ngrams(["a", "b", "c", "d"], 3)) == [("a", "b", "c"), ("b", "c", "d")]
    assert list(ngrams(["a"], 2)) == []


@pytest.mark.parametrize(
    ("text", "share"),
    [
        # abcd bcde cdea deab eabc abcd: 6 runs, 5 of them different
        ("a b c d e a b c d", 1 / 6),
        ("a b c d e f", 0),
        # aaaa three times, one of them different
        ("a a a a a a", 2 / 3),
        ("a b c", 0),
        ("", 0),
    ],
)
def test_repetition_is_the_share_of_4grams_that_came_before(text: str, share: float) -> None:
    assert repetition(text.split()) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "looping"),
    [
        ("bueno pues a b c a b c a b c", True),  # 3 words, 3 rounds: 9 words
        ("bueno pues a b c a b c a b c a b c", True),
        ("a b c a b c a b c y ya", False),  # not at the end
        ("a b c a b c", False),  # two rounds
        ("no no no", False),  # 3 words: so people talk
        ("no no no no no no no no", True),  # 8 words
        ("a b a b a b", False),  # 6 words
        ("a b a b a b a b", True),
        ("a b c a b c a b c a b", True),  # a round cut off: b c a, b c a ... rotated
        ("otra a b c a b c a b ca", False),  # only two whole rounds before the cut
        ("otra a b c a b c a b c al", True),  # the last word cut off
        ("", False),
    ],
)
def test_loops_are_cycles_at_the_end(text: str, looping: bool) -> None:
    assert loops(text.split()) is looping


@pytest.mark.parametrize(
    ("answer", "prompt", "share"),
    [
        # "qué haces este finde" are four words of the prompt; "nada" is the fifth
        ("qué haces este finde nada", "hola nen qué haces este finde", 4 / 5),
        # runs of three do not count
        ("qué haces este martes", "hola nen qué haces este finde", 0),
        # runs overlap: a b c d and b c d e make five words, of seven
        ("a b c d e x y", "a b c d e", 5 / 7),
        ("hola nen", "hola nen qué", 1),  # shorter than four: as a whole
        ("hola", "hola", 1),
        ("nen hola", "hola nen qué", 0),
        ("a b c d", "a b c", 0),
        ("", "a", 0),
    ],
)
def test_prompt_overlap(answer: str, prompt: str, share: float) -> None:
    assert prompt_overlap(answer.split(), prompt.split()) == pytest.approx(share)


def test_training_ngrams_are_those_that_both_have() -> None:
    text = [f"w{number}" for number in range(20)]
    answer = " ".join([*text[2:16], "otra"])  # 14 words of it: two 13-grams; a third with "otra"
    training = ["W1, w2", " ".join(text).upper(), "otra cosa"]
    assert training_ngrams([answer], training) == {tuple(text[2:15]), tuple(text[3:16])}
    assert training_ngrams([answer], []) == frozenset()
    # A 13-gram at the very end of the training text, and one of exactly its length.
    assert training_ngrams([" ".join(text[7:])], [" ".join(text)]) == {tuple(text[7:])}
    assert training_ngrams([" ".join(text[:TRAINING])], [" ".join(text[:TRAINING])])
    assert not training_ngrams([" ".join(text[: TRAINING - 1])], [" ".join(text)])
