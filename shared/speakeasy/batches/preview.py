"""One rendered conversation for the eye: what is trained on and what is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from speakeasy.batches.types import Rendered

if TYPE_CHECKING:
    from rich.text import Text
    from transformers import PreTrainedTokenizerBase

OPEN, CLOSE = "⟦", "⟧"
"""Stand around targets, so that they are seen without colour and in a copied text."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A longest run of tokens that are all targets or all not.

    Attributes:
        text: the tokens decoded, special tokens written out.
        is_target: True where the model is trained to write this text.
        tokens: how many tokens the run has.
    """

    text: str
    is_target: bool
    tokens: int


def pieces(tokenizer: PreTrainedTokenizerBase, item: Rendered) -> list[Piece]:
    """The runs of a conversation, left to right; their texts make up the whole text.

    A character whose bytes lie in several tokens is never torn: runs are decoded as growing
    prefixes, and what a prefix adds to the one before is its last run's text.
    """
    mask_T = item.is_target_T
    stops = [*(np.flatnonzero(mask_T[1:] != mask_T[:-1]) + 1).tolist(), mask_T.size]
    runs, start, seen = [], 0, 0
    for stop in stops:
        text = tokenizer.decode(
            item.tokens_T[:stop].tolist(),
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        runs.append(Piece(text[seen:], bool(mask_T[start]), stop - start))
        start, seen = stop, len(text)
    return runs


def to_text(runs: list[Piece]) -> Text:
    """Rich text of the runs: targets green, underlined and in white square brackets."""
    from rich.text import Text

    text = Text()
    for run in runs:
        if run.is_target:
            text.append(OPEN, style="green")
            text.append(run.text, style="green underline")
            text.append(CLOSE, style="green")
        else:
            text.append(run.text, style="dim")
    return text
