"""Subtitle files as running text: without formatting, sounds, speakers and numbers."""

from __future__ import annotations

import re

PARAGRAPH_PAUSE_MS = 4_000
"""A longer pause between two cues begins a new paragraph: most likely a new scene."""

_FORMAT = re.compile(r"<[^>]{0,200}>|\{[^}]{0,200}\}")
_SOUND = re.compile(r"\[[^\]]{0,200}\]|\([^)]{0,200}\)|[♪♫#]+")
_DASH = re.compile(r"^\s*(?:[-–—‐]+|>>+)\s*", re.MULTILINE)
_SPEAKER = re.compile(r"^\s*[A-ZÀ-Ý][A-ZÀ-Ý .'’·]{1,30}:\s*", re.MULTILINE)
_CREDIT = re.compile(
    r"https?://|www\.|opensubtitles|subt[ií]tul\w* (?:per|por|de|by)\b|sync(?:ed)? by|addic7ed"
    r"|corre[cg]\w+ (?:per|por) ",
    re.IGNORECASE,
)


def subtitles_text(text: str) -> str:
    """The spoken text of a subtitle file (SubRip, WebVTT, or another form that pysubs2 tells).

    Cues are joined; a pause of ``PARAGRAPH_PAUSE_MS`` begins a paragraph. Cues that repeat the one
    before (they roll in captions made by machines) and cues that name who made the subtitles are
    left out.

    Raises:
        ValueError: it is no subtitle file.
    """
    import pysubs2

    try:
        file = pysubs2.SSAFile.from_string(text)
    except (pysubs2.Pysubs2Error, ValueError, IndexError, KeyError) as error:
        raise ValueError(f"is no subtitle file ({type(error).__name__})") from error
    paragraphs: list[list[str]] = []
    last_end, before = None, ""
    for cue in file:
        spoken = _spoken(cue.text)
        if not spoken or spoken == before or cue.is_comment:
            continue
        if last_end is None or cue.start - last_end > PARAGRAPH_PAUSE_MS:
            paragraphs.append([])
        paragraphs[-1].append(spoken)
        last_end, before = cue.end, spoken
    return "\n".join(" ".join(cues) for cues in paragraphs)


def _spoken(cue: str) -> str:
    """What is said in one cue, on one line; empty when that is nothing."""
    text = cue.replace(r"\N", "\n").replace(r"\n", "\n").replace(r"\h", " ")
    if _CREDIT.search(text):
        return ""
    text = _DASH.sub("", _SOUND.sub("", _FORMAT.sub("", text)))
    text = " ".join(_SPEAKER.sub("", text).split())
    return text if any(letter.isalpha() for letter in text) else ""
