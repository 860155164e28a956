"""The words and turns of phrase that mark the Spanish of Catalonia, and those that betray another.

``data/lexicon.toml`` is the packaged lexicon; its first lines say what each field means. Written
for this project by a language model, and awaiting review by native speakers. The five categories of
the guide that this project implements are here as the guide lists them, word for word.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from speakeasy.dialect.toml_tables import read_tables
from speakeasy.dialect.variety import CATALONIA, Variety, read_variety
from speakeasy.errors import DataError
from speakeasy.files import read_text

GUIDE_CATEGORIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "interjections": ("ostras", "home", "apa", "collons", "nen", "nena"),
        "family": ("avi", "àvia", "iaia", "iaio"),
        "phrases": ("va", "apa va", "fem", "escolta", "clar", "si us plau", "adéu"),
        "expressions": ("flipar", "molar", "rallat"),
        "places": ("barri", "plaça", "carrer", "rambla"),
    }
)
"""The guide's table "Catalan Tokens Added": its categories and words, in its order."""

CATEGORIES = (
    "interjection",
    "discourse",
    "greeting",
    "address",
    "family",
    "phrase",
    "expression",
    "verb",
    "object",
    "trade",
    "food",
    "place",
    "festival",
    "calque",
    "grammar",
)
CONSTRUCTIONS = ("calque", "grammar")
"""Categories of constructions, which are found by a pattern and are no words for a vocabulary."""

REGISTERS = ("neutral", "informal", "vulgar")
WEIGHTS = (0.25, 0.5, 1.0)

_TEXTS = ("gloss_en", "gloss_es")
_PATTERN_FIELDS = ("pattern", "yes", "no")
_ENTRY_FIELDS = (
    "form", "category", "language", "forms", *_TEXTS, "register", "weight", "collides", "token",
)  # fmt: skip
_ANTI_FIELDS = ("form", "variety", "forms", *_TEXTS)


@dataclass(frozen=True, slots=True)
class Entry:
    """A mark of the variety.

    Attributes:
        form: dictionary form, NFC; unique. Of a construction, its name.
        category: one of ``CATEGORIES``.
        language: of the variety's: ``ca`` Catalan inside Spanish; ``es-ca`` regional Spanish;
            ``es`` general slang.
        forms: surface forms that occur.
        gloss_en: what it means, in English.
        gloss_es: the same in standard Spanish.
        register: one of ``REGISTERS``.
        weight: how sure a mark it is, one of ``WEIGHTS``.
        collides: everyday words that contain one of the forms.
        token: a candidate for one new token of a tokenizer.
        pattern: ignores case. Where there is one, it is matched in place of the forms.
        yes: sentences in which the pattern is found.
        no: sentences in which it is not.
        seed: it stands in the guide.
    """

    form: str
    category: str
    language: str
    forms: tuple[str, ...]
    gloss_en: str
    gloss_es: str
    register: str
    weight: float
    collides: tuple[str, ...]
    token: bool
    pattern: re.Pattern[str] | None = None
    yes: tuple[str, ...] = ()
    no: tuple[str, ...] = ()
    seed: bool = False


