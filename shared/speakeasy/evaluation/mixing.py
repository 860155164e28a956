"""Which language each word is in, how much two languages are mixed, and which one wins."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from speakeasy.corpus.language import LanguageFinder, knows_language
from speakeasy.evaluation.words import Word, sentences

Tag = Literal["matrix", "contact", ""]
"""Of a word: the matrix language, the contact language, or neither for sure."""

LEAST_ZIPF = 3.0
"""Rarer words tell nothing: lists of words hold foreign ones too. 3 is once in a million words."""
LEAST_RATIO = 10.0
"""So many times as frequent must a word be in the one language as in the other."""
SENTENCE_CHARACTERS = 20
"""Shorter sentences are not judged for their language, unless there is no other."""


class WordLanguages:
    """Tells the language of words by how frequent they are in each (wordfreq's lists).

    A word is taken to be of a language in which it comes at least once in a million words, and at
    least ten times as often as in the other. The rest (`de`, `que`, `casa`, names) is neither.

    Args:
        matrix: ISO 639-1 code of the language of the grammar.
        contact: of the other; empty for none. A language that wordfreq does not have is known by
            the lexicon's words alone.
    """

    def __init__(self, matrix: str, contact: str) -> None:
        self._matrix = _frequencies(matrix)
        self._contact = _frequencies(contact)
        self._known: dict[str, Tag] = {}

    def tags(self, words: Iterable[Word], contact: Collection[tuple[int, int]] = ()) -> list[Tag]:
        """One tag a word.

        Args:
            contact: stretches of the text, start and end, that are in the contact language for
                sure, since the lexicon says so.
        """
        return [
            "contact"
            if any(start <= word.start < end or start < word.end <= end for start, end in contact)
            else self.tag(word.text)
            for word in words
        ]

    def tag(self, word: str) -> Tag:
        """The tag of one case-folded word."""
        if word not in self._known:
            self._known[word] = self._looked_up(word)
        return self._known[word]

    def _looked_up(self, word: str) -> Tag:
        if word not in self._matrix and word not in self._contact:
            word = max(re.split("['-]", word), key=len)  # l'avi, dona-me-la
        least = 10 ** (LEAST_ZIPF - 9)
        matrix, contact = self._matrix.get(word, 0.0), self._contact.get(word, 0.0)
        if matrix >= max(least, LEAST_RATIO * contact):
            return "matrix"
        return "contact" if contact >= max(least, LEAST_RATIO * matrix) else ""


@lru_cache(maxsize=4)
def _frequencies(language: str) -> Mapping[str, float]:
    """Share of all words that each word is; empty for a language without a list."""
    from wordfreq import available_languages, get_frequency_dict

    return get_frequency_dict(language) if language in available_languages() else {}


def code_mixing_index(tags: Sequence[Tag]) -> float:
    """CMI = 100 × (1 - largest / tagged), 0 without a tagged word: 0 is pure, 50 half and half.

    Das & Gambäck 2014, *Identifying languages at the word level in code-mixed Indian social media
    text*, <https://aclanthology.org/W14-5152>: largest is the number of words of the language with
    the most, tagged is n - u, the words less those of no language.
    """
    tagged = [tag for tag in tags if tag]
    if not tagged:
        return 0.0
    return 100 * (1 - max(tagged.count("matrix"), tagged.count("contact")) / len(tagged))


def switches(tags: Sequence[Tag]) -> tuple[int, int]:
    """How often the language changes from one tagged word to the next, and of how many pairs.

    Words without a language are passed over. Their ratio is the I-index of Guzmán et al. 2017,
    *Metrics for modeling code-switching across corpora*,
    <https://doi.org/10.21437/Interspeech.2017-1429>.
    """
    tagged = [tag for tag in tags if tag]
    changed = sum(one != next_one for one, next_one in pairwise(tagged))
    return changed, max(0, len(tagged) - 1)


class DriftFinder:
    """Tells whether an answer has gone over to the contact language.

    Args:
        matrix, contact: ISO 639-1 codes.
    """

    def __init__(self, matrix: str, contact: str) -> None:
        known = bool(contact) and knows_language(matrix) and knows_language(contact)
        self._contact = contact
        self._finder = LanguageFinder((matrix, contact)) if known else None

    def drifted(self, text: str) -> bool | None:
        """Whether most sentences are in the contact language rather than in the matrix language.

        Sentences of fewer than ``SENTENCE_CHARACTERS`` are left out where there are longer ones. A
        text that as a whole is in a third language, such as English, has not drifted.

        Returns:
            None where there is no contact language, or one of the two is unknown to py3langid.
        """
        if self._finder is None:
            return None
        pieces = sentences(text)
        judged = [piece for piece in pieces if len(piece) >= SENTENCE_CHARACTERS] or pieces
        votes = sum(self._finder.choose(piece) == self._contact for piece in judged)
        if votes * 2 <= len(judged):
            return False
        return self._finder.find(text) in ("", *self._finder.languages)
