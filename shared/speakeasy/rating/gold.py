"""Gold items: pairs of which the better answer is known, to see who reads what they judge.

A conversation's own answer stands against the same words in another order. Whoever reads both
does not take the second for Spanish, or any other language.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from speakeasy.data.chat import Conversation, Turn
from speakeasy.rating.checks import folded

_WORDS = (8, 50)
"""Words of an answer that will do."""


def gold_pairs(
    conversations: Iterable[Conversation],
    count: int,
    generator: np.random.Generator,
    taken: Sequence[str] = (),
) -> list[tuple[str, str, str]]:
    """Prompt, good answer and scrambled answer of up to ``count`` gold items.

    Args:
        taken: prompts of the study, which are not used again.
    """
    seen = {folded(prompt) for prompt in taken}
    fit = []
    for conversation in conversations:
        prompt, answer = (turn.content for turn in _spoken(conversation)[:2])
        if _WORDS[0] <= len(answer.split()) <= _WORDS[1] and folded(prompt) not in seen:
            fit.append((prompt, answer))
    chosen = generator.permutation(len(fit))[:count]
    return [(*fit[number], scrambled(fit[number][1], generator)) for number in chosen]


def scrambled(text: str, generator: np.random.Generator) -> str:
    """The words of a text in another order, and in lower case: no capital tells where it began."""
    words = text.lower().split()
    for _ in range(20):
        order = generator.permutation(len(words))
        stay = sum(int(b) - int(a) == 1 for a, b in pairwise(order))
        if stay <= len(words) // 5:
            break
    return " ".join(words[number] for number in order)


def _spoken(conversation: Conversation) -> list[Turn]:
    """The turns of user and assistant."""
    return [turn for turn in conversation.turns if turn.role != "system"]
