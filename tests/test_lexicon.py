"""The lexicon: the packaged one keeps its rules, and a broken one is named by file, line, entry."""

from __future__ import annotations

from pathlib import Path

import pytest

from speakeasy.dialect.lexicon import (
    CATEGORIES,
    GUIDE_CATEGORIES,
    REGISTERS,
    load_lexicon,
    packaged_lexicon,
)
from speakeasy.dialect.variety import CATALONIA, Variety
from speakeasy.errors import DataError

WORD = """
[[entry]]
form = "nen"
category = "interjection"
language = "ca"
forms = ["nen", "nens"]
gloss_en = "mate"
gloss_es = "tío"
register = "informal"
weight = 1.0
collides = ["tienen"]
token = true
"""
CALQUE = """
[[entry]]
form = "hacer tarde"
category = "calque"
language = "es-ca"
forms = ["hago tarde"]
gloss_en = "be late"
gloss_es = "llegar tarde"
register = "neutral"
weight = 1.0
collides = []
token = false
pattern = '\\bhago tarde\\b'
yes = ["Que hago tarde."]
no = ["Llego tarde."]
"""
ANTI = """
[[anti]]
form = "vos"
variety = "Rioplatense"
forms = ["vos"]
gloss_en = "you"
gloss_es = "tú"
"""


def write(directory: Path, text: str) -> Path:
    file = directory / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_packaged_lexicon_is_whole() -> None:
    lexicon = packaged_lexicon()
    assert len(lexicon.entries) == 540
    assert len(lexicon.anti) == 42
    assert sum(entry.pattern is not None for entry in lexicon.entries) == 170
    assert {entry.category for entry in lexicon.entries} == set(CATEGORIES)
    assert {entry.language for entry in lexicon.entries} == set(lexicon.variety.languages)
    assert {entry.register for entry in lexicon.entries} == set(REGISTERS)
    assert lexicon.variety == CATALONIA
    assert lexicon.variety.languages == ("ca", "es-ca", "es")
    assert lexicon.categories == CATEGORIES
    assert packaged_lexicon() is lexicon


def test_the_guide_s_words_are_the_seeds_of_the_lexicon() -> None:
    words = [word for words in GUIDE_CATEGORIES.values() for word in words]
    assert len(words) == 24
    assert words == [entry.form for entry in packaged_lexicon().entries if entry.seed]
    assert list(GUIDE_CATEGORIES) == [
        "interjections",
        "family",
        "phrases",
        "expressions",
        "places",
    ]


def test_every_field_is_held(tmp_path: Path) -> None:
    lexicon = load_lexicon(write(tmp_path, WORD + CALQUE + ANTI))
    nen, late = lexicon.entries
    assert (nen.form, nen.category, nen.language, nen.register) == (
        "nen",
        "interjection",
        "ca",
        "informal",
    )
    assert (nen.forms, nen.collides, nen.weight) == (("nen", "nens"), ("tienen",), 1.0)
    assert (nen.gloss_en, nen.gloss_es) == ("mate", "tío")
    assert nen.token
    assert not nen.seed
    assert nen.pattern is None
    assert late.pattern is not None
    assert late.pattern.search("que HAGO tarde")
    assert (late.yes, late.no) == (("Que hago tarde.",), ("Llego tarde.",))
    (vos,) = lexicon.anti
    assert (vos.form, vos.variety, vos.forms, vos.pattern) == (
        "vos",
        "Rioplatense",
        ("vos",),
        None,
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"ca"', '"cat"', r"""mine.toml:2: entry 'nen': language is 'cat'; expected ca, es-ca"""),
        ('"interjection"', '"shout"', r"2: entry 'nen': category is 'shout'; expected interj"),
        ("1.0", "0.3", r"entry 'nen': weight is 0.3; expected 0.25, 0.5, 1.0"),
        ("1.0", "true", r"entry 'nen': weight is True"),
        ("token = true", "token = 1", r"entry 'nen': token is 1; expected true or false"),
        ("token = true", "", r"entry 'nen': token is missing"),
        ("token = true", "token = true\ntokn = true", r"entry 'nen': tokn is no field; expected"),
        ('"informal"', '"slang"', r"entry 'nen': register is 'slang'"),
        ('["nen", "nens"]', "[]", r"entry 'nen': forms is empty"),
        ('["nen", "nens"]', '["nen", "nen"]', r"entry 'nen': forms has the same one twice"),
        ('["nen", "nens"]', '["nen ", "nens"]', r"entry 'nen': forms has 'nen '; .*single spaces"),
        ('["nen", "nens"]', '["nen’s"]', r"entry 'nen': forms has 'nen’s'; .*straight apostrophe"),
        ('["nen", "nens"]', '["ne\u0301n"]', r"entry 'nen': forms has .*not in Unicode form NFC"),
        ('["nen", "nens"]', '"nen"', r"entry 'nen': forms is 'nen'; expected a list of strings"),
        ('["tienen"]', '["casa"]', r"collides has 'casa', which contains none of the forms"),
        ('"mate"', '" "', r"entry 'nen': gloss_en is ' '; expected text"),
        ('form = "nen"', "form = 3", r"mine.toml:2: form is 3; expected text"),
        ('\\bhago tarde\\b', "hago (", r"mine.toml:14: entry 'hacer tarde': pattern is no regular"),
        ('\\bhago tarde\\b', "nunca", r"pattern is not found in its 'yes' example 'Que hago tarde"),
        ('\\bhago tarde\\b', "tarde", r"pattern is found in its 'no' example 'Llego tarde.'"),
        ('["hago tarde"]', '["hace tarde"]', r"pattern does not find the form 'hace tarde'"),
        ('no = ["Llego tarde."]', "no = []", r"no is empty; expected one example at least"),
        ('no = ["Llego tarde."]', "", r"pattern stands alone"),
        ("[[anti]]", "[[auntie]]", r"mine.toml: holds 'auntie'; expected \[\[entry\]\] and"),
        ('variety = "Rioplatense"', "", r"mine.toml:31: entry 'vos': variety is missing"),
        ("weight = 1.0", "weight = ", r"mine.toml:10: not TOML"),
        ('form = "hacer tarde"', 'form = "nen"', r"mine.toml:14: form is taken by line 2"),
    ],
)  # fmt: skip
def test_a_broken_entry_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = WORD + CALQUE + "\n" * 2 + ANTI
    assert old in text
    with pytest.raises(DataError, match=message):
        load_lexicon(write(tmp_path, text.replace(old, new, 1)))


