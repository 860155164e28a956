"""What makes a pair of answers unfit to be judged, or nearly so."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from speakeasy.rating.sources import Candidate

EMPTY, IDENTICAL, NAMED, CUT_OFF, LONG = "empty", "identical", "names a model", "cut off", "long"
DROPPED = (EMPTY, IDENTICAL, NAMED, LONG)
"""Flags of pairs that are left out, unless told otherwise."""

_FAMILIES = (
    "llama", "smollm", "smollm2", "qwen", "mistral", "gemma", "chatgpt", "gpt", "openai", "claude",
    "deepseek", "gemini", "copilot", "phi", "bloom", "salamandra",
)  # fmt: skip
"""Names that a model may give itself."""
_CONFESSIONS = re.compile(
    r"\b(?:como (?:un )?(?:modelo de lenguaje|asistente virtual|ia)|"
    r"soc (?:un )?model de llenguatge|as an? (?:ai|language model)|"
    r"soy (?:una? )?(?:ia|inteligencia artificial|modelo|asistente virtual))\b"
)
_COMMON = 3
"""Parts of a name that are shorter say nothing: "1b", "r8"."""


def flags_of(candidate: Candidate, names: Iterable[str], max_chars: int) -> list[str]:
    """What is wrong with a pair; empty for nothing.

    Args:
        names: of the models and their runs.
        max_chars: longest answer that is shown, in characters.
    """
    texts = [folded(text) for text in candidate.texts]
    found = []
    if not all(texts):
        found.append(EMPTY)
    if texts[0] == texts[1]:
        found.append(IDENTICAL)
    if any(names_model(text, names) for text in texts):
        found.append(NAMED)
    finished = [answer["finished"] for answer in candidate.answers]
    if any(text and not whole for text, whole in zip(texts, finished, strict=True)):
        found.append(CUT_OFF)
    if any(len(text) > max_chars for text in candidate.texts):
        found.append(LONG)
    return found


def names_model(text: str, names: Iterable[str]) -> bool:
    """Whether a folded text says which model it is of."""
    if _CONFESSIONS.search(text):
        return True
    words = {folded(name) for name in names if len(name.strip()) > _COMMON} | set(_FAMILIES)
    pattern = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True) if word)
    return re.search(rf"(?<!\w)(?:{pattern})(?!\w)", text) is not None


def folded(text: str) -> str:
    """A text for comparing: NFC, lower case, single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
