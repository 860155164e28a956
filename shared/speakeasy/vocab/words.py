"""Words that a vocabulary is to hold, and the exact strings that each of them takes in text.

To a tokenizer `nen`, ` nen`, `Nen` and `¡Nen` are four unrelated strings. A ``Word`` lists those
that are to become one token each.

A file of words is UTF-8 text with an entry a line; ``#`` begins a comment, at the line's start or
behind two spaces::

    # my words
    xafogor            a word: bare, after a space, capitalized, and both
    " ¡Xafogor"        a JSON string: this very form and no other
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from speakeasy.dialect.lexicon import (
    CONSTRUCTIONS,
    GUIDE_CATEGORIES,
    Lexicon,
    packaged_lexicon,
)
from speakeasy.errors import DataError, UsageError
from speakeasy.files import read_text, write_text

_COMMENT = re.compile(r"^\s*#.*|\s\s#.*")


LONGEST = 100
"""Characters of the longest word that a file of words may have."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word, or a phrase.

    Attributes:
        text: its dictionary form, NFC.
        forms: the strings that are to become one token each, a leading space being part of them.
        category: of the guide or of the lexicon; empty for a user's own.
    """

    text: str
    forms: tuple[str, ...]
    category: str = ""


def positions(text: str) -> tuple[str, str, str, str]:
    """Bare, after a space, capitalized, and both: `nen`, ` nen`, `Nen`, ` Nen`.

    The first letter is the one that gets the capital, whatever stands before it (`¡Ostras`).
    """
    capital = capitalized(text)
    return text, f" {text}", capital, f" {capital}"


def rule_forms(text: str) -> tuple[str, ...]:
    """The forms of a word about which nothing else is known: its ``positions``, each once."""
    return tuple(dict.fromkeys(positions(text)))


def capitalized(text: str) -> str:
    """The text with its first letter as a capital, if it is a letter that has one."""
    for place, character in enumerate(text):
        if character.isalpha():
            return text[:place] + character.title() + text[place + 1 :]
    return text


def guide_words(categories: Iterable[str] | None = None) -> list[Word]:
    """The guide's words, all or those of some of its categories, in its order.

    Raises:
        UsageError: the guide has no such category.
    """
    chosen = _chosen(GUIDE_CATEGORIES, categories)
    return [
        Word(text, rule_forms(text), category)
        for category in chosen
        for text in GUIDE_CATEGORIES[category]
    ]


def lexicon_words(
    lexicon: Lexicon | None = None, categories: Iterable[str] | None = None
) -> list[Word]:
    """A lexicon's words and phrases with all their surface forms, by default the packaged one's.

    Constructions (``CONSTRUCTIONS``) are left out: what is said with them are everyday words.

    Raises:
        UsageError: no word of the lexicon has such a category.
    """
    entries = [
        entry
        for entry in (lexicon or packaged_lexicon()).entries
        if entry.category not in CONSTRUCTIONS
    ]
    chosen = set(_chosen(dict.fromkeys(entry.category for entry in entries), categories))
    return [
        Word(
            # The name of an entry may say more than its forms do: "parada (puesto)".
            entry.form if entry.form in entry.forms else entry.forms[0],
            tuple(dict.fromkeys(form for text in entry.forms for form in rule_forms(text))),
            entry.category,
        )
        for entry in entries
        if entry.category in chosen
    ]


def choose_words(
    file: Path | None, categories: str | None, lexicon: Literal["guide", "full"]
) -> list[Word]:
    """The words that ``--words``, ``--categories`` and ``--lexicon`` ask for together.

    Args:
        file: a file of words; the guide's or the lexicon's without one.
        categories: names with commas between them; all without.
        lexicon: the guide's words, or all of the packaged lexicon.

    Raises:
        UsageError: the options exclude each other, or a category does not exist.
        DataError: see ``load_words``.
    """
    if file is not None:
        for option, given in (("--categories", categories), ("--lexicon full", lexicon == "full")):
            if given:
                raise UsageError(f"{option}: cannot be combined with --words, which has no such")
        return load_words(file)
    names = None if categories is None else [name.strip() for name in categories.split(",")]
    return lexicon_words(categories=names) if lexicon == "full" else guide_words(names)


def forms_of(words: Iterable[Word]) -> tuple[list[str], list[str]]:
    """All forms of the words, each once: those of one word, and those of several."""
    forms = list(dict.fromkeys(form for word in words for form in word.forms))
    several = {form for form in forms if len(form.split()) > 1}
    return [form for form in forms if form not in several], [f for f in forms if f in several]


def _chosen(known: Mapping[str, object], categories: Iterable[str] | None) -> list[str]:
    wanted = list(known) if categories is None else list(categories)
    for name in wanted:
        if name not in known:
            raise UsageError(f"--categories {name}: expected one of {', '.join(known)}")
    return [name for name in known if name in wanted]


def forms_in_corpus(words: Sequence[Word], counts: Mapping[str, int]) -> list[Word]:
    """The words with those of their other forms that occur in a corpus, the commonest first.

    Added are inflected forms, capitals throughout, and all of these with the punctuation that a
    tokenizer leaves on the word (`¡Ostras`, `'avi`). How a word is inflected is what the packaged
    lexicon says of it; a word that is not in the lexicon has its plurals by rule.

    Args:
        words: the words; their own forms stay, whether they occur or not.
        counts: how often each pre-token of the model's tokenizer occurs, as ``mining.count_forms``
            gives it. What is glued to a word depends on the tokenizer, and stands in here.
    """
    inflected = _inflections()
    cores: dict[str, list[int]] = {}
    for place, word in enumerate(words):
        known = inflected.get(word.text.casefold()) or _plurals(word.text)
        for text in {word.text.casefold(), *(form.casefold() for form in known)}:
            cores.setdefault(text, []).append(place)
    found: dict[int, list[str]] = {}
    for form in sorted(counts, key=lambda form: (-counts[form], form)):
        for place in cores.get(core(form), ()):
            found.setdefault(place, []).append(form)
    return [
        replace(word, forms=tuple(dict.fromkeys((*word.forms, *found.get(place, ())))))
        for place, word in enumerate(words)
    ]


def core(form: str) -> str:
    """The word inside of a form: small letters, NFC, no space and no punctuation around it."""
    text = unicodedata.normalize("NFC", form).casefold()
    letters = [place for place, character in enumerate(text) if character.isalnum()]
    return text[letters[0] : letters[-1] + 1] if letters else ""


def _inflections() -> dict[str, tuple[str, ...]]:
    return {
        entry.form.casefold(): entry.forms
        for entry in packaged_lexicon().entries
        if entry.category not in CONSTRUCTIONS
    }


def _plurals(text: str) -> tuple[str, ...]:
    """Regular plurals, Spanish and Catalan: noias, noies; avis; calçots, hoteles."""
    last = text[-1:].casefold()
    if last == "a":
        return (f"{text}s", f"{text[:-1]}es")
    return (f"{text}s",) if last in "eiouàéèíòóú" else (f"{text}s", f"{text}es")


def load_words(path: Path) -> list[Word]:
    """The words of a file, each once, with the forms that its lines ask for.

    Raises:
        DataError: it cannot be read, holds no word, or a line is not one; names file and line.
    """
    text = read_text(path)
    forms: dict[str, dict[str, None]] = {}
    for word, own in _entries(path, text):
        forms.setdefault(word, {}).update(dict.fromkeys(own))
    if not forms:
        raise DataError(f"{path}: holds no word; expected one a line")
    return [Word(word, tuple(own)) for word, own in forms.items()]


def _entries(path: Path, text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Of each line: the word, and its forms."""
    for number, line in enumerate(text.split("\n"), 1):
        where, stripped = f"{path}:{number}", line.strip()
        if stripped.startswith('"'):
            form = _exact(where, stripped)
            yield unicodedata.normalize("NFC", form.strip()), (form,)
            continue
        word = unicodedata.normalize("NFC", " ".join(_COMMENT.sub("", line).split()))
        if not word:
            continue
        if any(unicodedata.category(character) == "Cc" for character in word):
            raise DataError(f"{where}: {word!r} has a control character; expected a word")
        _check_length(where, word)
        yield word, rule_forms(word)