@dataclass(frozen=True, slots=True)
class AntiEntry:
    """A mark of another variety of Spanish.

    Attributes:
        form: dictionary form, NFC, or a name; unique.
        variety: where people say it.
        forms: surface forms that occur.
        gloss_en: what it means, in English.
        gloss_es: what is said in its place.
        pattern: as in ``Entry``.
        yes: as in ``Entry``.
        no: as in ``Entry``.
    """

    form: str
    variety: str
    forms: tuple[str, ...]
    gloss_en: str
    gloss_es: str
    pattern: re.Pattern[str] | None = None
    yes: tuple[str, ...] = ()
    no: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lexicon:
    """A whole lexicon, in the order of its file."""

    entries: tuple[Entry, ...]
    anti: tuple[AntiEntry, ...]
    variety: Variety = CATALONIA

    @property
    def categories(self) -> tuple[str, ...]:
        """Those of ``CATEGORIES`` that an entry has."""
        own = {entry.category for entry in self.entries}
        return tuple(category for category in CATEGORIES if category in own)

    @property
    def fingerprint(self) -> str:
        """sha256 of all that decides what is found in a text; notes and glosses do not."""
        parts = [[self.variety.matrix, self.variety.contact]]
        for entry in self.entries:
            found = [entry.form, entry.category, entry.language, str(entry.weight), *entry.forms]
            parts.append([*found, entry.pattern.pattern if entry.pattern else ""])
        for anti in self.anti:
            parts.append([anti.form, *anti.forms, anti.pattern.pattern if anti.pattern else ""])
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@cache
def packaged_lexicon() -> Lexicon:
    """The lexicon that comes with the package."""
    file = files("speakeasy.dialect").joinpath("data", "lexicon.toml")
    return _parse(Path("lexicon.toml"), file.read_text(encoding="utf-8"))


def load_lexicon(path: Path) -> Lexicon:
    """Read and check a lexicon in the form of the packaged one.

    A file without a ``[variety]`` is of the packaged one's: the Spanish of Catalonia.

    Raises:
        DataError: it cannot be read, or an entry breaks a rule of the format; names file, line
            and entry.
    """
    text = read_text(path)
    return _parse(path, text)


def _parse(path: Path, text: str) -> Lexicon:
    tables = read_tables(path, text, ("entry", "anti"), single="variety")
    if not tables["entry"]:
        raise DataError(f"{path}: holds no [[entry]]; expected one at least")
    variety = read_variety(path, tables["variety"][0]) if tables["variety"] else CATALONIA
    return Lexicon(
        tuple(_entry(fields, variety) for fields in _each(path, tables["entry"])),
        tuple(_anti(fields) for fields in _each(path, tables["anti"])),
        variety,
    )


def _each(path: Path, tables: list[tuple[int, Any]]) -> list[_Fields]:
    """The tables as fields to be read, no form coming twice."""
    seen: dict[str, int] = {}
    result = []
    for line, table in tables:
        if not isinstance(table, Mapping):
            raise DataError(f"{path}:{line}: is a {type(table).__name__}; expected a table")
        fields = _Fields(f"{path}:{line}", table)
        form = fields.word("form")
        if form in seen:
            raise fields.wrong("form", f"is taken by line {seen[form]}; merge the two")
        seen[form] = line
        result.append(fields)
    return result


def _entry(fields: _Fields, variety: Variety) -> Entry:
    fields.require(_ENTRY_FIELDS, optional=(*_PATTERN_FIELDS, "seed"))
    entry = Entry(
        form=fields.word("form"),
        category=fields.choice("category", CATEGORIES),
        language=fields.choice("language", variety.languages),
        forms=fields.words("forms"),
        gloss_en=fields.text("gloss_en"),
        gloss_es=fields.text("gloss_es"),
        register=fields.choice("register", REGISTERS),
        weight=float(fields.choice("weight", WEIGHTS)),
        collides=fields.words("collides", may_be_empty=True),
        token=fields.flag("token"),
        pattern=fields.pattern(),
        yes=fields.examples("yes"),
        no=fields.examples("no"),
        seed=fields.flag("seed"),
    )
    known = [form.casefold() for form in (entry.form, *entry.forms)]
    for word in entry.collides:
        if not any(form in word.casefold() for form in known):
            raise fields.wrong("collides", f"has {word!r}, which contains none of the forms")
    if entry.category in CONSTRUCTIONS:
        if entry.pattern is None:
            raise fields.wrong("pattern", f"is missing; a {entry.category} is found by a pattern")
        for form in entry.forms:
            if not entry.pattern.search(form):
                raise fields.wrong("pattern", f"does not find the form {form!r}")
    return entry


