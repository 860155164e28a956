"""Which language a document is in, by py3langid's naive Bayes over byte n-grams.

All of its 140 languages compete, so that a text in none of the wanted ones is seen to be so:
``set_languages(["ca", "es"])`` would call English either. Small relatives (Occitan, Extremaduran,
Aragonese, Galician) win short texts by chance. So a wanted language is taken when it is at least
``LEAST_RATIO`` times as likely as the best of all. Measured on 600 cuts a length of real Catalan
and Spanish: docs/corpus.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from speakeasy.errors import UsageError

LEAST_RATIO = 1 / 3
SHORT_CHARACTERS = 40
"""Shorter texts take the language of most texts of their source."""

SAMPLE_CHARACTERS = 150
"""Of a longer text, a third of this from its beginning, its middle and its end."""


class LanguageFinder:
    """Finds which of the wanted languages a text is in.

    Args:
        languages: ISO 639-1 codes; at least one.

    Raises:
        UsageError: a code that py3langid does not know.
    """

    def __init__(self, languages: Sequence[str]) -> None:
        self.languages = tuple(languages)
        self._identifier = _identifier()
        unknown = sorted(set(languages) - set(self._identifier.labels))
        if unknown or not languages:
            raise UsageError(
                f"--languages {','.join(languages)}: {', '.join(unknown) or 'nothing'} is no "
                "language code that py3langid knows; expected codes such as ca,es"
            )

    def find(self, text: str) -> str:
        """A language code, a wanted one or another; empty for a text that is too short."""
        if len(text) < SHORT_CHARACTERS:
            return ""
        part = sample(text)
        best, likelihood = self._identifier.classify(part)
        if best in self.languages:
            return best
        ranking = self._identifier.rank(part)  # slower, and seldom needed
        wanted, own = next((name, value) for name, value in ranking if name in self.languages)
        return wanted if own >= LEAST_RATIO * likelihood else best

    def choose(self, text: str) -> str:
        """The likeliest of the wanted languages, however short the text or likely another."""
        ranking = self._identifier.rank(sample(text))
        return next(name for name, _ in ranking if name in self.languages)


def knows_language(code: str) -> bool:
    """Whether py3langid can find a language."""
    return code in _identifier().labels


def sample(text: str) -> str:
    """At most ``SAMPLE_CHARACTERS`` of a text, from three places."""
    if len(text) <= SAMPLE_CHARACTERS:
        return text
    part = SAMPLE_CHARACTERS // 3
    middle = (len(text) - part) // 2
    return f"{text[:part]} {text[middle : middle + part]} {text[-part:]}"


@lru_cache(maxsize=1)
def _identifier() -> Any:
    """The model, loaded once (a second) in a process."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
