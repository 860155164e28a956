"""Nats of every text of a set, whole, through the engine that is loaded already."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from speakeasy.batches.pieces import Cutter
from speakeasy.batches.render import render_all
from speakeasy.batches.types import Rendered
from speakeasy.data.chat import Conversation
from speakeasy.errors import SpeakeasyError
from speakeasy.evaluation.result import Score
from speakeasy.evaluation.sets import TextSet
from speakeasy.training.evaluate import HeldOutLoss, held_out_loss
from speakeasy.training.inference import Responder
from speakeasy.vocab.progress import Bar, no_bar

LONGEST = 2048
"""Tokens of the longest conversation, and of the longest piece of a document, that is scored at
once, where the model's context is not shorter."""
ROW = 1024
"""Tokens of a packed row, or as many as the longest item has: on a CPU, products of a few hundred
rows run at about three quarters of the rate of a thousand, and attention sees one item at a
time."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What a model made of a set.

    Attributes:
        scores: one an item, in order; of the items that the tokenizer's template can take.
        longest: tokens of the longest item that could be scored whole.
        shortened: conversations that lost their oldest turns to ``longest``.
        rejected: conversations that could not be scored at all.
    """

    scores: tuple[Score, ...]
    longest: int
    shortened: int
    rejected: int

    @property
    def whole(self) -> HeldOutLoss:
        """All of them together, with the figures that training logs, too."""
        return total(self.scores)


def total(scores: Sequence[Score]) -> HeldOutLoss:
    """Scores together: loss, bits per byte and word perplexity by their one definition."""
    return HeldOutLoss(
        nats=tuple(score.nats for score in scores),
        target_tokens=sum(score.tokens for score in scores),
        target_bytes=sum(score.bytes for score in scores),
        target_words=sum(score.words for score in scores),
    )


@dataclass(frozen=True, slots=True)
class _Tokenized:
    """A set as tokens.

    Attributes:
        rendered: conversations, or pieces of documents.
        items: for each of them, the number of its item.
        sizes: of each item that can be scored, its target bytes and words.
    """

    rendered: list[Rendered]
    items: list[int]
    sizes: dict[int, tuple[int, int]]
    shortened: int = 0
    rejected: int = 0


def score_sets(
    responder: Responder, sets: Sequence[TextSet], *, rows_per_pass: int = 1, bar: Bar = no_bar
) -> dict[str, Scored]:
    """Score every item of every set once.

    A conversation is scored on the assistant's turns, rendered as for training; a document on all
    its tokens, a long one in pieces whose losses are added up.

    Args:
        rows_per_pass: packed rows that go through the engine at once.

    Raises:
        DataError: no conversation can be rendered.
        SpeakeasyError: a loss is not a number.
    """
    longest = min(responder.context, LONGEST)
    tokenized = {one.name: _tokenize(responder, one, longest) for one in sets}
    found = {}
    with bar("scoring", sum(len(one.rendered) for one in tokenized.values())) as advance:
        for one in sets:
            found[one.name] = _score(
                responder, one.name, tokenized[one.name], longest, rows_per_pass, advance
            )
    return found


def _tokenize(responder: Responder, texts: TextSet, longest: int) -> _Tokenized:
    if texts.name == "conversations":
        return _tokenize_conversations(responder, texts, longest)
    documents = [item for item in texts.items if isinstance(item, str)]
    rendered, items = [], []
    for number, pieces in enumerate(Cutter(responder.tokenizer, longest).cut(documents)):
        for ids, size, words in pieces:
            tokens_T = np.asarray(ids, dtype=np.int32)
            rendered.append(Rendered(tokens_T, np.arange(len(ids)) > 0, size, words))
            items.append(number)
    # A piece that begins inside of a word has counted it again: the document knows better.
    sizes = {n: (len(text.encode()), len(text.split())) for n, text in enumerate(documents)}
    return _Tokenized(rendered, items, sizes)


def _tokenize_conversations(responder: Responder, texts: TextSet, longest: int) -> _Tokenized:
    numbered = [
        replace(item, id=str(number))  # so that those which are left out can be told
        for number, item in enumerate(texts.items)
        if isinstance(item, Conversation)
    ]
    rendered = render_all(responder.tokenizer, numbered, longest)
    items = [int(item.id) for item in rendered.items]
    return _Tokenized(
        rendered=list(rendered.items),
        items=items,
        sizes={
            number: (item.target_bytes, item.target_words)
            for number, item in zip(items, rendered.items, strict=True)
        },
        shortened=rendered.shortened,
        rejected=len(rendered.rejected),
    )


def _score(
    responder: Responder,
    name: str,
    tokenized: _Tokenized,
    longest: int,
    rows_per_pass: int,
    advance: Callable[[int], None],
) -> Scored:
    row_length = max(ROW, *(len(item.tokens_T) for item in tokenized.rendered))
    loss = held_out_loss(
        responder.engine,
        tokenized.rendered,
        min(row_length, longest),
        rows_per_pass=rows_per_pass,
        advance=advance,
    )
    nats = dict.fromkeys(tokenized.sizes, 0.0)
    tokens = dict.fromkeys(tokenized.sizes, 0)
    for item, part, rendered in zip(tokenized.items, loss.nats, tokenized.rendered, strict=True):
        nats[item] += part
        tokens[item] += int(rendered.is_target_T.sum())
    for item, value in nats.items():
        if not math.isfinite(value):
            raise SpeakeasyError(
                f"set {name}, item {item}: the loss is {value}, not a number; evaluate with "
                "--precision float32, or look whether training has diverged"
            )
    scores = tuple(
        Score(name, item, nats[item], size, words, tokens[item])
        for item, (size, words) in sorted(tokenized.sizes.items())
    )
    return Scored(scores, longest, tokenized.shortened, tokenized.rejected)
