"""Text files as documents, by one rule that looks at the file's beginning.

- ``headed``: the first line is a heading ``# ID | language | topic``. Every block that begins
  with such a line and ends before the next one is a document. The packaged texts have this form.
- ``lines``: no blank line in the first 64 KiB, and lines that end a sentence have at least half of
  its characters. Every line is a document.
- ``whole``: everything else. The file is one document; blank lines part its paragraphs.

A document longer than ``DOCUMENT_CHARACTERS`` is cut into several, at the end of a line where
there is one, so that no more than one such piece is ever in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, TextIO

Layout = Literal["headed", "lines", "whole"]

DOCUMENT_CHARACTERS = 200_000
"""Longer documents are cut. A novel gives about five pieces; few web pages reach it."""

SAMPLE_CHARACTERS = 64 * 1024

HEADING = re.compile(r"#\s*([^|\s]+)\s*\|\s*([A-Za-z-]+)\s*\|[^|\n]*")
_ENDS_SENTENCE = re.compile(r"[.!?…:;][\"'»”’)\]]*\s*\Z")


class Piece(NamedTuple):
    """A document of a text file, or a part of one.

    Attributes:
        id: from its heading, else empty.
        language: from its heading, else empty.
        line: where it begins, from 1.
        text: its lines as they stand.
        cut: more of the same document follows.
    """

    id: str
    language: str
    line: int
    text: str
    cut: bool = False


def tell_layout(sample: str) -> Layout:
    """The layout of a file, from its first ``SAMPLE_CHARACTERS`` characters."""
    lines = sample.strip().splitlines()
    if lines and HEADING.fullmatch(lines[0].strip()):
        return "headed"
    if any(not line.strip() for line in lines):
        return "whole"
    return "lines" if lines and is_sentences(lines) else "whole"


def is_sentences(lines: list[str]) -> bool:
    """True when lines that end a sentence have half of the text: it is not wrapped at a margin."""
    ends = sum(len(line) for line in lines if _ENDS_SENTENCE.search(line[-8:]))
    return 2 * ends >= sum(map(len, lines))


def read_pieces(file: TextIO, *, limit: int = DOCUMENT_CHARACTERS) -> Iterator[Piece]:
    """The documents of an open, seekable text file, in its order; empty ones are left out.

    Args:
        file: at its beginning.
        limit: characters of the longest piece.

    Raises:
        UnicodeDecodeError: the file was opened with ``errors="strict"`` and is not sound.
    """
    layout = tell_layout(file.read(SAMPLE_CHARACTERS))
    file.seek(0)
    lines = _bounded_lines(file, limit)
    if layout == "lines":
        for number, line in lines:
            if line.strip():
                yield Piece("", "", number, line.strip(), cut=len(line) == limit)
        return
    yield from _blocks(lines, limit, headed=layout == "headed")


def _blocks(lines: Iterable[tuple[int, str]], limit: int, *, headed: bool) -> Iterator[Piece]:
    """Documents that go from heading to heading, or through the whole file."""
    name, language, start, size, parts = "", "", 1, 0, 0
    held: list[str] = []

    def piece(cut: bool) -> Iterator[Piece]:
        text = "\n".join(held).strip()
        if text:
            part = f"/{parts}" if name and parts else ""
            yield Piece(name + part, language, start, text, cut)

    for number, line in lines:
        heading = HEADING.fullmatch(line.strip()) if headed else None
        too_long = bool(held) and size + len(line) > limit
        if heading or too_long:
            yield from piece(too_long and heading is None)
            held, size, start, parts = [], 0, number, parts + 1
        if heading:
            name, language, parts = heading[1], heading[2], 0
            continue
        held.append(line.rstrip())
        size += len(line) + 1
    yield from piece(cut=False)


def _bounded_lines(file: TextIO, limit: int) -> Iterator[tuple[int, str]]:
    """Line number and line; a line longer than ``limit`` comes in several parts."""
    number, fresh = 0, True
    while line := file.readline(limit):
        number += fresh
        fresh = line.endswith("\n")
        yield number, line.rstrip("\n")
