"""The quality filters: few, named, each with one threshold.

A document is dropped by the first that applies, and counted under its name. The thresholds are
loose: they are to catch what is no running text, not to judge style. ``repeated_lines`` has its
threshold from Rae et al., "Scaling Language Models" (Gopher, 2021), table A1.
"""

from __future__ import annotations

import re

MIN_CHARACTERS = 50
MIN_LETTERS = 0.6
MAX_REPEATED = 0.3
MAX_MARKUP = 0.02
MAX_URLS = 0.1
MAX_UNDECODABLE = 0.01
MAX_WORD = 1_000

FILTERS = {
    "empty": "nothing is left after cleaning",
    "too_short": "fewer characters than --min-chars",
    "undecodable": f"more than {MAX_UNDECODABLE:.0%} of the characters could not be decoded",
    "few_letters": f"letters are less than {MIN_LETTERS:.0%} of what is not a space",
    "long_words": f"a run without a space is longer than {MAX_WORD:,} characters",
    "repeated_lines": f"lines that were there before have more than {MAX_REPEATED:.0%} of the text",
    "urls": f"addresses of pages and mail have more than {MAX_URLS:.0%} of the text",
    "markup": f"signs of markup or code are more than {MAX_MARKUP:.0%} of the text",
}
"""Name of each filter -> what it drops, in the order in which they are asked."""

# A local part of mail has 64 characters at most (RFC 5321, 4.5.3.1.1). Unbounded, the expression
# would go over a long unbroken run once from every place in it.
_URL = re.compile(r"(?:https?://|www\.)\S+|[^\s@]{1,64}@\w[\w-]{0,62}\.\w\S*")
_LONG_WORD = re.compile(rf"\S{{{MAX_WORD + 1}}}")
_MARKUP = ("{", "}", "<", ">", "|", "\\", "=", "[[", "]]", "&nbsp;", "&amp;", "&quot;")
_LETTERS = re.compile(r"[^\W\d_]+")
_LINE_CHARACTERS = 20  # shorter lines (yes, no, a name) may repeat


def reason_to_drop(text: str, *, min_characters: int, undecodable: float = 0.0) -> str | None:
    """The name of the filter that drops a cleaned text, or None to keep it.

    Args:
        text: as ``clean`` gives it.
        min_characters: the least length.
        undecodable: share (0..1) of its characters that could not be decoded.
    """
    if not text:
        return "empty"
    if len(text) < min_characters:
        return "too_short"
    if undecodable > MAX_UNDECODABLE:
        return "undecodable"
    spaces = text.count(" ") + text.count("\n")
    if sum(map(len, _LETTERS.findall(text))) < MIN_LETTERS * (len(text) - spaces):
        return "few_letters"
    if _LONG_WORD.search(text):
        return "long_words"
    if _repeated(text) > MAX_REPEATED * len(text):
        return "repeated_lines"
    if ("www." in text or "://" in text or "@" in text) and _urls(text) > MAX_URLS * len(text):
        return "urls"
    if sum(map(text.count, _MARKUP)) > MAX_MARKUP * len(text):
        return "markup"
    return None


def _urls(text: str) -> int:
    """Characters in addresses of pages and mail."""
    return sum(map(len, _URL.findall(text)))


def _repeated(text: str) -> int:
    """Characters in lines that the text has had before."""
    seen: set[str] = set()
    repeated = 0
    for line in text.split("\n"):
        if len(line) >= _LINE_CHARACTERS:
            repeated += len(line) if line in seen else 0
            seen.add(line)
    return repeated
