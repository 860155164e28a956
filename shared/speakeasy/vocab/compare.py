"""What a change to a tokenizer does to texts.

Two tokenizers are compared on texts. A text that encodes differently is one of three things:

- *touched*: it holds an added word, and writing each new token out in its old pieces gives the old
  tokens back: nothing else changed;
- *disturbed*: it holds an added word, but its neighbors changed as well;
- *collateral*: it holds no added word, and should not have changed at all.

"Holds an added word" means that the tokenizer cuts the text so that the word is a pre-token of its
own: ``home-page`` holds ``home``, and ``homenaje`` does not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from speakeasy.vocab.families import pre_tokens
from speakeasy.vocab.progress import Bar, no_bar

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LANGUAGES = ("es", "ca", "en")
WORDS = 50_000
"""So many of each language's commonest words are compared."""

_CHUNK = 8192


@dataclass(frozen=True, slots=True)
class Change:
    """A text whose tokens changed, with its tokens before and after, as text."""

    text: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(slots=True)
class Comparison:
    """Two tokenizers on the same texts.

    Attributes:
        texts: how many texts.
        touched: see the module's text.
        disturbed: see the module's text.
        collateral: see the module's text.
        broken: texts that the new tokenizer decodes to something else, and the old one did not.
        broken_before: how many neither gives back (a tokenizer may normalize).
        tokens_before: tokens of all texts.
        tokens_after: the same with the new tokenizer.
    """

    texts: int = 0
    touched: list[str] = field(default_factory=list)
    disturbed: list[Change] = field(default_factory=list)
    collateral: list[Change] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    broken_before: int = 0
    tokens_before: int = 0
    tokens_after: int = 0


def word_lists() -> dict[str, list[str]]:
    """The commonest words of Spanish, Catalan and English, by language, the commonest first.

    From the package ``wordfreq`` (Speer 2022, https://doi.org/10.5281/zenodo.7199437).
    """
    from wordfreq import top_n_list

    return {language: top_n_list(language, WORDS) for language in LANGUAGES}


def sentences() -> list[str]:
    """The packaged starter conversations' messages, each once."""
    from speakeasy.data.dataset import starter_conversations

    turns = (turn.content for item in starter_conversations() for turn in item.turns)
    return list(dict.fromkeys(turns))


def compare(
    old: Tokenizer,
    new: Tokenizer,
    texts: Sequence[str],
    *,
    keys: Collection[str] = (),
    rows: Mapping[int, Sequence[int]] | None = None,
    cutter: Tokenizer | None = None,
    bar: Bar = no_bar,
) -> Comparison:
    """Compare any two tokenizers, of which ``new`` has all that ``old`` has under the same ids.

    Args:
        old: before.
        new: after.
        texts: to encode with both, without special tokens around them.
        keys: the added words as pre-tokens.
        rows: new id to the old ids that it stands for.
        cutter: cuts texts into pre-tokens to look for ``keys``; by default ``new``.
        bar: opens a progress bar.
    """
    result, known = Comparison(texts=len(texts)), rows or {}
    with bar("comparing tokenizers", len(texts)) as advance:
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            for text, before, after, decoded in _encoded(old, new, chunk):
                result.tokens_before += len(before)
                result.tokens_after += len(after)
                if decoded != text:
                    _note_broken(result, old, text, before)
                if before != after:
                    held = sum(piece in keys for piece in pre_tokens(cutter or new, text))
                    _note_change(result, old, new, text, before, after, known, held)
            advance(len(chunk))
    return result


def _encoded(
    old: Tokenizer, new: Tokenizer, texts: Sequence[str]
) -> Iterator[tuple[str, list[int], list[int], str]]:
    """Each text with its old ids, its new ids, and what the new tokenizer makes of the latter."""
    before = [item.ids for item in old.encode_batch_fast(list(texts), add_special_tokens=False)]
    after = [item.ids for item in new.encode_batch_fast(list(texts), add_special_tokens=False)]
    decoded = new.decode_batch(after, skip_special_tokens=False)
    yield from zip(texts, before, after, decoded, strict=True)


def _note_broken(result: Comparison, old: Tokenizer, text: str, before: list[int]) -> None:
    if old.decode(before, skip_special_tokens=False) == text:
        result.broken.append(text)
    else:
        result.broken_before += 1


def _note_change(
    result: Comparison,
    old: Tokenizer,
    new: Tokenizer,
    text: str,
    before: list[int],
    after: list[int],
    rows: Mapping[int, Sequence[int]],
    held: int,
) -> None:
    written_out = [piece for id in after for piece in rows.get(id, (id,))]
    if held and written_out == before and sum(id in rows for id in after) == held:
        result.touched.append(text)
        return
    change = Change(text, _texts(old, before), _texts(new, after))
    (result.disturbed if held else result.collateral).append(change)


def _texts(tokenizer: Tokenizer, ids: list[int]) -> tuple[str, ...]:
    return tuple(tokenizer.decode([id], skip_special_tokens=False) for id in ids)
