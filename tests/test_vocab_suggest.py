"""Suggestions: held-out text becomes as short as promised when it is really encoded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from tokenizers_fixture import STARTER, real_tokenizer
from vocabularies import byte_level, sentencepiece
from wordfreq import word_frequency

from speakeasy.errors import DataError
from speakeasy.vocab.expand import Expansion, plan_for
from speakeasy.vocab.families import Source, read_source
from speakeasy.vocab.material import Part, answers, documents, starter_material
from speakeasy.vocab.suggest import (
    CURVE,
    SMOOTHING,
    Counts,
    Suggestions,
    count_parts,
    suggest,
    tagged,
)
from speakeasy.vocab.verify import examine, require_no_harm

MAKE = {"byte-level": byte_level, "sentencepiece": sentencepiece}


@cache
def source(name: str) -> Source:
    if name in MAKE:
        return read_source(MAKE[name](Path(mkdtemp())))
    return read_source(Path(real_tokenizer(name).name_or_path))


@cache
def starter_answers() -> list[Part]:
    return answers(starter_material(), 0.1, seed=0)


@cache
def starter_counts(name: str) -> Counts:
    texts = documents(starter_material(), 0.1, seed=0)
    return count_parts(source(name), tagged(starter_answers(), texts))


def held_out() -> list[str]:
    return [part.text for part in starter_answers() if part.held_out]


def encoded(plan: Expansion, texts: Sequence[str]) -> tuple[int, int]:
    """Tokens before and after."""
    before, after = (
        sum(len(item.ids) for item in tokenizer.encode_batch(texts, add_special_tokens=False))
        for tokenizer in (plan.old, plan.new)
    )
    return before, after


def parts(*texts: str, held_out: bool = False) -> list[Part]:
    return [Part(text, held_out) for text in texts]


def small(name: str, *texts: str, **options: object) -> Suggestions:
    counts = count_parts(source(name), tagged(parts(*texts), ()))
    return suggest(source(name), counts, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", MAKE)
def test_held_out_text_becomes_as_short_as_promised(family: str) -> None:
    found = suggest(source(family), starter_counts(family), entries=200)
    assert len(found.entries) == 200
    for number in (24, 100, 200):
        plan = plan_for(source(family), [item.form for item in found.entries[:number]])
        assert len(plan.added) == number
        before, after = encoded(plan, held_out())
        assert before == found.held_out_tokens["answers"]
        promised = found.curve[number]["answers"]
        assert found.entries[number - 1].held_out["answers"] == promised
        if family == "byte-level":
            assert (before - after) / before == pytest.approx(promised, abs=1e-12)
        else:
            # This tokenizer has many pieces that reach over the end of a word, such as "a.".
            assert 0.6 * promised < (before - after) / before <= promised


def test_one_sort_is_what_a_greedy_search_finds() -> None:
    """Take the entry that saves most when all is really encoded, again and again."""
    texts = [part.text for part in starter_answers() if not part.held_out][:40]
    found = small("byte-level", *texts, entries=4)
    chosen: list[str] = []
    rivals = [item.form for item in small("byte-level", *texts, entries=25).entries]
    for item in found.entries:
        now = {
            form: encoded(plan_for(source("byte-level"), [*chosen, form], mode="vocab"), texts)[1]
            for form in rivals
            if form not in chosen
        }
        best = min(now.values())
        assert now[item.form] == best
        chosen.append(item.form)
    assert [item.saves for item in found.entries] == sorted(
        (item.saves for item in found.entries), reverse=True
    )


def test_what_an_entry_says_of_itself() -> None:
    found = small("byte-level", "avi homenatge homenatge", "homenatge\n\nxafogor homenatge")
    (entry,) = (item for item in found.entries if item.form == " homenatge")
    pieces = len(source("byte-level").tokenizer.encode(" homenatge").ids)
    assert (entry.count, entry.pieces, entry.saves) == (3, pieces, 3 * (pieces - 1))
    assert found.held_out_tokens == entry.held_out == {}


def test_rare_forms_layout_and_single_tokens_are_left_out() -> None:
    text = "homenatge ".join(["", "", "", ""]) + "\n\n\n\n xafogor a a a"
    forms = [item.form for item in small("byte-level", text, min_count=2).entries]
    assert " homenatge" in forms
    assert " xafogor" not in forms
    assert " a" not in forms
    assert all(form.strip() and "\n" not in form for form in forms)
    assert " xafogor" in [item.form for item in small("byte-level", text, min_count=1).entries]
    with pytest.raises(DataError, match="no form of 2 tokens or more occurs 9 times"):
        small("byte-level", text, min_count=9)


def test_distinctive_words_come_before_common_ones() -> None:
    text = " ".join([" también"] * 60 + [" xafogor"] * 20 + [" de"] * 20)
    plain = small("byte-level", text)
    marked = small("byte-level", text, distinctive=True)
    assert plain.entries[0].form == " también"
    assert marked.entries[0].form == " xafogor"
    assert all(item.times_spanish is None for item in plain.entries)
    xafogor = marked.entries[0]
    general = word_frequency("xafogor", "es")
    assert xafogor.times_spanish == pytest.approx((0.2 + SMOOTHING) / (general + SMOOTHING))


def test_words_that_spanish_has_more_often_are_no_marks() -> None:
    text = " ".join(["también"] * 3 + [f"xafogor{letter}" for letter in "abcdefghij"] * 300)
    forms = [item.form for item in small("byte-level", text, distinctive=True).entries]
    assert " también" not in forms
    assert " xafogora" in forms


def test_the_curve_ends_where_the_candidates_do() -> None:
    counts = count_parts(
        source("byte-level"),
        tagged(parts("homenatge " * 3 + "xafogor " * 3), parts(" homenatge", held_out=True)),
    )
    found = suggest(source("byte-level"), counts, entries=1000)
    assert list(found.curve) == [len(found.entries)]
    assert set(found.held_out_tokens) == {"texts"}
    assert 0 < found.curve[len(found.entries)]["texts"] < 1
    assert min(CURVE) > len(found.entries)


@pytest.mark.parametrize("least", [2, 3, 4])
def test_forms_of_few_tokens_can_be_left_out(least: int) -> None:
    counts = starter_counts("byte-level")
    everything = suggest(source("byte-level"), counts, entries=4000).entries
    found = suggest(source("byte-level"), counts, entries=100, min_tokens=least).entries
    assert len(found) == 100
    fit = [item.form for item in everything if item.pieces >= least]
    assert [item.form for item in found] == fit[:100]


def test_progress_counts_bytes() -> None:
    told: list[int] = []
    counts = count_parts(source("byte-level"), tagged(parts("àvia"), parts("nen")), told.append)
    assert told == [5, 3]
    assert counts.bytes == 8


@pytest.mark.network
@pytest.mark.parametrize(("name", "least"), [(STARTER, 0.23), ("llama3_1", 0.12)])
def test_two_thousand_entries_save_what_was_promised_and_do_no_harm(
    name: str, least: float
) -> None:
    found = suggest(source(name), starter_counts(name), entries=2000)
    plan = plan_for(source(name), [item.form for item in found.entries])
    assert len(plan.added) == 2000
    before, after = encoded(plan, held_out())
    assert before == found.held_out_tokens["answers"]
    assert (before - after) / before == pytest.approx(found.curve[2000]["answers"], abs=1e-12)
    assert (before - after) / before >= least
    evidence = examine(plan)
    require_no_harm(evidence)
    assert evidence.words.collateral == evidence.sentences.collateral == []
    assert len(evidence.words.touched) > 1000
