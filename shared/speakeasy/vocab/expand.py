"""Planning an expansion: which entries a tokenizer gets, under which ids, and what becomes of it.

The usual way, ``add_tokens``, makes *match-anywhere* tokens that tear other words apart
(``va|mos``), lose the space before a word and, in byte-level tokenizers, destroy accents. Here a
new entry is a whole pre-token, in the spelling that the tokenizer itself gives it, so that only a
text with that pre-token can ever meet it:

- ``vocab``: entries without merges, and ``ignore_merges``, which takes a pre-token that is an entry
  for that entry. Where the flag was not set, every old entry must be within reach of its merges:
  then setting it changes no text. A SentencePiece-like tokenizer has no pre-tokens, so there a
  regular expression first cuts around the new words (``isolate.py``).
- ``reserved``: the same under the ids of ``<|reserved_special_token_N|>`` (Llama 3), whose names
  are given up; the model keeps its size.
- ``merges``: merges appended (``merges.py``), where a library builds the tokenizer anew and drops
  the flag (transformers 5 does for Qwen2). Some words besides the new ones can change.
- ``auto``: ``vocab`` if transformers, having loaded what was saved, still knows the new entries;
  ``merges`` if not. It is tried, not looked up by name.

An expansion never removes or renumbers an entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from speakeasy.errors import ModelError
from speakeasy.vocab.families import (
    SPACE,
    Family,
    Source,
    Spec,
    first_free_id,
    from_spec,
    out_of_reach,
    pre_tokens,
    read_source,
    spelled,
    whole_vocabulary,
)
from speakeasy.vocab.isolate import isolate_words, keep_phrases, word_finder
from speakeasy.vocab.merges import Merges
from speakeasy.vocab.reserved import give_up
from speakeasy.vocab.tokenizer_files import survives
from speakeasy.vocab.words import Word, forms_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Mode = Literal["auto", "vocab", "merges", "reserved"]
MODES: tuple[Mode, ...] = ("auto", "vocab", "merges", "reserved")


@dataclass(frozen=True, slots=True)
class AddedToken:
    """One new entry.

    Attributes:
        form: the text that it stands for, a leading space being part of it.
        token: the entry in the vocabulary, in the tokenizer's spelling.
        id: its id.
        pieces: ids of the old tokens that spelled it.
    """

    form: str
    token: str
    id: int
    pieces: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A form that gets no entry, and why."""

    form: str
    reason: str


@dataclass(frozen=True, slots=True)
class Expansion:
    """What would be done to a tokenizer; nothing is written.

    Attributes:
        source: the tokenizer as it was.
        mode: how the entries are reached; never ``auto``.
        reason: why that mode, in one phrase.
        added: the new entries, by id.
        steps: entries that merges need on the way to a word (mode ``merges`` only).
        skipped: forms without an entry.
        phrases: the forms among ``added`` that are several words.
        given_up: contents of the reserved tokens whose ids were taken.
        spec: the new ``tokenizer.json``.
        new: the tokenizer that it describes.
        cutter: a tokenizer whose pre-tokens show where the new words stand in a text; ``new``
            itself but where words are not pre-tokens (``isolate.word_finder``).
    """

    source: Source
    mode: Literal["vocab", "merges", "reserved"]
    reason: str
    added: tuple[AddedToken, ...]
    steps: tuple[AddedToken, ...]
    skipped: tuple[Skipped, ...]
    phrases: tuple[str, ...]
    given_up: tuple[str, ...]
    spec: Spec
    new: Tokenizer
    cutter: Tokenizer

    @property
    def family(self) -> Family:
        """The kind of tokenizer."""
        return self.source.family

    @property
    def old(self) -> Tokenizer:
        """The tokenizer as it was."""
        return self.source.tokenizer

    @property
    def tokenizer_json(self) -> Spec:
        """The new ``tokenizer.json``."""
        return self.spec

    @property
    def rows(self) -> dict[int, tuple[int, ...]]:
        """New id to the ids of the old tokens that spelled it, for ``weights.rows.add_rows``."""
        return {token.id: token.pieces for token in (*self.added, *self.steps)}

    @property
    def keys(self) -> frozenset[str]:
        """The new words' entries: pre-tokens that are meant to have changed."""
        return frozenset(token.token for token in self.added)


