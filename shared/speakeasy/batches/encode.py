"""Laid-out text to token ids, with token places of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from speakeasy.batches.layout import Answer, ChatLayout, LaidOut, LayoutError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of a text and, for each answer, its tokens.

    Attributes:
        ids: token ids of the whole text; no token is added to what the template wrote.
        answers: ``(start, stop)`` in tokens, end-of-turn token included.
    """

    ids: list[int]
    answers: list[tuple[int, int]]


class Encoder:
    """Tokenizes so that the prompt of an answer is a prefix of the conversation, token by token.

    Tokenizing a text whole can merge the end of a header with the beginning of an answer: ChatML's
    newline with the newlines that an answer begins with. At generation the prompt ends there, and
    such a token never occurs. So the text is cut before every answer and the parts tokenized one
    by one: the same ids as ``apply_chat_template`` gives, save in that case.

    SentencePiece tokenizers that put a space before every text (Llama 2, Mistral 7B) can't be cut
    so: they take the text whole and the answers are found by character offsets.

    Args:
        tokenizer: a fast tokenizer.
        layout: its template's layout, whose probe conversation tells which kind it is.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, layout: ChatLayout) -> None:
        self._tokenizer = tokenizer
        parts = _parts(layout.probe)
        whole, *cut = self._ids([layout.probe.text, *parts])
        self._can_cut = whole == [token for part in cut for token in part]

    def encode(self, texts: Sequence[LaidOut]) -> list[Encoded]:
        """Encode a batch, on all cores that the tokenizer takes.

        Raises:
            LayoutError: a token holds both the end of a header and the beginning of an answer,
                in a tokenizer whose text can't be cut there.
        """
        if not self._can_cut:
            return [self._encode_whole(text) for text in texts]
        parts = [_parts(text) for text in texts]
        ids = iter(self._ids([part for group in parts for part in group]))
        return [self._join(text, [next(ids) for _ in _parts(text)]) for text in texts]

    def _join(self, text: LaidOut, parts: list[list[int]]) -> Encoded:
        ids = list(parts[0])
        places = []
        for answer, part in zip(text.answers, parts[1:], strict=True):
            start = len(ids)
            places.append((start, start + self._end(answer, part)))
            ids += part
        return Encoded(ids, places)

    def _encode_whole(self, text: LaidOut) -> Encoded:
        encoding = self._tokenizer(
            text.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
        places, token = [], 0
        for answer in text.answers:
            while offsets[token][1] <= answer.start:
                token += 1
            if offsets[token][0] < answer.start:
                raise LayoutError(
                    "the tokenizer merges the end of the assistant's header with the beginning of "
                    f"the answer {answer.content[:40]!r}"
                )
            places.append((token, token + self._end(answer, ids[token:])))
        return Encoded(ids, places)

    def _end(self, answer: Answer, ids: list[int]) -> int:
        """Length of the answer at the beginning of ``ids``, end-of-turn token included."""
        # Contents with the text of a special token were refused, so the first one is the right one.
        return ids.index(self._tokenizer.convert_tokens_to_ids(answer.end_of_turn)) + 1

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:  # which transformers cannot batch
            return []
        return self._tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]


def _parts(text: LaidOut) -> list[str]:
    cuts = [0, *(answer.start for answer in text.answers), len(text.text)]
    return [text.text[a:b] for a, b in pairwise(cuts)]
