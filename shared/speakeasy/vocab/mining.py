"""Counting what a tokenizer cuts text into, in bounded memory.

A pre-token is what a tokenizer's regular expression cuts out before any merge, and what a new entry
can stand for (``expand.py``). Where a tokenizer has no pre-tokens (SentencePiece-like ones), words
with the space before them are counted in their place.

Cutting is slow and the same words come again and again. So text is first cut before every single
space between two other characters, where all usual regular expressions cut too, and each distinct
stretch goes through the tokenizer once. That this changes nothing is tried on the beginning of the
text; where it does, whole texts are cut instead.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from speakeasy.vocab.families import SPACE, Source, pre_tokens, spelled

MOST_KEYS = 1_000_000
"""Distinct pre-tokens that are held; about 150 MB. Beyond it, the rarest are given up."""

_MOST_STRETCHES = 500_000
_TRIED_CHARACTERS = 200_000
_SINGLE_SPACE = re.compile(r"(?<=\S)(?= \S)")
_WORD = re.compile(rf"{SPACE}?[^\W_]+")


class Tally:
    """Counts of pre-tokens, in the tokenizer's own spelling (``Ġostras``).

    When there are too many, those that came once are given up, then those that came twice, and
    so on, until half as many are left. One that comes again begins at nothing, so counts of rare
    pre-tokens can be too small in a text with more than ``most`` of them; others are exact.

    Args:
        source: the tokenizer.
        most: distinct pre-tokens that are held.
        measured: ``tokens`` will be asked for.

    Attributes:
        given_up: how often counts have been given up.
    """

    def __init__(self, source: Source, *, most: int = MOST_KEYS, measured: bool = False) -> None:
        self.given_up = 0
        self._tokens = 0  # of what is not in the counts, or not alone
        self._encodes = measured and source.family == "sentencepiece"
        self._source = source
        self._most = most
        self._keys: Counter[str] = Counter()
        self._stretches: Counter[str] = Counter()
        self._tried = 0
        self._in_stretches = source.family == "byte-level"
        self._pieces: dict[str, int] = {}

    def add(self, text: str) -> None:
        """Count the pre-tokens of one more text."""
        if self._in_stretches and self._tried < _TRIED_CHARACTERS:
            self._in_stretches = self._try(text)
        if self._in_stretches:
            self._stretches.update(_SINGLE_SPACE.split(text))
            if len(self._stretches) > min(_MOST_STRETCHES, self._most):
                self._settle()
        else:
            self._keys.update(self._cut(text))
            self._bound()
        if self._encodes:  # what stands between words is in no count
            self._tokens += len(self._source.tokenizer.encode(text, add_special_tokens=False))

    def counts(self) -> Counter[str]:
        """How often each pre-token came."""
        self._settle()
        return self._keys

    def tokens(self) -> int:
        """How many tokens all texts are, without special ones; exact, whatever was given up."""
        if self._source.family == "sentencepiece":
            assert self._encodes, "a tally that is asked for tokens is made with measured=True"
            return self._tokens
        return self._tokens + sum(n * self.pieces(key) for key, n in self.counts().items())

    def pieces(self, key: str) -> int:
        """How many tokens a pre-token is."""
        number = self._pieces.get(key)
        if number is None:
            number = len(self._source.tokenizer.model.tokenize(key))
            self._pieces[key] = number
        return number

    def form(self, key: str) -> str:
        """A pre-token as text: ``Ġostras`` is " ostras"."""
        if self._source.family == "sentencepiece":
            return key.replace(SPACE, " ")
        return spelled(self._source.tokenizer, key)

    def _cut(self, text: str) -> list[str]:
        keys = pre_tokens(self._source.tokenizer, text)
        if self._source.family == "sentencepiece":
            return [word for key in keys for word in _WORD.findall(key)]
        return keys

    def _try(self, text: str) -> bool:
        self._tried += len(text)
        stretches = (key for part in _SINGLE_SPACE.split(text) for key in self._cut(part))
        return list(stretches) == self._cut(text)

    def _settle(self) -> None:
        """Bring what the stretches hold into the counts."""
        for stretch, count in self._stretches.items():
            for key in self._cut(stretch):
                self._keys[key] += count
        self._stretches.clear()
        self._bound()

    def _bound(self) -> None:
        if len(self._keys) <= self._most:
            return
        floor = 0
        while len(self._keys) > self._most // 2:
            floor += 1
            rare = [key for key, count in self._keys.items() if count <= floor]
            for key in rare:
                count = self._keys.pop(key)
                if not self._encodes:
                    self._tokens += count * self.pieces(key)
        self._pieces.clear()
        self.given_up += 1


def count_forms(source: Source, texts: Iterable[str]) -> dict[str, int]:
    """How often each pre-token occurs in texts, as text with the space that belongs to it."""
    tally = Tally(source)
    for text in texts:
        tally.add(text)
    forms: Counter[str] = Counter()
    for key, count in tally.counts().items():
        forms[tally.form(key)] += count
    return dict(forms)