def plan_expansion(
    directory: Path, forms: Sequence[str], *, mode: Mode = "auto", phrases: Sequence[str] = ()
) -> Expansion:
    """Plan entries for exact surface forms (" nen" with its space, "Nen" with its capital).

    Args:
        directory: a model directory; ``config.json`` in it decides how transformers loads it.
        forms: each to become one token. One that cannot is skipped with the reason: it is one
            token already, or several pre-tokens to this tokenizer.
        mode: see the module's text.
        phrases: forms of several words, for which the regular expression that cuts text is
            changed. Other programs that convert the model (llama.cpp) may not know the new one.

    Raises:
        ModelError: the tokenizer cannot be extended, or not in this mode.
    """
    return plan_for(read_source(directory), forms, mode=mode, phrases=phrases)


def plan_for(
    source: Source, forms: Sequence[str], *, mode: Mode = "auto", phrases: Sequence[str] = ()
) -> Expansion:
    """``plan_expansion`` for a tokenizer that has been read already."""
    if mode == "auto":
        return _choose(source, forms, phrases)
    return _Plan(source, mode, "as asked for by --mode").make(forms, phrases)


def plan_words(
    source: Source, words: Iterable[Word], *, mode: Mode = "auto", phrases: bool = False
) -> Expansion:
    """A plan for all forms of words; without ``phrases`` it leaves out those of several words."""
    forms, several = forms_of(words)
    if phrases:
        return plan_for(source, forms, mode=mode, phrases=several)
    return plan_for(source, [*forms, *several], mode=mode)  # it says of each phrase why not


def _choose(source: Source, forms: Sequence[str], phrases: Sequence[str]) -> Expansion:
    if problem := _flag_problem(source):
        return _Plan(source, "merges", problem).make(forms, phrases)
    reason = "every old entry is within reach of its merges, and transformers keeps the new ones"
    plan = _Plan(source, "vocab", reason).make(forms, phrases)
    if survives(source, plan.spec, [token.form for token in plan.added]):
        return plan
    reason = (
        f"transformers builds {type(source.transformers).__name__} anew when it loads this model, "
        "and keeps nothing but merges"
    )
    return _Plan(source, "merges", reason).make(forms, phrases)


def _flag_problem(source: Source) -> str | None:
    """Why ``ignore_merges`` cannot be switched on, if it cannot."""
    if source.spec["model"].get("ignore_merges"):
        return None
    missed = out_of_reach(source)
    if not missed:
        return None
    return (
        f"{len(missed):,} entries such as {missed[0]!r} are out of reach of the merges, and "
        "ignore_merges would bring them into use"
    )