def _exact(where: str, line: str) -> str:
    try:
        form, end = json.JSONDecoder().raw_decode(line)
    except ValueError as error:
        message = f'{where}: {line[:40]} is no JSON string ({error}); expected one such as " nen"'
        raise DataError(message) from None
    rest = line[end:]
    if _COMMENT.sub("", rest).strip():
        raise DataError(f"{where}: {rest.strip()[:40]!r} behind the string; expected '  # comment'")
    if not form.strip():
        raise DataError(f"{where}: the form is empty; expected a word")
    try:
        form.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: the form holds half of a surrogate pair; repair it") from None
    _check_length(where, form)
    return form


def _check_length(where: str, word: str) -> None:
    if len(word) > LONGEST:
        raise DataError(
            f"{where}: {word[:20]!r}... has {len(word):,} characters; expected a word of {LONGEST} "
            "at most"
        )


def write_words(path: Path, forms: Iterable[tuple[str, str]], heading: Iterable[str] = ()) -> None:
    """Write a file of words that ``load_words`` reads back: exact forms, each with a comment.

    Args:
        path: written whole or not at all.
        forms: form and comment.
        heading: lines of comment to begin with.
    """
    lines = [f"# {line}".rstrip() for line in heading]
    quoted = [(json.dumps(form, ensure_ascii=False), comment) for form, comment in forms]
    width = max((len(form) for form, _ in quoted), default=0)
    lines += [f"{form:<{width}}  # {comment}" if comment else form for form, comment in quoted]
    write_text(path, "".join(f"{line}\n" for line in lines))
