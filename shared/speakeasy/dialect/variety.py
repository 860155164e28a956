"""Which variety a lexicon is of: the language that is spoken, and the one that comes into it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from speakeasy.dialect.toml_tables import Table
from speakeasy.errors import DataError

_CODE = re.compile(r"[a-z]{2,3}")
_FIELDS = ("name", "matrix", "contact")


@dataclass(frozen=True, slots=True)
class Variety:
    """Which variety a lexicon is of.

    Attributes:
        name: for people.
        matrix: ISO 639 code of the language that is spoken, whose grammar holds.
        contact: of the language whose words come into it; empty where there is none.
    """

    name: str
    matrix: str
    contact: str

    @property
    def languages(self) -> tuple[str, ...]:
        """What the language of an entry may be, such as ``ca``, ``es-ca``, ``es``."""
        if not self.contact:
            return (self.matrix,)
        return (self.contact, f"{self.matrix}-{self.contact}", self.matrix)


CATALONIA = Variety("Spanish of Catalonia", "es", "ca")
"""The packaged lexicon's, and that of a file which names none."""


def read_variety(path: Path, numbered: Table) -> Variety:
    """A ``[variety]`` table of a file.

    Raises:
        DataError: a field is missing, unknown or of no use; names file, line and field.
    """
    line, table = numbered
    where = f"{path}:{line}: variety"
    if not isinstance(table, Mapping):
        raise DataError(f"{where}: is a {type(table).__name__}; expected a table")
    if set(table) != set(_FIELDS):
        found = ", ".join(map(str, table)) or "nothing"
        raise DataError(f"{where}: holds {found}; expected {', '.join(_FIELDS)}")
    for field, value in table.items():
        if not isinstance(value, str) or not (value.strip() or field == "contact"):
            raise DataError(f"{where}: {field} is {value!r}; expected text")
        if field != "name" and value and not _CODE.fullmatch(value):
            raise DataError(f"{where}: {field} is {value!r}; expected a language code such as es")
    if table["matrix"] == table["contact"]:
        raise DataError(
            f"{where}: matrix and contact are both {table['matrix']!r}; expected two languages, "
            'or contact = ""'
        )
    return Variety(**table)
