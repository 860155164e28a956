"""What the batches package hands on.

Shape suffixes: B rows of a batch, T positions of a row, N targets, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from speakeasy.data.chat import Origin

IGNORED = -100
"""Label of a position that is no target (the convention of torch's cross_entropy)."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One conversation as tokens.

    Attributes:
        tokens_T: int32 token ids of the whole conversation, as the chat template has it.
        is_target_T: bool; True for the tokens of assistant turns and their end-of-turn token.
            The first token is never a target, since nothing predicts it.
        target_bytes: UTF-8 bytes of the answers that the targets spell (end-of-turn not counted).
        target_words: white-space separated words of the same answers.
        dropped_turns: oldest turns left out to fit the length limit.
        id: the conversation's id.
    """

    tokens_T: np.ndarray
    is_target_T: np.ndarray
    target_bytes: int
    target_words: int
    dropped_turns: int = 0
    id: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A conversation that cannot be trained on, and why.

    Attributes:
        id: the conversation's id.
        origin: its file and line; None for a conversation made in memory.
        reason: what is wrong with it, as the end of a sentence that begins with its origin.
    """

    id: str
    origin: Origin | None
    reason: str


@dataclass(frozen=True, slots=True)
class RenderedSet:
    """Every conversation of a data set, rendered or accounted for.

    Attributes:
        items: the rendered conversations, in the order given.
        rejected: the others, in the order given.
        shortened: how many of ``items`` lost their oldest turns to the length limit.
        dropped_turns: how many turns they lost together.
        tokens: tokens of all items.
        targets: target tokens of all items.
    """

    items: Sequence[Rendered]
    rejected: list[Rejected]
    shortened: int
    dropped_turns: int
    tokens: int
    targets: int


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Rows of whole conversations, packed to one fixed length.

    Attributes:
        tokens_BT: int32 ids; padding is 0 (never attended to, never a target).
        segments_BT: int32; 0 is padding, 1, 2, ... number the conversations of a row from left
            to right. A position attends to earlier positions of its own segment and to itself.
        labels_BT: int32; the token that follows within the same segment where that token is a
            target, else IGNORED. Already shifted: logits at t are scored against labels at t.
        items_BT: int32; index of the conversation in the list that was packed, -1 for padding.
    """

    tokens_BT: np.ndarray
    segments_BT: np.ndarray
    labels_BT: np.ndarray
    items_BT: np.ndarray

    @property
    def target_count(self) -> int:
        """Number of positions that are scored."""
        return int((self.labels_BT != IGNORED).sum())

    @property
    def token_count(self) -> int:
        """Number of real tokens, padding left out."""
        return int((self.segments_BT > 0).sum())

    @property
    def positions_BT(self) -> np.ndarray:
        """int32 position within the segment, from 0; padding counts as a segment of its own."""
        length = self.segments_BT.shape[1]
        index = np.arange(length, dtype=np.int32)
        starts = np.ones(self.segments_BT.shape, dtype=bool)
        starts[:, 1:] = self.segments_BT[:, 1:] != self.segments_BT[:, :-1]
        start_index = np.maximum.accumulate(np.where(starts, index, 0), axis=1)
        return (index - start_index).astype(np.int32)

    def rows(self, start: int, stop: int | None, step: int = 1) -> PackedBatch:
        """Rows ``start`` to ``stop``, or every ``step``-th, as a batch (views, no copies)."""
        part = slice(start, stop, step)
        return PackedBatch(
            self.tokens_BT[part], self.segments_BT[part], self.labels_BT[part], self.items_BT[part]
        )
