"""The gate: nothing is written unless an expansion does no harm.

Every old entry and special token keeps its id. Every word of three languages, bare and after a
space, and every sentence of the packaged conversations decodes to itself, and encodes as before
unless an added word stands in it. ``loaders.py`` has the rest: what the libraries load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from speakeasy.errors import ModelError
from speakeasy.vocab.compare import (
    LANGUAGES,
    WORDS,
    Change,
    Comparison,
    compare,
    sentences,
    word_lists,
)
from speakeasy.vocab.families import pre_tokens, whole_vocabulary
from speakeasy.vocab.progress import Bar, no_bar

if TYPE_CHECKING:
    from speakeasy.vocab.expand import Expansion


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the gate found.

    Attributes:
        entries: old entries that have the id that they had.
        specials: special and other added tokens that have the id that they had.
        words: the word lists, each word bare and after a space.
        sentences: whole messages.
        collateral: words that changed without holding an added one, to the languages whose list
            they stand in.
        phrase_texts: sentences whose tokens a phrase changed.
    """

    entries: int
    specials: int
    words: Comparison
    sentences: Comparison
    collateral: dict[str, tuple[str, ...]]
    phrase_texts: int

    def record(self) -> dict[str, Any]:
        """For ``expansion.json``."""
        by_language = {
            language: sum(language in languages for languages in self.collateral.values())
            for language in LANGUAGES
        }
        return {
            "old_entries_kept": self.entries,
            "special_tokens_kept": self.specials,
            "words": {
                "list": f"wordfreq, the {WORDS:,} commonest of {', '.join(LANGUAGES)}, bare and "
                "after a space",
                **_figures(self.words),
                "collateral_words": len(self.collateral),
                "collateral_by_language": by_language,
                "collateral": _changes(self.words.collateral),
            },
            "sentences": {
                "list": "messages of the packaged starter conversations",
                **_figures(self.sentences),
                "collateral_texts": len(self.sentences.collateral),
                "collateral": _changes(self.sentences.collateral),
                "changed_by_phrases": self.phrase_texts,
                "tokens_before": self.sentences.tokens_before,
                "tokens_after": self.sentences.tokens_after,
            },
        }


def _figures(part: Comparison) -> dict[str, Any]:
    return {
        "texts": part.texts,
        "with_an_added_word": len(part.touched) + len(part.disturbed),
        "of_these_disturbed": _changes(part.disturbed),
        "round_trip_failures": part.broken,
        "round_trip_failures_of_the_base": part.broken_before,
    }


def _changes(changes: Sequence[Change]) -> list[dict[str, Any]]:
    return [
        {"text": item.text, "before": list(item.before), "after": list(item.after)}
        for item in changes
    ]


def examine(expansion: Expansion, *, bar: Bar = no_bar) -> Evidence:
    """Compare an expansion's tokenizer with what it was, on everything that the gate asks for.

    Raises:
        ModelError: an old entry or a special token has another id.
    """
    entries, specials = _same_ids(expansion)
    lists = word_lists()
    words = list(dict.fromkeys(word for part in lists.values() for word in part))
    by_words = _compare(expansion, [*words, *(f" {word}" for word in words)], bar)
    by_sentences = _compare(expansion, sentences(), bar)
    changed = dict.fromkeys(change.text.strip() for change in by_words.collateral)
    members = {language: frozenset(part) for language, part in lists.items()} if changed else {}
    collateral = {
        word: tuple(language for language in members if word in members[language])
        for word in changed
    }
    return Evidence(entries, specials, by_words, by_sentences, collateral, _phrase_texts(expansion))


def _compare(expansion: Expansion, texts: Sequence[str], bar: Bar) -> Comparison:
    return compare(
        expansion.old,
        expansion.new,
        texts,
        keys=expansion.keys,
        rows=expansion.rows,
        cutter=expansion.cutter,
        bar=bar,
    )


def _same_ids(expansion: Expansion) -> tuple[int, int]:
    """How many entries, and how many added tokens, have the ids that they had: all of them."""
    new = expansion.new.get_vocab(with_added_tokens=True)
    old = whole_vocabulary(expansion.source.spec)
    for entry, id in old.items():
        if entry not in expansion.given_up and new.get(entry) != id:
            raise ModelError(
                f"the entry {entry!r} has id {new.get(entry)} in the new tokenizer; expected {id}; "
                "nothing was written; please report this"
            )
    kept = [t for t in expansion.source.spec["added_tokens"] if t["content"] in new]
    for token in kept:
        found = expansion.new.encode(token["content"], add_special_tokens=False).ids
        if found != expansion.old.encode(token["content"], add_special_tokens=False).ids:
            raise ModelError(
                f"the token {token['content']!r} encodes to {found} in the new tokenizer; expected "
                f"{[token['id']]}; nothing was written; please report this"
            )
    return len(old) - len(expansion.given_up), len(kept)


def _phrase_texts(expansion: Expansion) -> int:
    """How many sentences hold a phrase that is one token now."""
    phrases = {token.token for token in expansion.added if token.form in expansion.phrases}
    if not phrases:
        return 0
    return sum(
        any(piece in phrases for piece in pre_tokens(expansion.new, text)) for text in sentences()
    )


def require_no_harm(evidence: Evidence, *, allow_collateral: int = 0) -> None:
    """Refuse an expansion that does harm.

    Args:
        evidence: as ``examine`` found it.
        allow_collateral: so many words and sentences may change that hold no added word.

    Raises:
        ModelError: a text no longer decodes to itself, or too many of the others change.
    """
    broken = [*evidence.words.broken, *evidence.sentences.broken]
    if broken:
        raise ModelError(
            f"{len(broken):,} texts no longer decode to themselves, the first {broken[0]!r}; "
            "nothing was written; leave out the words that are in it"
        )
    words, texts = evidence.words.collateral, evidence.sentences.collateral
    count = len(evidence.collateral) + len(texts)
    if count > allow_collateral:
        some = "; ".join(
            f"{change.text.strip()[:60]} ({'|'.join(change.before)} -> {'|'.join(change.after)})"
            for change in words[:3]
        )
        if not words:
            some = repr(texts[0].text[:60])
        raise ModelError(
            f"{len(evidence.collateral):,} words and {len(texts):,} sentences that hold no added "
            f"word would be encoded differently: {some}, ...; nothing was written; "
            f"--allow-collateral {count} accepts them, --dry-run --json lists them all"
        )
