"""TOML files that are lists of tables, such as ``[[prompt]]``, with the line of each table."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from speakeasy.errors import DataError

_TOML_LINE = re.compile(r"\s*\(at line (\d+), column \d+\)")

Table = tuple[int, Any]
"""The line that a table begins on, from 1, and the table, which may be anything as yet."""


def read_tables(
    path: Path, text: str, names: Collection[str], *, single: str = ""
) -> dict[str, list[Table]]:
    """The tables of a TOML text by name, each name present, in the text's order.

    Where tables are written in line (``prompt = [{...}]``) they have no header to count, and
    their line is 1.

    Args:
        path: names the file in messages.
        text: its content.
        names: the lists that it may hold.
        single: the one plain table, such as ``[variety]``, that it may hold beside them; comes
            as a list of one, or of none.

    Raises:
        DataError: it is not TOML, holds something else, or one of the names is no list.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _TOML_LINE.search(str(error))
        line = int(place[1]) if place else text.count("\n") + 1
        raise DataError(f"{path}:{line}: not TOML: {_TOML_LINE.sub('', str(error))}") from None
    expected = " and ".join(f"[[{name}]]" for name in names)
    for name in document:
        if name not in names and name != single:
            raise DataError(f"{path}: holds {name!r}; expected {expected} tables alone")
    tables = {name: _numbered(path, text, name, document) for name in names}
    if single:
        header = re.search(rf"^\s*\[\s*{re.escape(single)}\s*\]", text, re.MULTILINE)
        line = text.count("\n", 0, header.end()) + 1 if header else 1
        tables[single] = [(line, document[single])] if single in document else []
    return tables


def _numbered(path: Path, text: str, name: str, document: Mapping[str, Any]) -> list[Table]:
    tables = document.get(name, [])
    if not isinstance(tables, list):
        raise DataError(f"{path}: {name} is no list; expected [[{name}]] tables")
    header = re.compile(rf"^\s*\[\[\s*{re.escape(name)}\s*\]\]", re.MULTILINE)
    starts = [text.count("\n", 0, match.end()) + 1 for match in header.finditer(text)]
    lines = starts if len(starts) == len(tables) else [1] * len(tables)
    return list(zip(lines, tables, strict=True))
