"""What a corpus is built from: the files behind the names on the command line, and what they hold.

A source is read here only as far as it must be to cut it into documents. Parsing and cleaning,
which take the time, are for ``corpus.process``, possibly in other processes.
"""

from __future__ import annotations

import bz2
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Literal

from speakeasy.corpus.encoding import open_text
from speakeasy.corpus.hub import PREFIX, parse, read_rows
from speakeasy.corpus.plain_text import read_pieces
from speakeasy.corpus.wiki_dump import read_pages
from speakeasy.errors import DataError

Kind = Literal["text", "subtitles", "html", "wikipedia", "hub"]

SUFFIXES: dict[str, Kind] = {
    ".txt": "text",
    ".srt": "subtitles",
    ".vtt": "subtitles",
    ".html": "html",
    ".htm": "html",
    ".xml": "wikipedia",
    ".xml.bz2": "wikipedia",
}
"""How a file is read, by the end of its name."""

FILE_BYTES = 8 * 1024 * 1024
"""The largest subtitle file or web page that is read; either is read whole."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file, or one data set of the Hub.

    Attributes:
        number: which name on the command line it belongs to, from 0.
        name: the path, or ``hf:...`` as given.
        kind: how it is read.
        bytes: the file's size; 0 where that is not known.
    """

    number: int
    name: str
    kind: Kind
    bytes: int


@dataclass(frozen=True, slots=True)
class Raw:
    """A document before it is parsed and cleaned.

    Attributes:
        number: of the source's name on the command line.
        kind: how ``body`` is to be read.
        id: its name.
        origin: where it stands.
        body: text, or a whole file's bytes.
        cut: it goes on in the next one.
    """

    number: int
    kind: Kind
    id: str
    origin: str
    body: str | bytes
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be read, and was passed over."""

    number: int
    origin: str
    reason: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"


@dataclass(slots=True)
class Place:
    """How far the reading of a file has come; ``tell`` gives bytes of the file."""

    tell: Callable[[], int] = field(default=lambda: 0)


def find_sources(names: Sequence[str]) -> list[Source]:
    """The files behind the names: as named, or all of a directory and those in it, sorted.

    Hidden files are left out, and so are files of a directory that no reader is for. A file that
    comes up twice is read once.

    Raises:
        DataError: a name is no file, directory or ``hf:`` data set, or has nothing to read.
    """
    found: dict[str, Source] = {}
    for number, name in enumerate(names):
        if name.startswith(PREFIX):
            parse(name)
            found.setdefault(name, Source(number, name, "hub", 0))
            continue
        path = Path(name)
        for file in _files(path):
            kind = _kind(file)
            if kind is None:
                raise DataError(
                    f"{file}: cannot be told what it is by its name; expected one that ends in "
                    f"{', '.join(SUFFIXES)}"
                )
            resolved = str(file.resolve())
            found.setdefault(resolved, Source(number, str(file), kind, file.stat().st_size))
    return list(found.values())


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        what = "is no regular file" if path.exists() else "no such file or directory"
        raise DataError(f"{path}: {what}; expected files, a directory, or {PREFIX}NAME")
    files = sorted(
        file
        for file in path.rglob("*")
        if _kind(file)
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.is_file()
    )
    if not files:
        raise DataError(f"{path}: holds no file that ends in {', '.join(SUFFIXES)}")
    return files


def _kind(path: Path) -> Kind | None:
    name = path.name.lower()
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


def read_source(source: Source, place: Place) -> Iterator[Raw | Problem]:
    """The documents of a source, in its order, and what could not be read of it.

    Args:
        source: what to read.
        place: told how far reading has come.

    Raises:
        DataError: a data set of the Hub cannot be had. What files hold never raises.
    """
    readers = {"text": _read_text, "wikipedia": _read_wikipedia, "hub": _read_hub}
    odd = printable(source.name) != source.name
    try:
        for item in readers.get(source.kind, _read_whole)(source, place):
            if odd:
                item = replace(item, origin=printable(item.origin))
                item = replace(item, id=printable(item.id)) if isinstance(item, Raw) else item
            yield item
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error}); passed over"
        yield Problem(source.number, printable(source.name), reason)


def printable(name: str) -> str:
    """A name that can be written in UTF-8: bytes of a file's name that are not become ``?``."""
    return name.encode("utf-8", errors="replace").decode("utf-8")


def _read_text(source: Source, place: Place) -> Iterator[Raw | Problem]:
    path = Path(source.name)
    empty = True
    with open_text(path) as file:
        if isinstance(file, io.TextIOWrapper):
            place.tell = file.buffer.tell
        for piece in read_pieces(file):
            empty = False
            name = piece.id or f"{path.stem}:{piece.line}"
            origin = f"{path}:{piece.line}"
            yield Raw(source.number, "text", name, origin, piece.text, piece.cut)
        place.tell = lambda: source.bytes
    if empty:
        yield Problem(source.number, source.name, "is empty")


def _read_whole(source: Source, place: Place) -> Iterator[Raw | Problem]:
    """Subtitles and web pages."""
    path = Path(source.name)
    place.tell = lambda: source.bytes
    if source.bytes > FILE_BYTES:
        reason = f"has {source.bytes:,} bytes, more than {FILE_BYTES:,}; passed over"
        yield Problem(source.number, source.name, reason)
        return
    data = path.read_bytes()
    if not data.strip():
        yield Problem(source.number, source.name, "is empty")
        return
    yield Raw(source.number, source.kind, path.stem, source.name, data)


def _read_wikipedia(source: Source, place: Place) -> Iterator[Raw | Problem]:
    empty = True
    with Path(source.name).open("rb") as file:
        place.tell = file.tell
        stream: BinaryIO = file
        if source.name.lower().endswith(".bz2"):
            stream = bz2.BZ2File(file)  # type: ignore[assignment]
        try:
            for page in read_pages(stream):
                empty = False
                origin = f"{source.name}: {page.title}"
                if page.text is None:
                    yield Problem(source.number, origin, "is longer than an article can be")
                    continue
                yield Raw(source.number, "wikipedia", page.title, origin, page.text)
            if empty:
                yield Problem(source.number, source.name, "holds no article")
        except EOFError:
            reason = "ends in the middle; what came before was read"
            yield Problem(source.number, source.name, reason)
        except DataError as error:
            yield Problem(source.number, source.name, f"{error}; what came before was read")
        place.tell = lambda: source.bytes


def _read_hub(source: Source, place: Place) -> Iterator[Raw | Problem]:
    for number, text in enumerate(read_rows(source.name)):
        origin = f"{source.name}#{number}"
        if text is None:
            yield Problem(source.number, origin, "has no text in this field")
        else:
            yield Raw(source.number, "hub", f"{source.name}#{number}", origin, text)
