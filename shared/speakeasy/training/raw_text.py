"""From raw text to what the loop takes: pieces of documents, with neutral text mixed in.

A corpus is tokenized once for a tokenizer and a row length; the pieces are kept, memory-mapped, in
the user's cache, so that resuming, another try or the other backend begins at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy.batches.pieces import PIECES, TOKENS, Cutter, Joined, Piece, Pieces, write
from speakeasy.batches.types import RenderedSet
from speakeasy.config import CorpusConfig
from speakeasy.corpus.documents import Document, read_documents, text_files
from speakeasy.corpus.starter import STARTER_DEFAULT, starter_text_files
from speakeasy.errors import DataError
from speakeasy.files import alone, disk_errors, new_directory
from speakeasy.training.prepare import Prepared
from speakeasy.vocab.progress import Bar, no_bar
from speakeasy.weights.starter import cache_root

HELD_OUT_TOKENS = 100_000
"""Most tokens that a share held out may have: scoring must stay small beside training."""
NEUTRAL_HOLDOUT = 0.2
"""Share of the neutral text that is held out: there is little of it in the packaged texts."""

_TRAIN, _HELD_OUT = "train", "held-out"
_VERSION = 1
"""Changes when the pieces of a text would be others."""


@dataclass(frozen=True, slots=True)
class Tokenized:
    """One corpus as pieces, both sides of it."""

    train: Pieces
    held_out: Pieces
    fingerprint: str


def prepare_text(
    config: CorpusConfig,
    tokenizer: Any,
    tokenizer_base: str,
    seed: int,
    *,
    context: int,
    say: Callable[[str], None] = lambda line: None,
    bar: Bar = no_bar,
) -> Prepared:
    """Read, hold out, cut, and mix neutral text in.

    Args:
        tokenizer_base: ``fingerprint.tokenizer_fingerprint``.
        context: positions that the model knows; no piece is longer, though a packed row may be.

    Raises:
        DataError: a file cannot be used, or nothing is left to learn or to score.
    """
    files = corpus_files(config)
    neutral_files = replay_files(config)
    origin = ", ".join(config.paths) or "the packaged texts (ca, es-ca)"

    def tokenized(files: list[Path], holdout: float) -> Tokenized:
        longest = min(config.max_length, context)
        return tokenize(files, holdout, longest, tokenizer, tokenizer_base, seed, say, bar)

    if config.evaluation:
        learned = tokenized(files, 0.0)
        scored = tokenized(_files(config.evaluation), 0.0)
        held_out, seen = scored.train, scored.fingerprint
        origin += f"; held out: {', '.join(config.evaluation)}"
    else:
        learned = tokenized(files, config.holdout)
        held_out, seen = learned.held_out, ""
        origin += f"; {config.holdout:.0%} held out (seed {seed})"
    neutral = tokenized(neutral_files, NEUTRAL_HOLDOUT)
    for side, items in (("training", learned.train), ("held-out", held_out)):
        if not len(items):
            raise DataError(
                f"{origin}: no {side} text; "
                + ("give --eval-path, or a larger --holdout" if side == "held-out" else "give more")
            )
    replay = _share(neutral.train, learned.train, config.replay_share, seed)
    tokens = int(learned.train.lengths.sum(dtype=np.int64))
    again = int(replay.lengths.sum(dtype=np.int64))
    if config.replay_share:
        share = again / (tokens + again)
        source = ", ".join(config.replay) or "the packaged plain Spanish"
        origin += f"; {share:.0%} of the training tokens replayed from {source}"
        if share < 0.9 * config.replay_share:
            say(
                f"warning: --replay {config.replay_share:g}: there are only {again:,} tokens of "
                f"neutral text; give more with --replay-path, or the model may forget"
            )
    say(f"text: {origin}")
    parts = [learned.fingerprint, seen, neutral.fingerprint, str(config.replay_share), str(seed)]
    return Prepared(
        train=_set(Joined(learned.train, replay), tokens + again),
        held_out=_set(held_out, int(held_out.lengths.sum(dtype=np.int64))),
        neutral=neutral.held_out,
        overlap=_overlap(learned.train, held_out) if config.evaluation else 0,
        origin=origin,
        fingerprint=hashlib.sha256("\0".join(parts).encode()).hexdigest(),
    )


def _overlap(learned: Pieces, held_out: Pieces) -> int:
    """How many held-out pieces are also trained on, token for token."""
    seen = {hash(item.tokens_T.tobytes()) for item in learned}
    return sum(hash(item.tokens_T.tobytes()) in seen for item in held_out)


def corpus_files(config: CorpusConfig) -> list[Path]:
    """The files that are learned from, a share of which may be held out."""
    return _files(config.paths, *STARTER_DEFAULT)


def replay_files(config: CorpusConfig) -> list[Path]:
    """The files of neutral text."""
    return _files(config.replay, "es")


def _files(paths: Sequence[str], *packaged: str) -> list[Path]:
    return text_files([Path(path) for path in paths]) if paths else starter_text_files(*packaged)


def _set(items: Pieces | Joined, tokens: int) -> RenderedSet:
    return RenderedSet(
        items=items,
        rejected=[],
        shortened=0,
        dropped_turns=0,
        tokens=tokens,
        targets=tokens - len(items),
    )


def _share(neutral: Pieces, learned: Pieces, share: float, seed: int) -> Pieces:
    """A seeded choice of neutral pieces that makes up ``share`` of the whole, or all there are."""
    wanted = share / (1 - share) * learned.lengths.sum(dtype=np.int64)
    order = np.random.Generator(np.random.PCG64([seed, 1])).permutation(len(neutral))
    reached = np.cumsum(neutral.lengths[order], dtype=np.int64)
    count = int(np.searchsorted(reached, wanted)) if wanted else -1
    return neutral.take(np.sort(order[: count + 1]))


def tokenize(
    files: Sequence[Path],
    holdout: float,
    row_length: int,
    tokenizer: Any,
    tokenizer_base: str,
    seed: int,
    say: Callable[[str], None],
    bar: Bar,
) -> Tokenized:
    """The pieces of a corpus, from the cache or made now.

    Args:
        holdout: share of documents, drawn by the seed, whose pieces are held out.
    """
    content = _content(files)
    facts = [_VERSION, content, tokenizer_base, row_length, holdout, seed]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    place = cache_root() / "tokens" / key[:32]
    with (
        disk_errors(f"{place}: tokenized text", "free some space or set SPEAKEASY_CACHE"),
        alone(place.with_suffix(".lock"), lambda: say("waiting for another process's tokens")),
    ):
        if not _is_whole(place):
            with (
                new_directory(place, replace=True) as directory,
                bar("tokenising text", sum(file.stat().st_size for file in files)) as advance,
            ):
                _write(directory, files, holdout, row_length, tokenizer, seed, advance)
    return Tokenized(
        train=Pieces.open(place / _TRAIN),
        held_out=Pieces.open(place / _HELD_OUT),
        fingerprint=key,
    )


def document_draws(seed: int) -> Callable[[], float]:
    """Draws one number a document, in their order.

    A document whose number is below the share held out is held out, where there is room.
    """
    return np.random.Generator(np.random.PCG64([seed, 0])).random


def _is_whole(place: Path) -> bool:
    parts = [place / side / name for side in (_TRAIN, _HELD_OUT) for name in (TOKENS, PIECES)]
    return all(file.is_file() for file in parts)


def _content(files: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for path in files:
        whole.update(path.suffix.lower().encode())  # which decides how it is read
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _write(
    directory: Path,
    files: Sequence[Path],
    holdout: float,
    row_length: int,
    tokenizer: Any,
    seed: int,
    advance: Callable[[int], None],
) -> None:
    """Write both sides in one pass over the documents."""
    draw = document_draws(seed)
    cutter = Cutter(tokenizer, row_length)
    held_out: list[Piece] = []
    room = HELD_OUT_TOKENS

    def texts() -> Iterator[str]:
        documents: Iterator[Document] = read_documents(files)
        return (document.text for document in documents)

    def training() -> Iterator[Piece]:
        nonlocal room
        for pieces in cutter.cut(texts(), advance):
            size = sum(len(ids) for ids, _, _ in pieces)
            if draw() < holdout and size <= room:
                room -= size
                held_out.extend(pieces)
            else:
                yield from pieces

    for name, side in ((_TRAIN, training()), (_HELD_OUT, held_out)):
        (directory / name).mkdir()
        write(directory / name, side)
