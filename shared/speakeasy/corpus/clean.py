"""Cleaning that every document gets, whatever it came from."""

from __future__ import annotations

import re
import unicodedata

from speakeasy.corpus.encoding import REPLACEMENT
from speakeasy.corpus.plain_text import is_sentences

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff\ufffd"
    "\ud800-\udfff\ue000-\uf8ff]"
)
_BLANKS = re.compile(r"[^\S\n]{2,}|[^\S\n ]")
_LINE_ENDS = re.compile(r" +\n[\n ]*|\n[\n ]+")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")
_SPLIT_WORD = re.compile(r"(\w)-\n(?=[a-zà-ÿ])")


def clean(text: str) -> str:
    """Text in Unicode form NFC with one space between words and one line end between paragraphs.

    Control characters, invisible ones (soft hyphens, zero-width spaces, marks of direction),
    those for private use and U+FFFD are taken out. Letters, capitals, quotation marks and
    punctuation stay as they are.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n")
    text = unicodedata.normalize("NFC", _INVISIBLE.sub("", text))
    return _LINE_ENDS.sub("\n", _BLANKS.sub(" ", text)).strip()


def undecodable(text: str) -> int:
    """Characters that stand for bytes which could not be decoded."""
    return text.count(REPLACEMENT)


def unwrap(text: str) -> str:
    """Paragraphs that were wrapped at a margin, each on one line.

    Blank lines part paragraphs. Where lines that end a sentence have less than half of a paragraph,
    its lines are joined, and so are words that were split at a line's end; other lines (verse,
    dialogue, lists of sentences) stay apart.
    """
    return "\n".join(_unwrap_paragraph(part) for part in _BLANK_LINE.split(text))


def _unwrap_paragraph(paragraph: str) -> str:
    lines = paragraph.strip().splitlines()
    if len(lines) < 2 or is_sentences(lines):
        return paragraph
    return _SPLIT_WORD.sub(r"\1", "\n".join(line.strip() for line in lines)).replace("\n", " ")


def cut(text: str, limit: int) -> list[str]:
    """A cleaned text in pieces of at most ``limit`` characters, at line ends or else spaces."""
    pieces = []
    while len(text) > limit:
        end = max(text.rfind("\n", limit // 2, limit), 0) or max(text.rfind(" ", 1, limit), 0)
        end = end or limit
        pieces.append(text[:end].strip())
        text = text[end:].strip()
    return [*pieces, text]
