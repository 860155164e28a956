"""A document, and documents read from where they lie.

The form that ``speakeasy corpus build`` writes, and the only one that it writes: a directory with
``corpus.json`` (the record of how it was made) and ``part-0000.jsonl``, ``part-0001.jsonl``, ...,
one JSON object a line with ``id``, ``language``, ``text`` and ``origin``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from speakeasy.corpus.plain_text import read_pieces
from speakeasy.errors import DataError

RECORD_FILE = "corpus.json"
PART_PATTERN = "part-*.jsonl"
UNFINISHED = ".unfinished"
"""End of the name of the directory in which ``corpus build`` works."""
LINE_BYTES = 8 * 1024 * 1024
"""The longest line of a .jsonl file: a document of the longest kind, even fully escaped."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text that belongs together.

    Attributes:
        id: its name in its source.
        text: what it says; paragraphs are parted by line ends.
        language: tag, such as ``ca``, ``es`` or ``es-ca``; empty when nobody has said.
        origin: where it came from: ``file:line``, a page's title, a data set's row.
    """

    id: str
    text: str
    language: str
    origin: str

    def to_record(self) -> dict[str, str]:
        """The JSON object of a part file."""
        return {
            "id": self.id,
            "language": self.language,
            "origin": self.origin,
            "text": self.text,
        }


def read_documents(paths: Sequence[Path]) -> Iterator[Document]:
    """The documents of all paths, in the order given, one in memory at a time.

    A path is a directory that ``corpus build`` made; a .jsonl file of objects with ``text``; a
    .txt file, read by the rule of ``corpus.plain_text``; or a directory of such files, which is
    not searched deeper and whose hidden files are left out.

    Raises:
        DataError: a path is missing or holds no text file, a file is not UTF-8, or a line of a
            .jsonl file is not such an object.
    """
    for file in text_files(paths):
        try:
            is_lines = file.suffix.lower() == ".jsonl"
            yield from _read_lines(file) if is_lines else _read_text(file)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror}); check it") from error


def text_files(paths: Sequence[Path]) -> list[Path]:
    """The files that ``read_documents`` reads, sorted within a directory; none comes twice.

    Raises:
        DataError: a path is missing, or has nothing that can be read.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            refuse_unfinished(path)
            patterns = [PART_PATTERN] if (path / RECORD_FILE).is_file() else ["*.txt", "*.jsonl"]
            files = sorted(
                file
                for pattern in patterns
                for file in path.iterdir()
                if fnmatch(file.name.lower(), pattern)
                and file.is_file()
                and not file.name.startswith(".")
            )
            if not files:
                raise DataError(
                    f"{path}: holds no .txt or .jsonl file; 'speakeasy corpus build' makes a "
                    "corpus of other files"
                )
        elif path.is_file() and path.suffix.lower() in (".txt", ".jsonl"):
            files = [path]
        elif path.exists():
            raise DataError(
                f"{path}: is neither a .txt nor a .jsonl file; "
                "'speakeasy corpus build' makes a corpus of other files"
            )
        else:
            raise DataError(f"{path}: no such file or directory; check the spelling")
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def part_build(file: Path) -> Path | None:
    """The finished build that a file of ``text_files`` is part of; None for any other file."""
    is_part = fnmatch(file.name.lower(), PART_PATTERN) and (file.parent / RECORD_FILE).is_file()
    return file.parent if is_part else None


def refuse_unfinished(path: Path) -> None:
    """Refuse the directory in which ``corpus build`` works, whose documents are candidates yet.

    Raises:
        DataError: it is one.
    """
    if path.resolve().name.endswith(UNFINISHED):
        raise DataError(
            f"{path}: an unfinished build; run its 'speakeasy corpus build' again to finish it"
        )


def _read_text(path: Path) -> Iterator[Document]:
    with path.open(encoding="utf-8-sig") as file:
        try:
            for piece in read_pieces(file):
                name = piece.id or f"{path.stem}:{piece.line}"
                yield Document(name, piece.text, piece.language, f"{path}:{piece.line}")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: is not UTF-8 ({error.reason}); 'speakeasy corpus build' reads other "
                "encodings and bad bytes"
            ) from error


def _read_lines(path: Path) -> Iterator[Document]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LINE_BYTES + 1):
            number += 1
            if len(line) > LINE_BYTES:
                raise DataError(f"{path}:{number}: longer than {LINE_BYTES:,} bytes; split it")
            if line.strip():
                yield _document(line, path, number)


def _document(line: bytes, path: Path, number: int) -> Document:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{number}: is not JSON; expected an object with 'text'") from error
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise DataError(f"{path}:{number}: expected an object whose 'text' is a string")
    try:
        record["text"].encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{path}:{number}: holds half of a surrogate pair; repair it") from error
    known = {key: record.get(key) for key in ("id", "language", "origin")}
    fields = {key: value if isinstance(value, str) else "" for key, value in known.items()}
    return Document(
        id=fields["id"] or f"{path.stem}:{number}",
        text=record["text"],
        language=fields["language"],
        origin=fields["origin"] or f"{path}:{number}",
    )
