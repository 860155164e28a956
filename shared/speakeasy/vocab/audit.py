"""What an expansion does to words, and what it would save on a user's own conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from speakeasy.data.chat import Conversation
from speakeasy.vocab.expand import Expansion
from speakeasy.vocab.progress import Bar, no_bar
from speakeasy.vocab.words import Word, positions

if TYPE_CHECKING:
    from tokenizers import Tokenizer

POSITIONS = ("bare", "after a space", "capitalized", "both")
"""Where a word may stand, in the order of ``words.positions``."""

WORTH_SAVING = 0.02
"""Share of the answers' tokens. New rows cost pre-training before they help; an expansion that
saves less cannot pay for it."""

_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class WordCost:
    """A word, and how many tokens it is in each of ``POSITIONS``, before and after."""

    word: Word
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Saving:
    """The answers of conversations, encoded before and after.

    Attributes:
        answers: how many.
        before: their tokens, without special ones.
        after: the same with the new entries.
        used: how often a new entry is used.
        entries_used: how many of the new entries are used at all.
    """

    answers: int
    before: int
    after: int
    used: int
    entries_used: int

    @property
    def share(self) -> float:
        """Share of the tokens that is saved."""
        return (self.before - self.after) / self.before if self.before else 0.0

    @property
    def is_worth_it(self) -> bool:
        """Whether the share is ``WORTH_SAVING`` or more."""
        return self.share >= WORTH_SAVING


def audit_words(words: Sequence[Word], plan: Expansion) -> list[WordCost]:
    """What each word costs, before and after an expansion."""
    texts = [text for word in words for text in positions(word.text)]
    before, after = (_lengths(tokenizer, texts) for tokenizer in (plan.old, plan.new))
    size = len(POSITIONS)
    return [
        WordCost(word, tuple(before[start : start + size]), tuple(after[start : start + size]))
        for word, start in zip(words, range(0, len(texts), size), strict=True)
    ]


def means(costs: Sequence[WordCost]) -> tuple[list[float], list[float]]:
    """Mean tokens a word in each of ``POSITIONS``, before and after; of one word at least."""
    before, after = (
        [sum(column) / len(costs) for column in zip(*table, strict=True)]
        for table in ([cost.before for cost in costs], [cost.after for cost in costs])
    )
    return before, after


def audit_answers(
    conversations: Sequence[Conversation], plan: Expansion, *, bar: Bar = no_bar
) -> Saving:
    """Encode the assistant's turns of conversations before and after an expansion."""
    texts = list(chain.from_iterable(item.answers for item in conversations))
    added = {token.id for token in plan.added}
    before = after = used = 0
    met: set[int] = set()
    with bar("encoding answers", len(texts)) as advance:
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            before += sum(_lengths(plan.old, chunk))
            for item in plan.new.encode_batch_fast(chunk, add_special_tokens=False):
                after += len(item.ids)
                new = [id for id in item.ids if id in added]
                used += len(new)
                met.update(new)
            advance(len(chunk))
    return Saving(len(texts), before, after, used, len(met))


def _lengths(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    encoded = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [len(item.ids) for item in encoded]
