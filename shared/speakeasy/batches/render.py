"""Conversations to token ids and target masks, through the tokenizer's own chat template.

Targets are what the model has to write by itself: every assistant turn's content and its
end-of-turn token. Headers, the newline behind an end-of-turn token and the empty think block that
Qwen3's template inserts are no targets; a reasoning block of the turn's own is, where the template
keeps it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from speakeasy.batches.encode import Encoded, Encoder
from speakeasy.batches.layout import ChatLayout, LaidOut, LayoutError
from speakeasy.batches.templates import ensure_chat_template
from speakeasy.batches.types import Rejected, Rendered, RenderedSet
from speakeasy.data.chat import Conversation, Turn
from speakeasy.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 512
"""Conversations that are tokenized at once: enough for every core, little enough for progress."""


def render_conversation(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation, max_length: int
) -> Rendered | Rejected:
    """Render one conversation; see ``render_all``, which is much faster for many.

    Raises:
        ModelError: the tokenizer's chat template cannot be used at all.
    """
    return _Renderer(tokenizer, max_length).render([conversation])[0]


def render_all(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    max_length: int,
    progress: Callable[[int], None] | None = None,
) -> RenderedSet:
    """Render a data set.

    A conversation of more than ``max_length`` tokens loses its oldest exchanges (a user turn and
    the answer to it; the system turn stays) until it fits, and is rejected when its last exchange
    alone does not fit. It is also rejected when it contains the text of a control token, or when
    its template refuses it or rewrites an answer.

    Args:
        tokenizer: a fast tokenizer; without a chat template it gets a default, see
            ``ensure_chat_template``.
        conversations: validated conversations.
        max_length: most tokens of a rendered conversation.
        progress: called with the number of conversations done since the last call.

    Raises:
        DataError: not one target token is left.
        ModelError: the tokenizer's chat template cannot be used at all.
    """
    renderer = _Renderer(tokenizer, max_length)
    items: list[Rendered] = []
    rejected: list[Rejected] = []
    for start in range(0, len(conversations), _BATCH):
        batch = conversations[start : start + _BATCH]
        for result in renderer.render(batch):
            if isinstance(result, Rendered):
                items.append(result)
            else:
                rejected.append(result)
        if progress is not None:
            progress(len(batch))
    targets = sum(int(item.is_target_T.sum()) for item in items)
    if not targets:
        raise DataError(_nothing_left(rejected))
    return RenderedSet(
        items=items,
        rejected=rejected,
        shortened=sum(item.dropped_turns > 0 for item in items),
        dropped_turns=sum(item.dropped_turns for item in items),
        tokens=sum(item.tokens_T.size for item in items),
        targets=targets,
    )


def _nothing_left(rejected: list[Rejected]) -> str:
    if not rejected:
        return "no conversation to train on: the data set is empty"
    first = rejected[0]
    return (
        f"{first.origin or first.id or 'conversation 1'}: {first.reason}; all {len(rejected)} "
        "conversations were rejected, so there is nothing to learn from"
    )


class _Renderer:
    """What rendering needs to know of a tokenizer, found out once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self._layout = ChatLayout(tokenizer, ensure_chat_template(tokenizer).template)
        self._encoder = Encoder(tokenizer, self._layout)
        self._max_length = max_length

    def render(self, conversations: Sequence[Conversation]) -> list[Rendered | Rejected]:
        """One result for each conversation, in order; tokenized as one batch."""
        laid_out = [self._lay_out(conversation) for conversation in conversations]
        fine = [text for text in laid_out if isinstance(text, LaidOut)]
        try:
            encoded = iter(self._encoder.encode(fine))
        except LayoutError:
            return [self._render_one(conversation) for conversation in conversations]
        return [
            self._fit(conversation, text, next(encoded))
            if isinstance(text, LaidOut)
            else _reject(conversation, text)
            for conversation, text in zip(conversations, laid_out, strict=True)
        ]

    def _render_one(self, conversation: Conversation) -> Rendered | Rejected:
        try:
            text, encoded = self._encode(conversation)
        except LayoutError as error:
            return _reject(conversation, str(error))
        return self._fit(conversation, text, encoded)

    def _lay_out(self, conversation: Conversation) -> LaidOut | str:
        try:
            return self._layout.conversation(conversation.to_messages())
        except LayoutError as error:
            return str(error)

    def _encode(self, conversation: Conversation) -> tuple[LaidOut, Encoded]:
        text = self._layout.conversation(conversation.to_messages())
        return text, self._encoder.encode([text])[0]

    def _fit(
        self, conversation: Conversation, text: LaidOut, encoded: Encoded
    ) -> Rendered | Rejected:
        if len(encoded.ids) <= self._max_length:
            return _rendered(conversation, text, encoded, dropped_turns=0)
        system, exchanges = _split(conversation)

        def without(count: int) -> tuple[LaidOut, Encoded]:
            turns = [turn for exchange in exchanges[count:] for turn in exchange]
            return self._encode(Conversation((*system, *turns)))

        def fits(count: int) -> bool:
            return len(without(count)[1].ids) <= self._max_length

        try:
            # The fewest exchanges to drop; leaving out more never makes a conversation longer.
            count = bisect_left(range(len(exchanges)), True, lo=1, key=fits)
            if count >= len(exchanges):
                alone = "even its last exchange alone" if len(exchanges) > 1 else "it"
                return _reject(
                    conversation,
                    f"{alone} has more than {self._max_length:,} tokens (--max-length)",
                )
            text, encoded = without(count)
        except LayoutError as error:
            return _reject(conversation, str(error))
        dropped = sum(len(exchange) for exchange in exchanges[:count])
        return _rendered(conversation, text, encoded, dropped)


def _split(conversation: Conversation) -> tuple[tuple[Turn, ...], list[tuple[Turn, ...]]]:
    """The system turn, if any, and the exchanges: from one user turn to before the next."""
    turns = conversation.turns
    body = 1 if turns[0].role == "system" else 0
    starts = [i for i, turn in enumerate(turns) if turn.role == "user" and i >= body]
    stops = [*starts[1:], len(turns)]
    return turns[:body], [turns[a:b] for a, b in zip(starts, stops, strict=True)]


def _rendered(
    conversation: Conversation, text: LaidOut, encoded: Encoded, dropped_turns: int
) -> Rendered:
    is_target_T = np.zeros(len(encoded.ids), dtype=bool)
    for start, stop in encoded.answers:
        is_target_T[start:stop] = True
    return Rendered(
        tokens_T=np.asarray(encoded.ids, dtype=np.int32),
        is_target_T=is_target_T,
        target_bytes=sum(len(answer.content.encode()) for answer in text.answers),
        target_words=sum(len(answer.content.split()) for answer in text.answers),
        dropped_turns=dropped_turns,
        id=conversation.id,
    )


def _reject(conversation: Conversation, reason: str) -> Rejected:
    return Rejected(conversation.id, conversation.origin, reason)
