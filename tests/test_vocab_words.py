"""Words and their forms; files of words, there and back."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vocabularies import GUIDE, GUIDE_PHRASES

from speakeasy.dialect.lexicon import CONSTRUCTIONS, load_lexicon, packaged_lexicon
from speakeasy.errors import DataError, UsageError
from speakeasy.vocab.words import (
    Word,
    capitalized,
    choose_words,
    core,
    forms_in_corpus,
    forms_of,
    guide_words,
    lexicon_words,
    load_words,
    rule_forms,
    write_words,
)


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ("nen", ("nen", " nen", "Nen", " Nen")),
        ("àvia", ("àvia", " àvia", "Àvia", " Àvia")),
        ("¡ostras", ("¡ostras", " ¡ostras", "¡Ostras", " ¡Ostras")),
        ("ñoqui", ("ñoqui", " ñoqui", "Ñoqui", " Ñoqui")),
        ("l'avi", ("l'avi", " l'avi", "L'avi", " L'avi")),
        ("si us plau", ("si us plau", " si us plau", "Si us plau", " Si us plau")),
        ("L'Eixample", ("L'Eixample", " L'Eixample")),
        ("...", ("...", " ...")),
    ],
)
def test_forms_by_rule(text: str, forms: tuple[str, ...]) -> None:
    assert rule_forms(text) == forms


@given(st.text(st.characters(categories=["Ll", "Lu", "Po", "Pi"]), min_size=1))
def test_a_capital_changes_one_letter_at_most(text: str) -> None:
    made = capitalized(text)
    assert made.casefold() == text.casefold()
    if len(made) == len(text):  # ß becomes Ss
        assert sum(one != other for one, other in zip(made, text, strict=True)) <= 1


def test_the_guide_s_words_stand_as_the_guide_lists_them() -> None:
    words = guide_words()
    assert sorted(word.text for word in words) == sorted([*GUIDE, *GUIDE_PHRASES])
    assert words[0] == Word("ostras", ("ostras", " ostras", "Ostras", " Ostras"), "interjections")
    # By the guide's order, whatever order they are asked for in.
    places = guide_words(["places", "family"])
    assert [word.text for word in places] == [
        "avi",
        "àvia",
        "iaia",
        "iaio",
        "barri",
        "plaça",
        "carrer",
        "rambla",
    ]
    with pytest.raises(UsageError, match="--categories food: expected one of interjections, fam"):
        guide_words(["food"])


def test_the_lexicon_s_words_have_all_their_forms() -> None:
    words = {word.text: word for word in lexicon_words()}
    assert {" flipo", "Flipo", "flipar"} <= set(words["flipar"].forms)
    assert not {word.category for word in words.values()} & set(CONSTRUCTIONS)
    entries = [e for e in packaged_lexicon().entries if e.category not in CONSTRUCTIONS]
    assert len(words) == len(entries)
    # What a word is called is one of the strings that occur: never "parada (puesto)".
    assert all(word.text in word.forms for word in words.values())
    food = lexicon_words(categories=["food"])
    assert {word.category for word in food} == {"food"}
    with pytest.raises(UsageError, match="--categories calque"):
        lexicon_words(categories=["calque"])


def test_another_lexicon_is_taken(tmp_path: Path) -> None:
    from test_lexicon import CALQUE, WORD, write

    words = lexicon_words(load_lexicon(write(tmp_path, WORD + CALQUE)))
    assert words == [Word("nen", (*rule_forms("nen"), *rule_forms("nens")), "interjection")]


def test_words_of_one_and_of_several_are_told_apart() -> None:
    one, several = forms_of([*guide_words(), *guide_words(["phrases"])])
    assert len(one) == 4 * len(GUIDE)
    assert several == [form for text in ("apa va", "si us plau") for form in rule_forms(text)]


def test_options_choose_words(tmp_path: Path) -> None:
    assert choose_words(None, None, "guide") == guide_words()
    assert choose_words(None, "family, places", "guide") == guide_words(["family", "places"])
    assert choose_words(None, "food", "full") == lexicon_words(categories=["food"])
    file = tmp_path / "words.txt"
    file.write_text("nen\n", encoding="utf-8")
    assert [word.text for word in choose_words(file, None, "guide")] == ["nen"]
    with pytest.raises(UsageError, match="--categories: cannot be combined with --words"):
        choose_words(file, "family", "guide")
    with pytest.raises(UsageError, match="--lexicon full: cannot be combined with --words"):
        choose_words(file, None, "full")


def test_forms_that_occur_are_added_the_commonest_first() -> None:
    counts = {
        " nen": 9,
        "¡Ostras": 5,
        "'avi": 4,
        "«nen": 3,
        " NENS": 2,
        " flipando": 2,
        " vienen": 50,
        " gralla": 1,
        " gralles": 1,
        " grallaes": 1,
        "hoteles": 1,
        ".": 99,
    }
    words = [
        *(word for word in guide_words() if word.text in ("ostras", "nen", "avi", "flipar")),
        Word("gralla", ("gralla",)),
        Word("hotel", (" hotel",)),
    ]
    found = {word.text: word.forms for word in forms_in_corpus(words, counts)}
    assert found["ostras"] == (*rule_forms("ostras"), "¡Ostras")
    assert found["nen"] == (*rule_forms("nen"), "«nen", " NENS")
    assert found["avi"] == (*rule_forms("avi"), "'avi")
    assert found["flipar"] == (*rule_forms("flipar"), " flipando")
    assert found["gralla"] == ("gralla", " gralla", " gralles")
    assert found["hotel"] == (" hotel", "hoteles")


@pytest.mark.parametrize(
    ("form", "inside"),
    [(" ¡Ostras", "ostras"), ("'avi", "avi"), (" E\u0301s", "és"), ("…»", ""), ("l·la", "l·la")],
)
def test_the_word_inside_of_a_form(form: str, inside: str) -> None:
    assert core(form) == inside


def test_a_file_of_words(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text(
        "\ufeff# mine\n\nxafogor  # heat\r\nsi  us plau\n"
        '" ¡Xafogor"\n"#nen"  # a tag, saves 3\n"#nen" # again\nC#\na\u0301via\n"xafogor"\n'
        "  # indented\n",
        encoding="utf-8",
    )
    assert load_words(file) == [
        Word("xafogor", rule_forms("xafogor")),
        Word("si us plau", rule_forms("si us plau")),
        Word("¡Xafogor", (" ¡Xafogor",)),
        Word("#nen", ("#nen",)),
        Word("C#", rule_forms("C#")),
        Word("ávia", rule_forms("ávia")),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'nen\n"nen\n', r"words.txt:2: \"nen is no JSON string"),
        (b'"nen" # x\n"va" fem\n', r"words.txt:2: 'fem' behind the string"),
        (b'" "\n', r"words.txt:1: the form is empty"),
        (b"nen\nv\x07a\n", r"words.txt:2: 'v\\x07a' has a control character"),
        (b"nen\nadi\xf3s\n", r"words.txt:2: not UTF-8"),
        (b"# nothing\n", r"words.txt: holds no word"),
    ],
)
def test_a_broken_file_of_words_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_words(file)
    with pytest.raises(DataError, match="cannot be read"):
        load_words(tmp_path / "none.txt")


forms = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(forms, st.sampled_from(["", "count 3; # 4%"])), min_size=1))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    file = tmp_path_factory.mktemp("words") / "words.txt"
    write_words(file, pairs, ["for a test", ""])
    expected: dict[str, list[str]] = {}
    for form, _ in pairs:
        known = expected.setdefault(unicodedata.normalize("NFC", form.strip()), [])
        if form not in known:
            known.append(form)
    assert {word.text: list(word.forms) for word in load_words(file)} == expected
