"""Finding a lexicon's entries in text."""

from __future__ import annotations

from itertools import pairwise

import pytest

from speakeasy.dialect.lexicon import packaged_lexicon
from speakeasy.evaluation.markers import Matcher
from speakeasy.evaluation.words import fold

ENTRIES = Matcher(packaged_lexicon().entries)
ANTI = Matcher(packaged_lexicon().anti)


def found(text: str) -> list[str]:
    return [marker.entry.form for marker in ENTRIES.find(text)]


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ("Ostras, nen, que tienen prisa.", ["ostras", "nen"]),
        ("OSTRAS, el AVI", ["ostras", "avi"]),
        ("El avión, el aviso y David en Navidad", []),
        ("Un homenaje", []),
        # apostrophes: curly and straight, and a whole word after an elided article
        ("Déu n’hi do", ["déu n'hi do"]),
        ("Déu n'hi do", ["déu n'hi do"]),
        ("a casa de l’àvia", ["àvia"]),
        # decomposed accents
        ("el de la a\u0300via", ["àvia"]),
        # longest first: one phrase, not two words
        ("Apa, va, que llegamos", ["apa va"]),
        ("Bon dia, nena", ["bon dia", "nena"]),
        ("si us   plau", ["si us plau"]),
        ("si us. Plau", []),
        # by pattern: va as a particle and not as a verb
        ("Va, que llegamos.", ["va"]),
        ("Ella va a casa.", []),
        ("¿Vienes?\nVa, anímate.", ["va"]),  # a line's end is a boundary
        # a part of a hyphenated word is no word
        ("Vive en Poble-sec", []),
        # proper names
        ("en la plaça de Catalunya", []),
        ("en la plaça de l'Ajuntament", []),
        ("por el carrer Balmes", []),
        ("por el carrer d'Aragó", []),
        ("en Nou Barris", []),
        ("en la plaça", ["plaça"]),
        ("en el carrer. Luego te llamo", ["carrer"]),
        ("por Sant Jordi", ["Sant Jordi"]),
        ("en el Bar Botiga", []),
        ("Ostras Nen", ["ostras", "nen"]),  # the first word of a sentence has its capital anyway
        ("", []),
    ],
)
def test_what_is_found(text: str, forms: list[str]) -> None:
    assert found(text) == forms


def test_every_pattern_s_examples_are_found_and_not_found() -> None:
    """In the packaged lexicon, by a matcher of that entry alone."""
    for entry in packaged_lexicon().entries:
        alone = Matcher([entry])
        if entry.pattern is None:
            if all(form == form.lower() for form in entry.forms):
                for form in entry.forms:
                    assert alone.find(f"dice {form} y ya"), (entry.form, form)
        else:
            for text in entry.no:
                assert not alone.find(text), (entry.form, text)
            missed = [text for text in entry.yes if not alone.find(text)]
            assert not missed, (entry.form, missed)


def test_the_everyday_words_that_contain_a_form_are_not_found() -> None:
    for entry in packaged_lexicon().entries:
        if entry.pattern is None:
            alone = Matcher([entry])
            forms = {form.casefold() for form in entry.forms}
            for word in entry.collides:
                if word.casefold() not in forms and " " not in word:
                    assert not alone.find(f"dice {word} y ya"), (entry.form, word)


def test_markers_do_not_overlap_and_know_their_places() -> None:
    text = "¡Apa, va! L’avi hace un café con la iaia, y de l'àvia ni rastro, ostras nen."
    markers = ENTRIES.find(text)
    assert [fold(text)[one.start : one.end] for one in markers if one.entry.form == "avi"] == [
        "avi"
    ]
    for one, other in pairwise(markers):
        assert one.end <= other.start


def test_the_word_counts_and_not_its_pattern_s_context() -> None:
    text = "Vinga va, que llegamos."
    (va,) = Matcher([e for e in packaged_lexicon().entries if e.form == "va"]).find(text)
    assert fold(text)[va.start : va.end] == "va"


def test_marks_of_other_varieties() -> None:
    assert [one.entry.form for one in ANTI.find("Órale, güey, la computadora")] == [
        "órale", "güey", "computadora",
    ]  # fmt: skip
    assert ANTI.find("Ostras, nen, el ordenador") == []
