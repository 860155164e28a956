"""Tokens per word: what a tokenizer makes of regional words and of running text.

Fertility is the mean number of tokens that a word is split into (Rust et al. 2021,
https://arxiv.org/abs/2012.15613, section 3). Each word is encoded by itself, after a space, as it
mostly stands in text; punctuation around it is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from speakeasy.dialect.lexicon import Lexicon
from speakeasy.vocab.words import lexicon_words

_EDGES = re.compile(r"^\W+|\W+$")


def fertility(tokenizer: Any, words: Iterable[str]) -> dict[str, float | int | None]:
    """``words``, their ``tokens``, and ``tokens_per_word`` (None without a word).

    Args:
        tokenizer: a fast tokenizer.
        words: as often as they occur; a phrase of several words counts as so many.
    """
    chosen = list(words)
    encoded = tokenizer.backend_tokenizer.encode_batch_fast(
        [f" {word}" for word in chosen], add_special_tokens=False
    )
    count = sum(len(word.split()) for word in chosen)
    tokens = sum(len(one.ids) for one in encoded)
    return {
        "words": count,
        "tokens": tokens,
        "tokens_per_word": tokens / count if count else None,
    }


def regional_words(lexicon: Lexicon) -> list[str]:
    """The words and phrases of a lexicon in their dictionary form, each once."""
    return list(dict.fromkeys(word.text for word in lexicon_words(lexicon)))


def running_words(texts: Sequence[str]) -> list[str]:
    """The words of texts, in order, without the punctuation around them."""
    words = (_EDGES.sub("", word) for text in texts for word in text.split())
    return [word for word in words if word]
