"""JSON files as a stream of records: JSON lines, or one array of objects.

What cannot be read becomes a ``Problem`` with its place and its bytes, and reading goes on behind
it. A UTF-8 byte order mark, CRLF line ends and empty lines are harmless and passed over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from speakeasy.data.chat import Origin
from speakeasy.data.json_array import read_elements

MAX_RECORD_BYTES = 16 * 2**20
"""Longer lines and array elements are problems. No conversation is that long, so a newline or a
quotation mark is missing; the limit bounds the memory that any input can take."""

UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_LINES_SUFFIXES = {".jsonl", ".ndjson"}


@dataclass(frozen=True, slots=True)
class Problem:
    """A piece of a file that is no conversation.

    Attributes:
        origin: file and first line of the piece.
        reason: what is wrong and what was expected, in one line.
        raw: the piece as it stands in the file, so that nothing is lost.
    """

    origin: Origin
    reason: str
    raw: bytes

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON object of a file, or one row of a table as if it were one."""

    origin: Origin
    value: dict[str, Any]
    raw: bytes


def read_records(path: Path) -> Iterator[Record | Problem]:
    """The objects of a JSON lines file, or of a file that is one JSON array.

    A file is read as an array when it begins with ``[`` and is not called ``.jsonl`` or
    ``.ndjson``. Neither kind is held in memory as a whole.
    """
    with path.open("rb") as file:
        is_array = path.suffix.lower() not in _LINES_SUFFIXES and _first_byte(file) == b"["
        yield from _read_array(path, file) if is_array else _read_lines(path, file)


def quote(value: object, limit: int = 60) -> str:
    """A value as JSON, cut to ``limit`` characters, safe to print in one line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return printable(text if len(text) <= limit else text[: limit - 1] + "…")


def printable(text: str) -> str:
    """Text with escapes for what breaks a line or drives a terminal."""
    return "".join(
        mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text
    )


def kind(value: object) -> str:
    """The JSON name of a value's type, with its article."""
    names = {dict: "an object", list: "an array", str: "text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def not_utf8(raw: bytes, error: UnicodeDecodeError) -> str:
    """The reason for a piece whose bytes are not UTF-8."""
    if raw.startswith(_UTF16_BOMS):
        return "the file is UTF-16; expected UTF-8: save it again in that encoding"
    return (
        f"byte {error.start + 1} of the record (0x{raw[error.start]:02x}) is not UTF-8; "
        "expected UTF-8: save the file again in that encoding"
    )


def bad_character(text: str) -> str | None:
    """The reason why a text cannot be trained on: a NUL, or half of a surrogate pair."""
    if "\0" in text:
        return "holds a NUL character; expected text"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        return f"holds U+{code:04X}, half of a surrogate pair; expected whole characters"
    return None


def _first_byte(file: BinaryIO) -> bytes:
    first = file.read(len(UTF8_BOM))
    first = first.removeprefix(UTF8_BOM).lstrip()
    while not first and (chunk := file.read(4096)):
        first = chunk.lstrip()
    file.seek(0)
    return first[:1]


def _read_lines(path: Path, file: BinaryIO) -> Iterator[Record | Problem]:
    number = 0
    while line := file.readline(MAX_RECORD_BYTES):
        number += 1
        origin = Origin(path, number)
        if number == 1:
            line = line.removeprefix(UTF8_BOM)
        if len(line) == MAX_RECORD_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_RECORD_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield _too_long(origin, line)
        elif line.strip():
            yield _parse(origin, line.rstrip(b"\r\n"))


def _read_array(path: Path, file: BinaryIO) -> Iterator[Record | Problem]:
    for line, raw, inside in read_elements(file, MAX_RECORD_BYTES):
        origin = Origin(path, line)
        if len(raw) == MAX_RECORD_BYTES:
            yield _too_long(origin, raw)
        elif inside:
            yield _parse(origin, raw)
        else:
            reason = 'expected "]" and then nothing; the array is cut off, or something follows it'
            yield Problem(origin, reason, raw)


def _too_long(origin: Origin, raw: bytes) -> Problem:
    limit = f"{MAX_RECORD_BYTES // 2**20} MiB"
    reason = f"is longer than {limit} (kept: the first {limit}); expected one conversation"
    return Problem(origin, reason, raw)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is too large a number")
    return number


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def _parse(origin: Origin, raw: bytes) -> Record | Problem:
    try:
        text = raw.decode()
        value = _DECODER.decode(text)
        # Escapes spell halves of surrogate pairs that no file could be written with.
        wrong = bad_character(json.dumps(value, ensure_ascii=False)) if "\\u" in text else None
    except UnicodeDecodeError as error:
        return Problem(origin, not_utf8(raw, error), raw)
    except RecursionError:
        return Problem(origin, "is nested too deeply; expected one JSON object", raw)
    except ValueError as error:
        return Problem(origin, _not_json(text, error), raw)
    if wrong:
        return Problem(origin, wrong, raw)
    if not isinstance(value, dict):
        return Problem(origin, f"is {kind(value)}; expected one JSON object", raw)
    return Record(origin, value, raw)


def _not_json(text: str, error: ValueError) -> str:
    if not text:
        return "nothing stands between two commas; expected one JSON object"
    if "\0" in text:
        return f"holds a NUL byte at column {text.index(chr(0)) + 1}; expected one JSON object"
    if not isinstance(error, json.JSONDecodeError):
        return f"is not JSON ({error}); expected one JSON object"
    # An unterminated string is reported at its opening mark, so its position says little.
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
        return f"ends within the JSON ({error.msg}; cut off?); expected one whole JSON object"
    return f"is not JSON at column {error.pos + 1} ({error.msg}); expected one JSON object"
