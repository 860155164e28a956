"""One JSON array, cut into its elements while it streams by.

Only quotation marks, brackets and commas are looked at, never the grammar in between: a broken
element comes out as it stands, and cutting goes on behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_CHUNK_BYTES = 2**18
_STRUCTURE = re.compile(rb'["\[\]{},]')
_STRING_END = re.compile(rb'["\\]')


class Element(NamedTuple):
    """A piece of the array's text.

    Attributes:
        line: of its first byte that is not white space, counted from 1.
        raw: its bytes, without the white space around them; at most the limit.
        inside: it stands in the array and a comma or the closing bracket follows; False for
            what a file holds in place of that bracket or behind it.
    """

    line: int
    raw: bytes
    inside: bool


def read_elements(file: BinaryIO, limit: int) -> Iterator[Element]:
    """The elements of the array that ``file`` begins with (after white space, a byte order mark).

    Args:
        file: opened for reading bytes, at its start.
        limit: bytes of one element that are kept; the rest of it is passed over.
    """
    cutter = _Cutter(limit)
    while chunk := file.read(_CHUNK_BYTES):
        yield from cutter.feed(chunk)
    yield from cutter.finish()


class _Cutter:
    """The state between two chunks."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.raw = bytearray()
        self.line = 1  # of the next byte
        self.first_line = 1  # of the element's first byte
        self.depth = 0  # 0 before the array and after it, 1 directly in it
        self.ended = False
        self.in_string = False
        self.escaped = False  # the last chunk ended in a backslash within a string
        self.after_comma = False

    def feed(self, chunk: bytes) -> Iterator[Element]:
        begin = 0
        position, self.escaped = int(self.escaped), False
        while not self.ended:
            found = (_STRING_END if self.in_string else _STRUCTURE).search(chunk, position)
            if found is None:
                break
            mark, position = found.group(), found.end()
            if self.in_string:
                self.in_string = mark == b"\\"
                if self.in_string:
                    self.escaped = position == len(chunk)
                    position += 1
            elif mark == b'"':
                self.in_string = True
            elif mark in b"[{":
                self.depth += 1
                if self.depth == 1:
                    self.line += chunk.count(b"\n", begin, position)
                    begin = position
            elif self.depth == 1 and mark in b",]":
                self._take(chunk[begin : found.start()])
                begin = position
                self.ended = mark == b"]"
                if self.raw or self.after_comma or not self.ended:
                    yield self._cut(inside=True)
                self.after_comma = True
            elif self.depth > 1 and mark in b"]}":
                self.depth -= 1
        self._take(chunk[begin:])

    def finish(self) -> Iterator[Element]:
        if self.raw or not self.ended:
            yield self._cut(inside=False)

    def _take(self, piece: bytes) -> None:
        if not self.raw:
            content = piece.lstrip()
            self.line += piece.count(b"\n", 0, len(piece) - len(content))
            self.first_line = self.line
            piece = content
        self.line += piece.count(b"\n")
        self.raw += piece[: self.limit - len(self.raw)]

    def _cut(self, inside: bool) -> Element:
        raw = bytes(self.raw).rstrip()
        self.raw.clear()
        return Element(self.first_line, raw, inside)
