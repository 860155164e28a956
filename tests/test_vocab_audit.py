"""What words cost before and after, and whether an expansion is worth it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from vocabularies import byte_level

from speakeasy.data.chat import Conversation, Turn
from speakeasy.vocab.audit import WORTH_SAVING, Saving, audit_answers, audit_words, means
from speakeasy.vocab.expand import Expansion, plan_expansion
from speakeasy.vocab.words import forms_of, guide_words


@cache
def planned() -> Expansion:
    one, _ = forms_of(guide_words())
    return plan_expansion(byte_level(Path(mkdtemp())), one)


def say(*answers: str) -> Conversation:
    turns = (turn for text in answers for turn in (Turn("user", "ostras"), Turn("assistant", text)))
    return Conversation(tuple(turns))


def test_every_word_is_counted_in_four_places() -> None:
    words = guide_words()
    costs = audit_words(words, planned())
    assert [cost.word for cost in costs] == words
    for cost in costs:
        texts = [cost.word.text, f" {cost.word.text}", cost.word.text.capitalize()]
        texts.append(f" {texts[2]}")
        assert cost.before == tuple(len(planned().old.encode(text).ids) for text in texts)
        expected = (1, 1, 1, 1) if " " not in cost.word.text else cost.after
        assert cost.after == expected


def test_means_go_down_the_columns() -> None:
    costs = audit_words(guide_words(["family"]), planned())
    before, after = means(costs)
    assert after == [1.0] * 4
    assert before[1] == sum(cost.before[1] for cost in costs) / 4


def test_answers_alone_are_counted() -> None:
    plan = planned()
    conversations = [say("Ostras, nen", "homenaje"), say("nen va")]
    saving = audit_answers(conversations, plan)
    texts = ["Ostras, nen", "homenaje", "nen va"]
    assert saving.answers == 3
    assert saving.before == sum(len(plan.old.encode(text).ids) for text in texts)
    assert saving.after == sum(len(plan.new.encode(text).ids) for text in texts)
    added = {token.id for token in plan.added}
    uses = [id for text in texts for id in plan.new.encode(text).ids if id in added]
    assert (saving.used, saving.entries_used) == (len(uses), len(set(uses)))
    assert saving.share == pytest.approx(1 - saving.after / saving.before)


def test_the_verdict_turns_at_the_threshold() -> None:
    assert WORTH_SAVING == 0.02
    assert Saving(1, 1000, 980, 20, 1).is_worth_it
    assert not Saving(1, 1000, 981, 19, 1).is_worth_it
    assert Saving(0, 0, 0, 0, 0).share == 0.0


def test_progress_is_told_of_every_answer() -> None:
    from contextlib import contextmanager

    told: list[int] = []

    @contextmanager
    def bar(description: str, total: int):
        told.append(-total)
        yield told.append

    audit_answers([say("nen")] * 5, planned(), bar=bar)
    assert sum(told) == 0
    assert told[0] == -5