def _anti(fields: _Fields) -> AntiEntry:
    fields.require(_ANTI_FIELDS, optional=_PATTERN_FIELDS)
    return AntiEntry(
        form=fields.word("form"),
        variety=fields.text("variety"),
        forms=fields.words("forms"),
        gloss_en=fields.text("gloss_en"),
        gloss_es=fields.text("gloss_es"),
        pattern=fields.pattern(),
        yes=fields.examples("yes"),
        no=fields.examples("no"),
    )


class _Fields:
    """One table, its fields checked as they are read."""

    def __init__(self, where: str, table: Mapping[str, Any]) -> None:
        self._where = where
        self._table = table

    def wrong(self, name: str, what: str) -> DataError:
        form = self._table.get("form")
        entry = f" entry {form!r}:" if isinstance(form, str) and name != "form" else ""
        return DataError(f"{self._where}:{entry} {name} {what}")

    def require(self, names: tuple[str, ...], optional: tuple[str, ...]) -> None:
        for name in names:
            if name not in self._table:
                raise self.wrong(name, "is missing")
        for name in self._table:
            if name not in names and name not in optional:
                raise self.wrong(name, f"is no field; expected {', '.join((*names, *optional))}")

    def text(self, name: str) -> str:
        value = self._table.get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(name, f"is {value!r}; expected text")
        return value

    def word(self, name: str) -> str:
        return self._checked_word(name, self.text(name))

    def words(self, name: str, *, may_be_empty: bool = False) -> tuple[str, ...]:
        values = self._strings(name)
        if not values and not may_be_empty:
            raise self.wrong(name, "is empty; expected one at least")
        for value in values:
            self._checked_word(name, value)
        if len(set(values)) < len(values):
            raise self.wrong(name, "has the same one twice")
        return values

    def choice(self, name: str, choices: tuple[Any, ...]) -> Any:
        value = self._table[name]
        if isinstance(value, bool) or value not in choices:
            raise self.wrong(name, f"is {value!r}; expected {', '.join(map(str, choices))}")
        return value

    def flag(self, name: str) -> bool:
        value = self._table.get(name, False)
        if not isinstance(value, bool):
            raise self.wrong(name, f"is {value!r}; expected true or false")
        return value

    def examples(self, name: str) -> tuple[str, ...]:
        return self._strings(name) if name in self._table else ()

    def pattern(self) -> re.Pattern[str] | None:
        """The pattern, tried on its own examples."""
        present = [name for name in _PATTERN_FIELDS if name in self._table]
        if not present:
            return None
        if len(present) < len(_PATTERN_FIELDS):
            raise self.wrong(present[0], "stands alone; a pattern has examples, yes and no")
        try:
            pattern = re.compile(self.text("pattern"), re.IGNORECASE)
        except re.error as error:
            raise self.wrong("pattern", f"is no regular expression: {error}") from None
        for name in ("yes", "no"):
            if not self.examples(name):
                raise self.wrong(name, "is empty; expected one example at least")
            for example in self.examples(name):
                if bool(pattern.search(example)) != (name == "yes"):
                    verb = "is not found in" if name == "yes" else "is found in"
                    raise self.wrong("pattern", f"{verb} its {name!r} example {example!r}")
        return pattern

    def _strings(self, name: str) -> tuple[str, ...]:
        value = self._table[name]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(name, f"is {value!r}; expected a list of strings")
        return tuple(value)

    def _checked_word(self, name: str, value: str) -> str:
        if value != unicodedata.normalize("NFC", value):
            raise self.wrong(name, f"has {value!r}, which is not in Unicode form NFC")
        if "\N{RIGHT SINGLE QUOTATION MARK}" in value:
            raise self.wrong(name, f"has {value!r}; expected the straight apostrophe (')")
        if not value or value != " ".join(value.split()):
            raise self.wrong(name, f"has {value!r}; expected words with single spaces between them")
        return value
