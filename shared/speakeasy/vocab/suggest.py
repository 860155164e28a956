"""Which new entries would save most tokens: candidates mined from text, tried on text held out.

A new entry of ``count`` occurrences and ``pieces`` tokens saves ``count * (pieces - 1)``.
Candidates are whole pre-tokens. Two of them never overlap, so what one saves does not depend on
which others are there: taking the best one again and again, with all savings computed anew each
time, gives the order that one sort gives. Two kinds of tokenizers break this a little. With
``--mode merges``, the steps on the way to a word serve other words too, and more is saved than is
said here. In SentencePiece-like ones a piece may reach over the end of a word (``a.``), and less
is.

With ``distinctive``, the saving is multiplied by how much more frequent the word is here than in
general Spanish::

    weight = max(0, log2((f + s) / (g + s)))

``f`` is the share of the word among the words counted, whatever its capitals and the punctuation
glued to it; ``g`` its frequency in Spanish from the package ``wordfreq`` (Speer 2022,
https://doi.org/10.5281/zenodo.7199437); ``s`` is ``SMOOTHING``, one in a million, so that words
that neither side knows well are not taken for marks of the variety.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from speakeasy.errors import DataError
from speakeasy.vocab.expand import Expansion, plan_for
from speakeasy.vocab.families import Source
from speakeasy.vocab.material import Part
from speakeasy.vocab.mining import Tally
from speakeasy.vocab.words import core

DEFAULT_ENTRIES = 300
DEFAULT_MIN_TOKENS = 4
"""What is proposed when nothing is asked for: forms of four tokens and more. Forms of two and three
are the commonest, which the base knows best: as entries they cost more bits than a short training
wins back (docs/vocabulary.md, "How many entries, and which?")."""
CURVE = (24, 100, 300, 1000, 2000, 4000)
"""Numbers of entries at which the curve on held-out text is given."""
SMOOTHING = 1e-6

Kind = Literal["answers", "texts"]
"""What text is held out: answers of conversations, or documents."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A form that would save tokens.

    Attributes:
        form: the text, a leading space being part of it.
        count: how often it occurs in the text that is not held out.
        pieces: tokens that it is now.
        saves: tokens that it saves there.
        times_spanish: how many times as frequent as in general Spanish; None when not asked for.
        held_out: share of the held-out tokens that it and all before it save, by kind.
    """

    form: str
    count: int
    pieces: int
    saves: int
    times_spanish: float | None
    held_out: Mapping[Kind, float]


@dataclass(frozen=True, slots=True)
class Suggestions:
    """Candidates, the best first, and what they do to text that they were not counted in.

    Attributes:
        entries: as many as asked for, or as there are.
        curve: number of entries to the share of held-out tokens that they save, by kind.
        held_out_tokens: tokens of the held-out text now, by kind.
        candidates: how many forms could have an entry and occur often enough.
        skipped: forms that the tokenizer cannot have as an entry, and why.
        plan: the expansion by all candidates that were tried; its mode is the tokenizer's.
        given_up: how often counts of rare forms were given up (``mining.Tally``).
    """

    entries: tuple[Suggestion, ...]
    curve: Mapping[int, Mapping[Kind, float]]
    held_out_tokens: Mapping[Kind, int]
    candidates: int
    skipped: Mapping[str, str]
    plan: Expansion
    given_up: int


@dataclass(slots=True)
class _Candidate:
    key: str
    form: str
    count: int
    pieces: int
    times_spanish: float | None = None

    @property
    def saves(self) -> int:
        return self.count * (self.pieces - 1)

    @property
    def score(self) -> float:
        if self.times_spanish is None:
            return self.saves
        return self.saves * max(0.0, math.log2(self.times_spanish))


@dataclass(slots=True)
class Counts:
    """What was counted of the text to mine and of the held-out text of each kind; its bytes."""

    mined: Tally
    held_out: dict[Kind, Tally] = field(default_factory=dict)
    bytes: int = 0


def count_parts(
    source: Source,
    parts: Iterable[tuple[Kind, Part]],
    advance: Callable[[int], None] = lambda done: None,
) -> Counts:
    """Count pre-tokens of texts as they stream by; ``advance`` is told the bytes of each."""
    counts = Counts(Tally(source))
    for kind, part in parts:
        if part.held_out:
            if kind not in counts.held_out:
                counts.held_out[kind] = Tally(source, measured=True)
            counts.held_out[kind].add(part.text)
        else:
            counts.mined.add(part.text)
        size = len(part.text.encode())
        counts.bytes += size
        advance(size)
    return counts


def suggest(
    source: Source,
    counts: Counts,
    *,
    entries: int = DEFAULT_ENTRIES,
    min_count: int = 2,
    min_tokens: int = 2,
    distinctive: bool = False,
) -> Suggestions:
    """Rank what was counted.

    Args:
        source: the tokenizer that it was counted with.
        counts: as ``count_parts`` gives it.
        entries: how many to suggest.
        min_count: forms that occur less often are left out.
        min_tokens: so are forms of fewer tokens.
        distinctive: rank by savings weighted against general Spanish.

    Raises:
        DataError: nothing that occurs often enough is more than one token.
    """
    ranked = _candidates(counts.mined, min_count, min_tokens)
    if distinctive:
        _compare_with_spanish(ranked, counts.mined)
        ranked = [item for item in ranked if item.score > 0]
    if not ranked:
        raise DataError(
            f"no form of {min_tokens} tokens or more occurs {min_count} times; give more text"
        )
    ranked.sort(key=lambda item: (-item.score, item.form))
    # Some tokenizers refuse many forms (merges: all that do not begin with a space).
    tried = ranked[: 2 * max(entries, CURVE[-1])]
    plan = plan_for(source, [item.form for item in tried])
    added = {token.form for token in plan.added}
    chosen = [item for item in tried if item.form in added]
    shares = _cumulative(chosen, counts.held_out)
    return Suggestions(
        entries=tuple(
            Suggestion(item.form, item.count, item.pieces, item.saves, item.times_spanish, share)
            for item, share in zip(chosen[:entries], shares, strict=False)
        ),
        curve={
            number: shares[number - 1]
            for number in sorted({*CURVE, min(entries, len(chosen))})
            if number <= len(chosen)
        },
        held_out_tokens={kind: tally.tokens() for kind, tally in counts.held_out.items()},
        candidates=len(ranked),
        skipped={item.form: item.reason for item in plan.skipped},
        plan=plan,
        given_up=max(tally.given_up for tally in (counts.mined, *counts.held_out.values())),
    )


def _candidates(tally: Tally, min_count: int, min_tokens: int) -> list[_Candidate]:
    found = []
    for key, count in tally.counts().items():
        if count < min_count or (pieces := tally.pieces(key)) < min_tokens:
            continue
        form = tally.form(key)
        # A form with a line end in it depends on how a text is laid out, and not on its words.
        if form.strip() and "\n" not in form and "\r" not in form and "\ufffd" not in form:
            found.append(_Candidate(key, form, count, pieces))
    return found


def _compare_with_spanish(candidates: Sequence[_Candidate], tally: Tally) -> None:
    from wordfreq import word_frequency

    words: Counter[str] = Counter()
    for key, count in tally.counts().items():
        if word := core(tally.form(key)):
            words[word] += count
    total = words.total()
    for item in candidates:
        word = core(item.form)
        share = words[word] / total if word else 0.0
        general = word_frequency(word, "es") if word else 1.0
        item.times_spanish = (share + SMOOTHING) / (general + SMOOTHING)


def _cumulative(
    chosen: Sequence[_Candidate], held_out: Mapping[Kind, Tally]
) -> list[dict[Kind, float]]:
    """Behind each candidate, the share of held-out tokens that it and all before it save."""
    totals = {kind: tally.tokens() for kind, tally in held_out.items()}
    counts = {kind: tally.counts() for kind, tally in held_out.items()}
    saved = dict.fromkeys(held_out, 0)
    shares: list[dict[Kind, float]] = []
    for item in chosen:
        for kind in held_out:
            saved[kind] += counts[kind].get(item.key, 0) * (item.pieces - 1)
        shares.append({kind: saved[kind] / max(totals[kind], 1) for kind in held_out})
    return shares


def tagged(answers: Iterable[Part], documents: Iterable[Part]) -> Iterator[tuple[Kind, Part]]:
    """Both kinds of text in one stream, as ``count_parts`` takes it."""
    for part in answers:
        yield "answers", part
    for part in documents:
        yield "texts", part
