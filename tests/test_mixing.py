"""Word languages, code mixing and drift, on cases worked out by hand."""

from __future__ import annotations

import pytest

from speakeasy.corpus.starter import starter_texts
from speakeasy.data.dataset import starter_conversations
from speakeasy.evaluation.mixing import (
    DriftFinder,
    Tag,
    WordLanguages,
    code_mixing_index,
    switches,
)
from speakeasy.evaluation.words import fold, located_words

M: Tag = "matrix"
C: Tag = "contact"
U: Tag = ""


@pytest.mark.parametrize(
    ("tags", "index"),
    [
        ([M, M, M, M], 0),
        ([C, C], 0),  # pure, though the other language
        ([M, C], 50),  # 100 × (1 - 1/2)
        ([M, M, M, C, U, U], 25),  # n 6, u 2: 100 × (1 - 3/4)
        ([U, U], 0),  # n = u
        ([], 0),
    ],
)
def test_code_mixing_index(tags: list[Tag], index: float) -> None:
    assert code_mixing_index(tags) == pytest.approx(index)


@pytest.mark.parametrize(
    ("tags", "changes"),
    [
        ([M, M, C, C, M], (2, 4)),  # M-C and C-M of four pairs
        ([M, U, U, C], (1, 1)),  # words of no language are passed over
        ([M, U, M], (0, 1)),
        ([M], (0, 0)),
        ([U, U], (0, 0)),
        ([], (0, 0)),
    ],
)
def test_switches(tags: list[Tag], changes: tuple[int, int]) -> None:
    assert switches(tags) == changes


@pytest.mark.parametrize(
    ("word", "tag"),
    [
        ("calle", M), ("carrer", C), ("muy", M), ("molt", C), ("y", M), ("però", C), ("l'avi", C),
        ("de", U), ("que", U), ("casa", U), ("xyzzy", U), ("3", U),
    ],
)  # fmt: skip
def test_words_are_of_the_language_in_which_they_are_frequent(word: str, tag: Tag) -> None:
    assert WordLanguages("es", "ca").tag(word) == tag


def test_the_lexicon_s_word_is_of_its_language_whatever_the_frequencies() -> None:
    words = located_words(fold("Pues de xyzzy nada"))
    languages = WordLanguages("es", "ca")
    assert languages.tags(words) == [M, U, U, M]
    assert languages.tags(words, [(8, 13)]) == [M, U, C, M]


def test_a_language_without_a_list_is_known_by_the_lexicon_alone() -> None:
    words = located_words(fold("Muy riquiño todo"))
    assert WordLanguages("es", "gl").tags(words, [(4, 11)]) == [M, C, M]
    assert WordLanguages("es", "").tags(words) == [M, U, M]


def test_drift_is_told_from_a_sprinkling() -> None:
    drift = DriftFinder("es", "ca")
    assert drift.drifted("Avui no puc venir perquè tinc molta feina. Demà ens veiem a la plaça.")
    assert not drift.drifted("Hoy no puedo venir porque tengo mucha faena. Mañana nos vemos, nen.")
    assert not drift.drifted("Ostras, nen, vaya tela. No cal que vengas, ja ho faré yo. Adéu!")
    half = "Hoy no puedo venir porque tengo trabajo. Demà ens veiem a la plaça, si vols venir."
    assert not drift.drifted(half)  # half is not most
    assert drift.drifted("Adéu, bon dia!")  # short sentences count where there is no other
    assert not drift.drifted("I am sorry, but I can not help you with this. Please ask again.")
    assert not drift.drifted("")


def test_drift_needs_a_contact_language_that_is_known() -> None:
    assert DriftFinder("es", "").drifted("Hola") is None
    assert DriftFinder("es", "xx").drifted("Hola") is None
    assert DriftFinder("es", "gl").drifted(
        "Hoxe non podo vir porque teño moito traballo. Mañá vémonos na praza, se queres."
    )


def test_on_the_packaged_texts_drift_is_right() -> None:
    drift = DriftFinder("es", "ca")
    catalan = [document.text for document in starter_texts("ca-neutral")]
    assert sum(bool(drift.drifted(text)) for text in catalan) == len(catalan)
    spanish = [document.text for document in starter_texts("es-ca")]
    assert not any(drift.drifted(text) for text in spanish)
    answers = [answer for each in starter_conversations()[::10] for answer in each.answers]
    assert not any(drift.drifted(answer) for answer in answers)
