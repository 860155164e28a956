"""From bytes to running text: encodings, cleaning, languages, filters."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasy.corpus.clean import clean, cut, unwrap
from speakeasy.corpus.encoding import decode, decode_html, open_text, tell_encoding
from speakeasy.corpus.filters import FILTERS, reason_to_drop
from speakeasy.corpus.language import LEAST_RATIO, SHORT_CHARACTERS, LanguageFinder
from speakeasy.corpus.starter import starter_texts
from speakeasy.errors import UsageError

SENTENCE = "Aquest matí feia bon temps i hem anat a esmorzar vora el mar amb els avis."


@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8-sig"),
        ("utf-16", "utf-16"),
        ("utf-32", "utf-32"),
        ("cp1252", "cp1252"),
        ("latin-1", "cp1252"),
    ],
)
def test_encodings(encoding: str, told: str, tmp_path: Path) -> None:
    text = "«L'àvia», va dir: ¡què és això! «niño»"
    data = text.encode(encoding)
    assert tell_encoding(data) == told
    assert decode(data) == text
    path = tmp_path / "x.txt"
    path.write_bytes(data)
    with open_text(path) as file:
        assert file.read() == text


def test_a_few_bad_bytes_do_not_make_utf8_something_else() -> None:
    text = "àèéíòóú ça va així"
    assert decode(text.encode() + b"\xff\xfe") == text + "\ufffd\ufffd"
    assert tell_encoding("ñ".encode()[:1]) == "utf-8"  # a sample that ends within a character


def test_pages_say_their_encoding() -> None:
    page = '<meta charset="iso-8859-15"><p>10 € i això'
    assert decode_html(page.encode("iso-8859-15")) == page
    assert decode_html(b'<meta charset="no-such"><p>' + "més".encode()).endswith("més")
    for name in ("utf-16", "utf-16le", "UTF-16BE", "utf-32"):  # the HTML standard: UTF-8 is meant
        page = f'<meta charset="{name}"><p>Això és català.'
        assert decode_html(page.encode()) == page
        assert decode_html(page.encode("utf-16")) == page  # a byte order mark comes first
    assert decode_html(b'<meta charset="hex"><p>a').endswith("a")  # a codec, but not of text


@given(st.text() | st.text(st.sampled_from("a \u00a0\t\n\r\u200b"), max_size=12))
def test_clean_text_is_clean(text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert unicodedata.is_normalized("NFC", cleaned)
    assert "  " not in cleaned
    assert "\n\n" not in cleaned
    assert cleaned == cleaned.strip()
    cleaned.encode()  # no lone surrogates


def test_cleaning_keeps_what_is_said() -> None:
    dirty = "\ufeffVa\u0300 dir:\u00a0 «a\u00addéu»\u200b \r\n\r\n  l'avi\x07…\t50\u202f€ \n"
    assert clean(dirty) == "Và dir: «adéu»\nl'avi… 50 €"


def test_unwrapping() -> None:
    wrapped = "Una frase que va d'una ratlla a l'al-\ntra i que segueix\nfins aquí.\n\nNou punt."
    assert unwrap(wrapped) == (
        "Una frase que va d'una ratlla a l'altra i que segueix fins aquí.\nNou punt."
    )
    dialogue = "—Bon dia.\n—Bon dia, nen!"
    assert unwrap(dialogue) == dialogue


@given(st.text(st.sampled_from("ab \n"), max_size=200), st.integers(2, 30))
def test_cutting_loses_no_word_and_keeps_the_limit(text: str, limit: int) -> None:
    pieces = cut(clean(text), limit)
    assert all(len(piece) <= limit for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


@pytest.mark.parametrize(("name", "wanted"), [("ca", "ca"), ("ca-neutral", "ca"), ("es", "es")])
def test_languages_of_the_packaged_texts(name: str, wanted: str) -> None:
    finder = LanguageFinder(("ca", "es"))
    assert {finder.find(document.text) for document in starter_texts(name)} == {wanted}


def test_spanish_with_a_catalan_accent_is_spanish() -> None:
    finder = LanguageFinder(("ca", "es"))
    assert {finder.find(document.text) for document in starter_texts("es-ca")} == {"es"}


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The weather was fine, so we walked down to the harbour for breakfast.", "en"),
        ("Ce matin il faisait beau, alors nous sommes descendus au port.", "fr"),
        ("Hoje de manhã estava bom tempo, por isso descemos até ao porto.", "pt"),
        ("Esta mañá facía bo tempo, así que baixamos ao porto cos nosos amigos.", "gl"),
        ("a" * (SHORT_CHARACTERS - 1), ""),
    ],
)
def test_other_languages_are_seen_to_be_others(text: str, language: str) -> None:
    assert LanguageFinder(("ca", "es")).find(text) == language


def test_unknown_codes_are_refused() -> None:
    for codes in (["ca", "xx"], []):
        with pytest.raises(UsageError, match="--languages"):
            LanguageFinder(codes)
    assert 0 < LEAST_RATIO < 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("Massa curt.", "too_short"),
        ("12 34 56 | 78 90 12, 34 - 56 + 78 = 90 12 34 56 78 90 abc", "few_letters"),
        (f"{SENTENCE}\n" * 3, "repeated_lines"),
        (f"{SENTENCE} https://example.org/una/adreca/molt/llarga", "urls"),
        ("if (a) { return <b>x</b>; } else { call(y); } // i tot el que segueix", "markup"),
        (SENTENCE, None),
        (f"{SENTENCE}\nSí.\nSí.\nSí.\nSí.\nSí.\nSí.", None),
    ],
)
def test_filters(text: str, reason: str | None) -> None:
    assert reason_to_drop(text.strip(), min_characters=50) == reason
    assert reason is None or reason in FILTERS


def test_bad_bytes_are_borne_up_to_a_share() -> None:
    assert reason_to_drop(SENTENCE, min_characters=1, undecodable=0.01) is None
    assert reason_to_drop(SENTENCE, min_characters=1, undecodable=0.011) == "undecodable"


def test_no_filter_drops_a_packaged_text() -> None:
    for document in starter_texts("ca", "es-ca", "es", "ca-neutral"):
        assert reason_to_drop(clean(document.text), min_characters=50) is None
