"""From bytes to text: UTF-8 and UTF-16 where they are, Windows-1252 where they are not.

Old files in Spanish and Catalan are in Windows-1252 or in its subset ISO 8859-1. A file that is
UTF-8 with a few broken bytes stays UTF-8: what decides is whether it has more sound characters of
several bytes than broken bytes.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import TextIO

SAMPLE_BYTES = 4 * 1024 * 1024
LEGACY = "cp1252"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_-]{3,30})""", re.I)
REPLACEMENT = "\ufffd"


def tell_encoding(data: bytes) -> str:
    """The encoding of a file from its beginning (or the whole of it)."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and error.end == len(data):
            return "utf-8"  # the sample ends within a character
        text = data.decode("utf-8", errors="replace")
        broken = text.count(REPLACEMENT)
        sound = len(text) - broken - _ascii(text)
        return "utf-8" if sound > broken else LEGACY
    return "utf-8"


def decode(data: bytes) -> str:
    """A whole file's text; what cannot be decoded becomes U+FFFD."""
    return data.decode(tell_encoding(data), errors="replace")


def decode_html(data: bytes) -> str:
    """A page's text: as its byte order mark or its ``meta`` element says, else by ``decode``.

    Where a ``meta`` element could be read, UTF-16 is not true; the page is UTF-8 then, by the HTML
    standard ("prescan a byte stream to determine its encoding").
    """
    declared = _DECLARED.search(data[:4096])
    if declared and not any(data.startswith(mark) for mark, _ in _MARKS):
        name = declared[1].decode("ascii")
        try:
            if not codecs.lookup(name).name.startswith(("utf-8", "utf-16", "utf-32")):
                return data.decode(name, errors="replace")
        except (LookupError, ValueError):
            return decode(data)
    return decode(data)


def open_text(path: Path) -> TextIO:
    """A text file, opened in its encoding; what cannot be decoded becomes U+FFFD."""
    with path.open("rb") as file:
        encoding = tell_encoding(file.read(SAMPLE_BYTES))
    return path.open(encoding=encoding, errors="replace")


def _ascii(text: str) -> int:
    return len(text.encode("ascii", errors="ignore"))
