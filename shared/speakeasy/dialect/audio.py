"""Dialogues for native speakers to read aloud: the packaged ones, or a user's own.

They are the ``[[audio]]`` tables of a file of prompts, with the fields of ``Dialogue``, as in
``data/prompts.toml``. What is heard in the recordings shows what text cannot: the accent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from speakeasy.dialect.toml_tables import Table, read_tables
from speakeasy.errors import DataError
from speakeasy.files import read_text

_FIELDS = ("id", "title", "scenario", "lines", "note")
_LINE_FIELDS = ("speaker", "text")


@dataclass(frozen=True, slots=True)
class Line:
    """What one speaker says in one go."""

    speaker: str
    text: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A dialogue to read aloud.

    Attributes:
        id: unique within its file; recordings are named after it.
        title: a few words.
        scenario: where it takes place, and who speaks.
        lines: in order, two at least.
        note: what to listen for; for those who judge the recording, not for those who read.
    """

    id: str
    title: str
    scenario: str
    lines: tuple[Line, ...]
    note: str = ""

    @property
    def speakers(self) -> tuple[str, ...]:
        """Their names, in the order in which they first speak."""
        return tuple(dict.fromkeys(line.speaker for line in self.lines))

    @property
    def words(self) -> int:
        """White-space separated words of all lines."""
        return sum(len(line.text.split()) for line in self.lines)


@cache
def packaged_dialogues() -> tuple[Dialogue, ...]:
    """The dialogues that come with the package."""
    file = files("speakeasy.dialect").joinpath("data", "prompts.toml")
    return _parse(Path("prompts.toml"), file.read_text(encoding="utf-8"))


def read_dialogues(path: Path) -> tuple[Dialogue, ...]:
    """Read a user's file of prompts and dialogues.

    Raises:
        DataError: it cannot be read, holds no dialogue, or one that cannot be used; names file
            and line.
    """
    return _parse(path, read_text(path))


def _parse(path: Path, text: str) -> tuple[Dialogue, ...]:
    dialogues = tuple(_checked(path, read_tables(path, text, ("prompt", "audio"))["audio"]))
    if not dialogues:
        raise DataError(f"{path}: holds no dialogues; expected one [[audio]] table at least")
    return dialogues


def _checked(path: Path, tables: Iterable[Table]) -> Iterator[Dialogue]:
    seen: dict[str, int] = {}
    for number, table in tables:
        where = f"{path}:{number}"
        _expect_fields(where, "the dialogue", table, _FIELDS)
        dialogue = Dialogue(
            id=_text(where, "id", table),
            title=_text(where, "title", table),
            scenario=_text(where, "scenario", table),
            lines=_lines(where, table.get("lines")),
            note=_text(where, "note", table) if "note" in table else "",
        )
        if dialogue.id in seen:
            raise DataError(f"{where}: id {dialogue.id!r} is taken by line {seen[dialogue.id]}")
        seen[dialogue.id] = number
        yield dialogue


def _lines(where: str, lines: Any) -> tuple[Line, ...]:
    if not isinstance(lines, list) or len(lines) < 2:
        raise DataError(f"{where}: lines is {lines!r}; expected a list of two lines at least")
    found = []
    for number, line in enumerate(lines, 1):
        place = f"{where}: line {number}"
        _expect_fields(place, "it", line, _LINE_FIELDS)
        found.append(Line(_text(place, "speaker", line), _text(place, "text", line)))
    return tuple(found)


def _expect_fields(where: str, what: str, table: Any, names: tuple[str, ...]) -> None:
    expected = f"expected {', '.join(names)}"
    if not isinstance(table, Mapping):
        raise DataError(f"{where}: is a {type(table).__name__}; {expected}")
    for name in table:
        if name not in names:
            raise DataError(f"{where}: {what} has {name!r}; {expected}")


def _text(where: str, name: str, table: Mapping[str, Any]) -> str:
    value = table.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name} is {value!r}; expected text")
    return " ".join(value.split())
