"""What is scored: held-out conversations, regional text, plain Spanish, plain Catalan.

A set is a list of texts, not of tokens: item number n is the same text for every model and every
tokenizer, and two evaluations can be paired item by item where the fingerprints of their sets
agree.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speakeasy.config import CorpusConfig, DataConfig, PretrainConfig, TrainConfig
from speakeasy.corpus.documents import read_documents, text_files
from speakeasy.corpus.starter import starter_text_files
from speakeasy.data.chat import Conversation
from speakeasy.data.dataset import load_conversations
from speakeasy.errors import DataError, RunError
from speakeasy.evaluation.lineage import conversation_text, split_documents
from speakeasy.evaluation.plan import EvaluationPlan
from speakeasy.evaluation.result import SETS, SETS_FOLDER, Evaluation
from speakeasy.files import write_text
from speakeasy.training.prepare import conversations, take
from speakeasy.training.raw_text import (
    HELD_OUT_TOKENS,
    NEUTRAL_HOLDOUT,
    corpus_files,
    replay_files,
)
from speakeasy.training.run import Run

HELD_OUT_BYTES = HELD_OUT_TOKENS * 9 // 10
"""Most bytes of held-out documents that are taken from a corpus. A token has a byte or more, so
whatever the tokenizer, pre-training had room to hold all of these out (``raw_text``)."""

_OPTIONS = {
    "conversations": "--eval-file",
    "regional": "--text",
    "neutral_es": "--neutral-es",
    "neutral_ca": "--neutral-ca",
}

Item = Conversation | str


@dataclass(frozen=True, slots=True)
class TextSet:
    """Texts to be scored.

    Attributes:
        name: one of ``result.SETS``.
        origin: where they came from, in words.
        items: conversations, or documents.
    """

    name: str
    origin: str
    items: tuple[Item, ...]

    @property
    def lines(self) -> list[str]:
        """A line of JSON an item, in the forms that ``data`` and ``corpus`` read."""
        return [json.dumps(_value(item), ensure_ascii=False) for item in self.items]

    @property
    def fingerprint(self) -> str:
        """sha256 of the texts and their order; no tokenizer has a part in it."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    @property
    def texts(self) -> list[str]:
        """The items as running text."""
        return [item if isinstance(item, str) else conversation_text(item) for item in self.items]


def _value(item: Item) -> dict[str, Any]:
    return {"text": item} if isinstance(item, str) else {"messages": item.to_messages()}


def gather_sets(plan: EvaluationPlan, runs: Sequence[Run]) -> tuple[TextSet, ...]:
    """The four sets, in the order of ``SETS``.

    Args:
        runs: those behind the model (``lineage.runs_behind``), whose plans say what they held out.

    Raises:
        DataError: a file cannot be read, or a set would be empty.
        RunError: the evaluation to be followed is not there, or its sets are damaged.
    """
    if plan.like is not None:
        return read_sets(Evaluation.read(Path(plan.like)))
    trained = [run for run in runs if isinstance(run.config, TrainConfig)]
    pretrained = [run for run in runs if isinstance(run.config, PretrainConfig)]
    found = (
        _conversations(plan, trained[-1] if trained else None),
        _regional(plan, pretrained[-1] if pretrained else None),
        _neutral_spanish(plan, pretrained[-1] if pretrained else None),
        _neutral_catalan(plan),
    )
    return tuple(_checked(one, plan.max_items) for one in found)


def _checked(found: TextSet, most: int) -> TextSet:
    if not found.items:
        raise DataError(
            f"{found.origin}: no text to score for the set {found.name}; give some with "
            f"{_OPTIONS[found.name]}"
        )
    return TextSet(found.name, found.origin, tuple(take(found.items, most, 0)))


def _conversations(plan: EvaluationPlan, run: Run | None) -> TextSet:
    if plan.eval_files:
        items = load_conversations([Path(file) for file in plan.eval_files])
        return TextSet("conversations", _names(plan.eval_files), tuple(items))
    config, seed = DataConfig(), 0
    if run is not None:
        assert isinstance(run.config, TrainConfig)
        config, seed = run.config.data, run.config.seed
    try:
        _, held_out, _ = conversations(config, seed)
    except DataError as error:
        raise DataError(f"{error}; or give held-out conversations with --eval-file") from error
    if config.evaluation:
        origin = _names(config.evaluation)
    else:
        origin = _names(config.train) if config.train else "the packaged conversations"
        origin += f"; {config.holdout:.0%} held out (seed {seed})"
    return TextSet("conversations", origin, tuple(take(held_out, config.max_eval, seed)))


