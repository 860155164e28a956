"""Where the entries of a lexicon stand in a text."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

from speakeasy.dialect.lexicon import CONSTRUCTIONS, AntiEntry, Entry
from speakeasy.evaluation.words import Word, fold, located_words

EntryT = TypeVar("EntryT", bound=Entry | AntiEntry)

_ELIDED = re.compile(r"[dlmnst]'(?=\w)")
_LINKED_NAME = re.compile(
    r"[ ](?:(?:de|del|dels|des)[ ](?:(?:la|les|las|los|el)[ ]|l')?|(?:d|l)')?(?=\w)"
)
_WORD_BEFORE = re.compile(r"(?<![\w'-])(\w[\w'·-]*) $")
_SENTENCE_START = re.compile(r"(?:^|[.!?…:¡¿\"«“(\n—–-])\s*$")


@dataclass(frozen=True, slots=True)
class Marker(Generic[EntryT]):
    """An entry where it was found.

    Attributes:
        entry: of the lexicon.
        start, end: its characters in the folded text.
    """

    entry: EntryT
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Form(Generic[EntryT]):
    """A form as words, with what stands between them: one space, or a comma and a space."""

    words: tuple[str, ...]
    gaps: tuple[str, ...]
    entry: EntryT


class Matcher(Generic[EntryT]):
    """Finds entries as whole words, in any case; longest first, and none inside another.

    An entry that has a pattern is found by it alone, and where the pattern holds one of the
    entry's forms, the form is what counts as found: the rest is context. A word after an elided
    article or pronoun is a whole word (`l'avi`); a part of a hyphenated one is not (`Poble-sec`).

    Proper names are passed over, and all in them: a place that a name follows (`plaça de
    l'Ajuntament`, `carrer Balmes`), and a word with a capital right after another with one (`Bar
    Botiga`). Patterns are left to say so themselves: `barri` passes `Nou Barris` over.

    Args:
        entries: in the order of their file, which decides between matches of the same length.
    """

    def __init__(self, entries: Iterable[EntryT]) -> None:
        self._order: dict[str, int] = {}
        self._patterns: list[tuple[re.Pattern[str], EntryT]] = []
        self._forms: defaultdict[str, list[_Form[EntryT]]] = defaultdict(list)
        for entry in entries:
            self._order[entry.form] = len(self._order)
            if entry.pattern is not None:
                self._patterns.append((entry.pattern, entry))
            if getattr(entry, "category", "") not in CONSTRUCTIONS:
                for text in entry.forms:
                    form = _as_form(text, entry)
                    self._forms[form.words[0]].append(form)

    def find(self, text: str) -> list[Marker[EntryT]]:
        """All markers of a text, in its order; their places are those of ``fold(text)``."""
        folded = fold(text)
        return self.find_in(folded, located_words(folded))

    def find_in(self, folded: str, words: Sequence[Word]) -> list[Marker[EntryT]]:
        """The same of a text that is folded and cut into words already."""
        cores: defaultdict[str, list[Marker[EntryT]]] = defaultdict(list)
        found: list[Marker[EntryT]] = []
        for marker in self._with_forms(folded, words):
            entry = marker.entry
            if entry.pattern is None:
                found.append(marker)
            else:
                cores[entry.form].append(marker)
        found += self._with_patterns(folded, cores)
        names = [
            name
            for marker in found
            if (name := _name_of(folded, marker.entry, marker.start, marker.end))
        ]
        return self._without_overlaps(
            marker
            for marker in found
            if not any(start < marker.end and marker.start < end for start, end in names)
        )

    def _with_forms(self, folded: str, words: Sequence[Word]) -> Iterator[Marker[EntryT]]:
        for place, word in enumerate(words):
            yield from self._forms_from(folded, words, place, word)
            if elided := _ELIDED.match(word.text):
                rest = Word(word.text[elided.end() :], word.start + elided.end(), word.end)
                yield from self._forms_from(folded, words, place, rest)

    def _forms_from(
        self, folded: str, words: Sequence[Word], place: int, first: Word
    ) -> Iterator[Marker[EntryT]]:
        for form in self._forms.get(first.text, ()):
            stretch = [first, *words[place + 1 : place + len(form.words)]]
            if tuple(word.text for word in stretch) == form.words and all(
                " ".join(folded[one.end : other.start].split()) == gap
                for one, other, gap in zip(stretch, stretch[1:], form.gaps, strict=False)
            ):
                yield Marker(form.entry, first.start, stretch[-1].end)

    def _with_patterns(
        self, folded: str, cores: dict[str, list[Marker[EntryT]]]
    ) -> Iterator[Marker[EntryT]]:
        lines = folded.replace("\n", ".")  # a line's end is a boundary; the places stay
        for pattern, entry in self._patterns:
            for match in pattern.finditer(lines):
                start, end = match.span()
                inside = [
                    core
                    for core in cores.get(entry.form, ())
                    if start <= core.start and core.end <= end
                ]
                if inside:
                    yield from inside
                elif stretch := _trimmed(folded, start, end):
                    yield Marker(entry, *stretch)

    def _without_overlaps(self, found: Iterable[Marker[EntryT]]) -> list[Marker[EntryT]]:
        kept: list[Marker[EntryT]] = []
        for marker in sorted(
            found,
            key=lambda one: (one.start - one.end, one.start, self._order[one.entry.form]),
        ):
            if all(marker.end <= other.start or other.end <= marker.start for other in kept):
                kept.append(marker)
        return sorted(kept, key=lambda marker: marker.start)


def _as_form(text: str, entry: EntryT) -> _Form[EntryT]:
    folded = fold(text)
    words = located_words(folded)
    gaps = tuple(folded[one.end : other.start].strip() for one, other in pairwise(words))
    return _Form(tuple(word.text for word in words), gaps, entry)


def _trimmed(folded: str, start: int, end: int) -> tuple[int, int] | None:
    """A stretch from its first word's beginning to its last word's end."""
    words = located_words(folded[start:end])
    return (start + words[0].start, start + words[-1].end) if words else None


def _name_of(folded: str, entry: Entry | AntiEntry, start: int, end: int) -> tuple[int, int] | None:
    """The proper name of several words that a marker is part of, if it is; start and end."""
    if entry.pattern is not None or any(form != form.lower() for form in entry.forms):
        return None  # a pattern says itself what it is not; or the entry is a name: Sant Jordi
    if getattr(entry, "category", "") == "place":
        link = _LINKED_NAME.match(folded, end)
        if link and folded[link.end()].isupper():
            return start, link.end() + 1
    if not folded[start].isupper() or folded[start:end].isupper():
        return None
    before = folded[:start]
    previous = _WORD_BEFORE.search(before)
    if (
        previous is None
        or not previous[1][0].isupper()
        or _SENTENCE_START.search(before[: previous.start()])
    ):
        return None
    return previous.start(), end
