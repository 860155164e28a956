"""Counting pre-tokens: as cutting whole texts does, and in bounded memory."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vocabularies import byte_level, sentencepiece

from speakeasy.data.dataset import starter_conversations
from speakeasy.vocab.families import Source, from_spec, pre_tokens, read_source
from speakeasy.vocab.mining import Tally, count_forms

MAKE = {"byte-level": byte_level, "sentencepiece": sentencepiece}
ANSWERS = [answer for item in starter_conversations()[:60] for answer in item.answers]


@cache
def source(family: str) -> Source:
    return read_source(MAKE[family](Path(mkdtemp())))


def encoded(family: str, texts: list[str]) -> int:
    batch = source(family).tokenizer.encode_batch(texts, add_special_tokens=False)
    return sum(len(item.ids) for item in batch)


pieces_of_text = st.sampled_from(
    [" ", "  ", "\n", "\n\n", "\t", "\u00a0", "nen", "Àvia", "'s", "¡", "1.50", "…", " l'avi", "😀"]
)
texts = st.lists(st.lists(pieces_of_text, max_size=12).map("".join), max_size=5)


@given(texts)
def test_counts_are_those_of_whole_texts(made: list[str]) -> None:
    tally = Tally(source("byte-level"))
    expected: Counter[str] = Counter()
    for text in made:
        tally.add(text)
        expected.update(pre_tokens(source("byte-level").tokenizer, text))
    assert tally.counts() == expected


@given(texts)
def test_the_fast_way_is_kept_for_a_usual_tokenizer(made: list[str]) -> None:
    tally = Tally(source("byte-level"))
    assert all(tally._try(text) for text in made)


@pytest.mark.parametrize("family", MAKE)
def test_tokens_are_what_the_tokenizer_makes_of_the_texts(family: str) -> None:
    tally = Tally(source(family), measured=True)
    for text in ANSWERS:
        tally.add(text)
    assert tally.tokens() == encoded(family, ANSWERS)


@pytest.mark.parametrize("family", MAKE)
def test_few_are_held_and_the_common_ones_among_them(family: str) -> None:
    whole = Tally(source(family), measured=True)
    small = Tally(source(family), most=200, measured=True)
    for text in ANSWERS:
        whole.add(text)
        small.add(text)
    assert len(small.counts()) <= 200 < len(whole.counts())
    assert small.given_up > 0
    assert whole.given_up == 0
    assert small.tokens() == whole.tokens()  # what was given up is in the sum
    for key, _ in whole.counts().most_common(20):
        # Some of its first occurrences may have been given up, never counted too often.
        assert 0.8 * whole.counts()[key] <= small.counts()[key] <= whole.counts()[key]


def test_a_tokenizer_that_cuts_across_spaces_is_asked_for_whole_texts() -> None:
    plain = source("byte-level")
    spec = json.loads(plain.tokenizer.to_str())
    phrase = {"Regex": "si us plau| ?\\p{L}+|\\s+"}
    spec["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": phrase, "behavior": "Isolated", "invert": False},
            {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "use_regex": False,
                "trim_offsets": True,
            },
        ],
    }
    tally = Tally(replace(plain, tokenizer=from_spec(spec)))
    for text in ["va (si us plau)", "apa"]:
        tally.add(text)
    assert tally.counts()["siĠusĠplau"] == 1


@pytest.mark.parametrize(
    ("family", "counts"),
    [
        ("byte-level", {"Ostras": 1, ",": 1, " nen": 2, " ¡": 1, "va": 1, "!": 1, " àvia": 1}),
        # The tokenizer puts a space before a text.
        ("sentencepiece", {" Ostras": 1, " nen": 2, "va": 1, " àvia": 1}),
    ],
)
def test_forms_are_text(family: str, counts: dict[str, int]) -> None:
    assert count_forms(source(family), ["Ostras, nen ¡va! àvia nen"]) == counts


def test_a_sum_that_was_not_measured_is_refused() -> None:
    with pytest.raises(AssertionError, match="measured=True"):
        Tally(source("sentencepiece")).tokens()