def test_a_calque_without_a_pattern_is_refused(tmp_path: Path) -> None:
    text = WORD.replace('"interjection"', '"calque"')
    with pytest.raises(DataError, match="pattern is missing; a calque is found by a pattern"):
        load_lexicon(write(tmp_path, text))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no \\[\\[entry\\]\\]"),
        (b"entry = 3", "entry is no list"),
        (b"entry = [3]", "mine.toml:1: is a int; expected a table"),
        (b"a = 1\n# \xff", "mine.toml:2: not UTF-8"),
    ],
)
def test_what_is_no_lexicon_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_lexicon(file)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        load_lexicon(tmp_path / "none.toml")


VARIETY = """
[variety]
name = "Spanish of Galicia"
matrix = "es"
contact = "gl"
"""


def test_a_lexicon_says_which_variety_it_is_of(tmp_path: Path) -> None:
    galician = load_lexicon(write(tmp_path, VARIETY + WORD.replace('"ca"', '"gl"')))
    assert galician.variety == Variety("Spanish of Galicia", "es", "gl")
    assert galician.variety.languages == ("gl", "es-gl", "es")
    assert galician.entries[0].language == "gl"
    assert galician.categories == ("interjection",)
    alone = VARIETY.replace('"gl"', '""') + WORD.replace('"ca"', '"es"')
    assert load_lexicon(write(tmp_path, alone)).variety.languages == ("es",)
    assert load_lexicon(write(tmp_path, WORD)).variety == CATALONIA


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"gl"', '"Galician"', r"mine.toml:2: variety: contact is 'Galician'; expected a language"),
        ('"es"', '""', r"mine.toml:2: variety: matrix is ''; expected text"),
        ('"es"', '"gl"', r"variety: matrix and contact are both 'gl'; expected two languages"),
        ('name = "Spanish of Galicia"', "", r"variety: holds matrix, contact; expected name, matr"),
        ('"Spanish of Galicia"', "3", r"variety: name is 3; expected text"),
        ("[variety]", "[[variety]]", r"variety: is a list; expected a table"),
        ('"gl"', '"eu"', r"mine.toml:7: entry 'nen': language is 'gl'; expected eu, es-eu, es"),
        ('contact = "gl"', 'contact = "gl"\nx = 1', r"holds name, matrix, contact, x; expected"),
    ],
)
def test_a_broken_variety_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = VARIETY + WORD.replace('"ca"', '"gl"')
    assert old in text
    with pytest.raises(DataError, match=message) as caught:
        load_lexicon(write(tmp_path, text.replace(old, new, 1)))
    assert "\n" not in str(caught.value)


def test_the_fingerprint_is_of_what_is_found_not_of_notes(tmp_path: Path) -> None:
    first = load_lexicon(write(tmp_path, WORD)).fingerprint
    assert load_lexicon(write(tmp_path, "# a note\n" + WORD)).fingerprint == first
    assert load_lexicon(write(tmp_path, WORD.replace('"mate"', '"pal"'))).fingerprint == first
    for old, new in (('"nens"', '"nois"'), ("1.0", "0.5"), ('"interjection"', '"family"')):
        changed = load_lexicon(write(tmp_path, WORD.replace(old, new)))
        assert changed.fingerprint != first
