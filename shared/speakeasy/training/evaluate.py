"""Loss on held-out conversations: the whole set, in the same order every time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from speakeasy.batches.pack import build_batch, pack
from speakeasy.batches.pieces import item_lengths
from speakeasy.batches.types import IGNORED, Rendered
from speakeasy.training.backend import Engine
from speakeasy.training.group import ALONE, Group, total


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """What a model makes of the held-out answers.

    Attributes:
        nats: loss of each conversation's targets, summed, in the order of the set.
        target_tokens, target_bytes, target_words: what they amount to in all.
    """

    nats: tuple[float, ...]
    target_tokens: int
    target_bytes: int
    target_words: int

    @property
    def loss(self) -> float:
        """Nats a target token. Not comparable between tokenizers."""
        return sum(self.nats) / self.target_tokens

    @property
    def bits_per_byte(self) -> float:
        """All targets' bits over the UTF-8 bytes of the answers.

        The end-of-turn token's loss counts, its spelling does not, so that figures agree
        between tokenizers (Gao et al. 2020, https://arxiv.org/abs/2101.00027, section 3.1).
        """
        return sum(self.nats) / math.log(2) / self.target_bytes

    @property
    def word_perplexity(self) -> float:
        """exp(nats a white-space separated word); infinite where that overflows, or without one."""
        if not self.target_words:
            return math.inf
        try:
            return math.exp(sum(self.nats) / self.target_words)
        except OverflowError:
            return math.inf


def held_out_loss(
    engine: Engine,
    items: Sequence[Rendered],
    row_length: int,
    *,
    rows_per_pass: int = 1,
    advance: Callable[[int], None] = lambda done: None,
    group: Group = ALONE,
) -> HeldOutLoss:
    """Score every target of ``items`` once.

    Args:
        advance: called with the number of conversations behind after each pass.
        group: processes that share the rows; all of them get the whole result.
    """
    rows = pack(item_lengths(items), row_length, seed=0)
    nats = np.zeros(len(items), dtype=np.float64)
    target_tokens = 0
    rows_at_once = rows_per_pass * engine.lanes * group.size
    for start in range(0, len(rows), rows_at_once):
        whole = build_batch(items, rows[start : start + rows_at_once], row_length)
        batch = whole.rows(group.rank, None, group.size)
        losses_BT = engine.token_losses(batch)
        scored_BT = batch.labels_BT != IGNORED
        np.add.at(nats, batch.items_BT[scored_BT], losses_BT[scored_BT].astype(np.float64))
        target_tokens += whole.target_count
        advance(sum(len(row) for row in rows[start : start + rows_at_once]))
    return HeldOutLoss(
        nats=tuple(total(group, nats).tolist()),
        target_tokens=target_tokens,
        target_bytes=sum(item.target_bytes for item in items),
        target_words=sum(item.target_words for item in items),
    )