class _Plan:
    """One plan in the making."""

    def __init__(
        self, source: Source, mode: Literal["vocab", "merges", "reserved"], reason: str
    ) -> None:
        if mode != "merges" and (problem := _flag_problem(source)):
            raise ModelError(f"--mode {mode}: {problem}; try --mode merges")
        self._source = source
        self._mode = mode
        self._reason = reason
        self._known = whole_vocabulary(source.spec)
        self._added_texts = [token["content"] for token in source.spec["added_tokens"]]
        self._pieces: dict[str, tuple[str, tuple[int, ...]]] = {}  # key -> form, old pieces
        self._skipped: list[Skipped] = []

    def make(self, forms: Sequence[str], phrases: Sequence[str]) -> Expansion:
        for form in dict.fromkeys(forms):
            self._take(form, self._source.tokenizer, is_phrase=False)
        spec = {**self._source.spec, "model": dict(self._source.spec["model"])}
        kept = self._take_phrases(list(dict.fromkeys(phrases)), spec)
        spec["model"]["vocab"] = dict(self._known)
        given_up: tuple[str, ...] = ()
        steps: list[AddedToken] = []
        if self._mode == "merges":
            added, steps = self._by_merges(spec)
        else:
            first = first_free_id(spec)
            ids = list(range(first, first + len(self._pieces)))
            if self._mode == "reserved":
                given_up, ids = give_up(self._source, spec, len(self._pieces))
            added = [
                AddedToken(form, key, id, pieces)
                for id, (key, (form, pieces)) in zip(ids, self._pieces.items(), strict=True)
            ]
            spec["model"]["vocab"] |= {token.token: token.id for token in added}
            spec["model"]["ignore_merges"] = True
            if self._source.family == "sentencepiece" and added:
                spec["pre_tokenizer"] = isolate_words(spec, [token.token for token in added])
        new = from_spec(spec)
        cutter = new
        if self._source.family == "sentencepiece" and self._mode == "merges" and added:
            cutter = word_finder(spec, [token.token for token in added])
        return Expansion(
            source=self._source,
            mode=self._mode,
            reason=self._reason,
            added=tuple(added),
            steps=tuple(steps),
            skipped=tuple(self._skipped),
            phrases=tuple(kept),
            given_up=given_up,
            spec=spec,
            new=new,
            cutter=cutter,
        )

    def _take_phrases(self, phrases: list[str], spec: Spec) -> list[str]:
        """Plan entries for phrases, and let ``spec`` leave those whole that get one."""
        if self._mode == "merges":
            for phrase in phrases:
                self._skip(phrase, "is several words, and mode merges cannot keep them together")
            return []
        if self._source.family == "sentencepiece":
            return [p for p in phrases if self._take(p, self._source.tokenizer, is_phrase=True)]
        usable = [phrase for phrase in phrases if self._may_have_entry(phrase)]
        if not usable:
            return []
        trial = keep_phrases(spec, map(self._normalized, usable))
        if trial is None:
            for phrase in usable:
                self._skip(phrase, "is several words, and how this tokenizer cuts text is unknown")
            return []
        whole = from_spec({**spec, "pre_tokenizer": trial})
        kept = [phrase for phrase in usable if self._take(phrase, whole, is_phrase=True)]
        if kept:
            spec["pre_tokenizer"] = keep_phrases(spec, map(self._normalized, kept))
        return kept

    def _take(self, form: str, tokenizer: Tokenizer, *, is_phrase: bool) -> bool:
        """Plan an entry for a form, or note why there is none; whether there is one."""
        if not self._may_have_entry(form):
            return False
        if not is_phrase and len(form.split()) > 1:
            return self._skip(form, "is several words; --phrases makes one token of them")
        if self._source.family == "byte-level":
            keys = pre_tokens(tokenizer, form)
        else:
            keys = [form.replace(" ", SPACE)]
        if len(keys) != 1:
            cut = " | ".join(spelled(tokenizer, key) for key in keys)
            return self._skip(form, f"this tokenizer cuts it into {len(keys)} pre-tokens: {cut}")
        key = keys[0]
        pieces = tuple(token.id for token in self._source.tokenizer.model.tokenize(key))
        if len(pieces) == 1:
            return self._skip(form, "is one token already")
        if key in self._known or key in self._pieces:
            return self._skip(form, f"has the entry {key!r} already")
        if self._mode == "merges" and form[0].isalnum():
            return self._skip(
                form,
                "mode merges adds forms after a space only: the merges of a bare form would join "
                "letters inside of longer words",
            )
        self._pieces[key] = (form, pieces)
        return True

    def _may_have_entry(self, form: str) -> bool:
        if not form.strip():
            return self._skip(form, "is empty")
        if held := next((text for text in self._added_texts if text in form), None):
            return self._skip(form, f"contains the text of the token {held!r}")
        return True

    def _skip(self, form: str, reason: str) -> bool:
        self._skipped.append(Skipped(form, reason))
        return False

    def _normalized(self, form: str) -> str:
        normalizer = self._source.tokenizer.normalizer
        return form if normalizer is None else normalizer.normalize_str(form)

    def _by_merges(self, spec: Spec) -> tuple[list[AddedToken], list[AddedToken]]:
        """Entries built by appended merges, and those that they need on the way."""
        merges = Merges(spec["model"]["merges"])
        names = {id: entry for entry, id in self._known.items()}
        made: dict[str, tuple[int, ...]] = {}  # new entry -> ids of its old pieces
        for _, pieces in self._pieces.values():
            beginnings = list(accumulate(names[piece] for piece in pieces))
            for entry in merges.build([names[piece] for piece in pieces]):
                if entry not in self._known:
                    # Merges go from left to right: what they make is a beginning of the word.
                    made[entry] = pieces[: beginnings.index(entry) + 1]
        first = first_free_id(spec)
        tokens = [
            AddedToken(self._text_of(entry), entry, first + place, pieces)
            for place, (entry, pieces) in enumerate(made.items())
        ]
        spec["model"]["vocab"] |= {token.token: token.id for token in tokens}
        spec["model"]["merges"] = merges.all
        words = [token for token in tokens if token.token in self._pieces]
        return words, [token for token in tokens if token.token not in self._pieces]

    def _text_of(self, entry: str) -> str:
        if entry in self._pieces:
            return self._pieces[entry][0]
        return spelled(self._source.tokenizer, entry)
