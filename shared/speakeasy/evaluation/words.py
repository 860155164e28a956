"""Text as words and sentences, in the one form in which all measures see it."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_WORD = re.compile(r"[^\W_]+(?:['·-][^\W_]+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"»”')]*\s+|\n+")


@dataclass(frozen=True, slots=True)
class Word:
    """A word and where it stands in its folded text.

    Attributes:
        text: case-folded.
        start, end: its characters in the text that ``fold`` gave.
    """

    text: str
    start: int
    end: int


def fold(text: str) -> str:
    """NFC, with straight apostrophes; case is kept, since patterns may ask for it."""
    return unicodedata.normalize("NFC", text).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")


def located_words(folded: str) -> list[Word]:
    """The words of a folded text: letters and digits, with apostrophe, dot or hyphen inside.

    `l'avi`, `col·legi` and `fem-la` are one word each.
    """
    return [
        Word(match.group().casefold(), match.start(), match.end())
        for match in _WORD.finditer(folded)
    ]


def words(text: str) -> list[str]:
    """The words of any text, folded and case-folded."""
    return [word.text for word in located_words(fold(text))]


def sentences(text: str) -> list[str]:
    """A text cut after `.`, `!`, `?` or `…` that white space follows, and at line ends."""
    return [piece.strip() for piece in _SENTENCE_END.split(text) if piece.strip()]
