"""What a data set holds, in figures, and whether it is as large as it should be."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from speakeasy.data.chat import Conversation
from speakeasy.data.duplicates import content_key, find_duplicates
from speakeasy.data.split import NO_STRATUM, stratum

GUIDE_CONVERSATIONS = (1_000, 10_000)
"""The size that the project's guide recommends for fine-tuning."""

COUNTED_FIELDS = ("domain", "kind", "register")
PERCENTILES = (0, 10, 50, 90, 99, 100)


@dataclass(frozen=True, slots=True)
class Status:
    """Figures of a data set.

    Attributes:
        conversations: how many there are.
        turns: messages of all of them, the system's too.
        words: white-space separated words of all messages.
        answer_words: those of the assistant's messages, which are what is learned.
        bytes: UTF-8 bytes of all messages.
        fields: for ``domain``, ``kind`` and ``register``, where they are used: value -> count.
        words_percentiles: percentile (0..100) -> words of a conversation, nearest rank.
        turns_percentiles: percentile (0..100) -> messages of a conversation, nearest rank.
        system_share: share of conversations (0..1) that begin with a system message.
        not_nfc: conversations with text that is not in Unicode form NFC.
        exact_duplicates: conversations that repeat another one.
        near_duplicates: further ones that could go, so that none is near another.
    """

    conversations: int
    turns: int
    words: int
    answer_words: int
    bytes: int
    fields: dict[str, dict[str, int]]
    words_percentiles: dict[int, int]
    turns_percentiles: dict[int, int]
    system_share: float
    not_nfc: int
    exact_duplicates: int
    near_duplicates: int

    @property
    def distinct(self) -> int:
        """Conversations left when duplicates, exact and near, are counted once."""
        return self.conversations - self.exact_duplicates - self.near_duplicates

    @property
    def verdict(self) -> str:
        """``too few``, ``enough`` or ``more than needed``, by the guide's sizes."""
        least, most = GUIDE_CONVERSATIONS
        if self.distinct < least:
            return "too few"
        return "enough" if self.distinct <= most else "more than needed"


def summarize(conversations: Sequence[Conversation]) -> Status:
    """Count everything; a data set without conversations has zeros."""
    words = [sum(len(turn.content.split()) for turn in item.turns) for item in conversations]
    turns = [len(item.turns) for item in conversations]
    repeats = len(conversations) - len({content_key(item) for item in conversations})
    surplus = sum(len(group.members) - 1 for group in find_duplicates(conversations))
    with_system = sum(item.turns[0].role == "system" for item in conversations)
    fields = {name: _count(conversations, name) for name in COUNTED_FIELDS}
    return Status(
        conversations=len(conversations),
        turns=sum(turns),
        words=sum(words),
        answer_words=sum(len(text.split()) for item in conversations for text in item.answers),
        bytes=sum(len(turn.content.encode()) for item in conversations for turn in item.turns),
        fields={name: counts for name, counts in fields.items() if counts},
        words_percentiles=_percentiles(words),
        turns_percentiles=_percentiles(turns),
        system_share=with_system / max(len(conversations), 1),
        not_nfc=sum(not item.is_nfc for item in conversations),
        exact_duplicates=repeats,
        near_duplicates=surplus - repeats,
    )


def _count(conversations: Sequence[Conversation], field: str) -> dict[str, int]:
    """Conversations by the field's value; empty when no conversation has the field."""
    values = [stratum(item, field) for item in conversations]
    if set(values) == {NO_STRATUM}:
        return {}
    return dict(Counter(values).most_common())


def _percentiles(values: Sequence[int]) -> dict[int, int]:
    """Nearest-rank percentiles: each is one of the values."""
    if not values:
        return dict.fromkeys(PERCENTILES, 0)
    ordered = sorted(values)
    ranks = {percent: max(math.ceil(percent / 100 * len(ordered)), 1) for percent in PERCENTILES}
    return {percent: ordered[rank - 1] for percent, rank in ranks.items()}