def _regional(plan: EvaluationPlan, run: Run | None) -> TextSet:
    if plan.texts:
        return _given("regional", plan.texts)
    corpus, seed = _corpus(run)
    try:
        if corpus.evaluation:
            return _given("regional", corpus.evaluation)
        texts = split_documents(corpus_files(corpus), corpus.holdout, seed, held_out=True)
        items = _until_full(texts)
    except DataError as error:
        raise DataError(f"{error}; or give regional text with --text") from error
    origin = _names(corpus.paths) if corpus.paths else "the packaged texts (ca, es-ca)"
    return TextSet("regional", f"{origin}; {corpus.holdout:.0%} held out (seed {seed})", items)


def _neutral_spanish(plan: EvaluationPlan, run: Run | None) -> TextSet:
    """Packaged, unless others are given: so that all models are asked what they forgot of it."""
    if plan.neutral_es:
        return _given("neutral_es", plan.neutral_es)
    corpus, seed = _corpus(run)
    seed = 0 if corpus.replay else seed
    files = replay_files(CorpusConfig())
    texts = split_documents(files, NEUTRAL_HOLDOUT, seed, held_out=True)
    origin = f"the packaged texts (es); {NEUTRAL_HOLDOUT:.0%} held out (seed {seed})"
    return TextSet("neutral_es", origin, _until_full(texts))


def _neutral_catalan(plan: EvaluationPlan) -> TextSet:
    if plan.neutral_ca:
        return _given("neutral_ca", plan.neutral_ca)
    texts = [document.text for document in read_documents(starter_text_files("ca-neutral"))]
    return TextSet("neutral_ca", "the packaged texts (ca-neutral)", tuple(texts))


def _corpus(run: Run | None) -> tuple[CorpusConfig, int]:
    if run is None:
        return CorpusConfig(), 0
    assert isinstance(run.config, PretrainConfig)
    return run.config.corpus, run.config.seed


def _given(name: str, paths: Sequence[str]) -> TextSet:
    texts = (document.text for document in read_documents(text_files([Path(p) for p in paths])))
    return TextSet(name, _names(paths), tuple(text for text in texts if text.strip()))


def _until_full(texts: Iterable[str]) -> tuple[str, ...]:
    """The first texts that ``HELD_OUT_BYTES`` has room for; those of white space are left out."""
    found, room = [], HELD_OUT_BYTES
    for text in texts:
        if not text.strip():
            continue
        room -= len(text.encode())
        if room < 0:
            break
        found.append(text)
    return tuple(found)


def _names(paths: Iterable[str]) -> str:
    return ", ".join(Path(path).name for path in paths)


def write_sets(sets: Iterable[TextSet], directory: Path) -> None:
    """Keep the texts in an evaluation's directory."""
    for one in sets:
        file = directory / SETS_FOLDER / f"{one.name}.jsonl"
        write_text(file, "".join(f"{line}\n" for line in one.lines))


def read_sets(evaluation: Evaluation) -> tuple[TextSet, ...]:
    """The sets that an evaluation was made on.

    Raises:
        RunError: they are not those that ``evaluation.json`` speaks of.
    """
    return tuple(_read(evaluation, name) for name in SETS)


def _read(evaluation: Evaluation, name: str) -> TextSet:
    file, known = evaluation.path / SETS_FOLDER / f"{name}.jsonl", evaluation.sets[name]
    items: tuple[Item, ...]
    if name == "conversations":
        items = tuple(load_conversations([file]))
    else:
        items = tuple(document.text for document in read_documents([file]))
    found = TextSet(name, known["origin"], items)
    if found.fingerprint != known["fingerprint"]:
        raise RunError(f"{file}: not the texts that were scored; copy the directory again")
    return found


class SeenItems:
    """Which items of some sets stand, word for word, among the texts that were learned."""

    def __init__(self, sets: Iterable[TextSet]) -> None:
        self._wanted = {one.name: [_digest(text) for text in one.texts] for one in sets}
        self._all = {digest for digests in self._wanted.values() for digest in digests}
        self._found: set[bytes] = set()

    def watch(self, learned: Iterable[str]) -> Iterator[str]:
        """The texts that were learned, looked at on their way to someone else."""
        for text in learned:
            if (digest := _digest(text)) in self._all:
                self._found.add(digest)
            yield text

    @property
    def counts(self) -> dict[str, int]:
        """How many items of each set have been met."""
        return {
            name: sum(digest in self._found for digest in digests)
            for name, digests in self._wanted.items()
        }


def _digest(text: str) -> bytes:
    return hashlib.sha256(" ".join(text.split()).encode()).digest()
