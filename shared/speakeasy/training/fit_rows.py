"""Rows of added entries, fitted to what the base itself predicts, before they are trained.

The base knows texts in its old tokens. There, before each word that has a token now, its last
hidden state says what comes next. So the output rows of the new tokens are found by a logistic
regression on those states: each state's logits of the old tokens are known, and the new tokens
join them. Nothing but the new rows moves, and the model runs forward once over the text; the rest
is numpy. Where one matrix serves both ends, the rows begin as ``weights.composed`` has them and the
fit moves them; where there are two, the input rows are composed and the output rows fitted.

A tenth of the texts is held out. It chooses how long is fitted, and whether the result is taken.

Shapes: N positions, R rows that are fitted, T tokens of a text, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy.batches.pieces import item_lengths
from speakeasy.batches.types import IGNORED, PackedBatch, Rendered
from speakeasy.training.backend import Engine
from speakeasy.training.regression import MOST_EPOCHS, States, fit, joined
from speakeasy.vocab.progress import Bar, no_bar
from speakeasy.weights.added import added_pieces
from speakeasy.weights.composed import composed_rows, untouched
from speakeasy.weights.rewrite import EMBEDDING, HEAD, open_base
from speakeasy.weights.safetensors_io import read_rows
from speakeasy.weights.trained_rows import TrainedRows

STATE_BYTES = 512 * 10**6
"""What hidden states may take, and twice that for a moment; fewer positions are used where they
would take more."""

Pieces = Mapping[int, Sequence[int]]
"""Added id -> ids of the old tokens that spelled it."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """Rows, and how well they fit.

    Attributes:
        rows: all the rows that were given, those that were fitted with their new values.
        record: what happened, as plain values: how many ``rows`` were fitted, to how many
            ``positions``, judged by how many ``held_out_positions``; the held-out nats a position
            of the rows as they were (``nats_before``) and as fitted (``nats_after``); whether the
            latter are ``taken``, which they are if they are fewer.
    """

    rows: TrainedRows
    record: dict[str, Any]


def fit_rows(
    engine: Engine,
    model: Path,
    rows: TrainedRows,
    items: Sequence[Rendered],
    *,
    positions: int,
    row_length: int,
    context: int,
    seed: int,
    say: Callable[[str], None] = lambda line: None,
    bar: Bar = no_bar,
) -> Fitted | None:
    """Fit those rows that were not trained since ``speakeasy vocab expand`` made them.

    Nats a position: before a new token they are the loss of that token, before an old one what the
    new tokens take from it.

    Args:
        engine: as it was opened for training; its weights are left alone.
        model: the directory that it was opened from.
        rows: rows of added entries, as the model has them.
        items: texts in new tokens, taken in a seeded order.
        positions: at most so many are used; fewer where ``STATE_BYTES`` does not hold them.
        row_length: tokens that go through the engine at once, unless a text is longer.
        context: tokens that the model can read; what is behind them in a text is left out.

    Returns:
        None where no row is to be fitted, or there is too little text.

    Raises:
        ModelError: the directory is unsound, or the model quantised.
    """
    pieces = _pieces(model, rows)
    if not pieces:
        return None
    ids = np.array(sorted(pieces), dtype=np.int64)
    room = min(
        positions,
        STATE_BYTES // (4 * rows.embedding.shape[1]),
        sum(item_lengths(items)) - len(items),
    )
    texts = _texts(items, pieces, room, context, seed)
    with bar("the base's predictions", room) as advance:
        known = _known(engine, texts, ids, row_length, advance)
    held_out_count = max(1, len(known) // 10)
    if len(known) <= held_out_count:
        say("rows left as they are: there is too little text to fit them to")
        return None
    unit = _unit(model, rows, pieces)
    held_out = joined(known[-held_out_count:], unit)
    train = joined(known[:-held_out_count], unit)
    del known
    places = np.searchsorted(rows.ids, ids)
    given_RD = (rows.embedding if rows.head is None else rows.head)[places] / unit
    spelled = [pieces[id] for id in ids.tolist()]
    composed_RD = composed_rows(model, spelled, leave_out=rows.ids.tolist(), seed=seed)
    start_RD = given_RD if rows.head is not None or composed_RD is None else composed_RD / unit
    with bar("fitting rows", MOST_EPOCHS * len(train)) as advance:
        fitted_RD, after = fit(train, held_out, start_RD, seed, advance)
    before = held_out.loss(given_RD)
    record = {
        "rows": len(ids),
        "positions": len(train),
        "held_out_positions": len(held_out),
        "nats_before": before,
        "nats_after": after,
        "taken": after < before,
    }
    say(_told(record))
    if not record["taken"]:
        return Fitted(rows, record)
    return Fitted(_with(rows, places, composed_RD, fitted_RD * unit), record)


def _told(record: Mapping[str, Any]) -> str:
    how = "fitted to the base's predictions"
    return (
        (f"rows {how}: " if record["taken"] else f"rows left as they are, no better when {how}: ")
        + f"{record['nats_before']:.2f} -> {record['nats_after']:.2f} nats a position on "
        + f"{record['held_out_positions']:,} held-out positions"
    )


def _pieces(model: Path, rows: TrainedRows) -> Pieces:
    """The rows that are to be fitted, each with pieces of which none is to be fitted itself."""
    known = added_pieces(model)
    wanted = set(untouched(model, rows, known))

    def spelled(id: int) -> list[int]:
        if id not in wanted:
            return [id]
        return [part for piece in known[id] for part in spelled(piece)]

    return {id: spelled(id) for id in sorted(wanted)}


def _unit(model: Path, rows: TrainedRows, pieces: Pieces) -> np.float32:
    """Root mean square of the pieces' output rows."""
    base = open_base(model, "its rows cannot be fitted; give the full-precision model")
    ids = sorted({piece for parts in pieces.values() for piece in parts})
    values = read_rows(base.matrix(EMBEDDING if rows.head is None else HEAD), ids)
    return np.sqrt(np.square(values.astype(np.float32)).mean())


def _with(
    rows: TrainedRows, places: np.ndarray, composed_RD: np.ndarray | None, fitted_RD: np.ndarray
) -> TrainedRows:
    embedding, head = rows.embedding.copy(), rows.head
    if head is None:
        embedding[places] = fitted_RD
        return replace(rows, embedding=embedding)
    if composed_RD is not None:
        embedding[places] = composed_RD
    head = head.copy()
    head[places] = fitted_RD
    return replace(rows, embedding=embedding, head=head)


@dataclass(frozen=True, slots=True)
class _Text:
    """A text in old tokens.

    Attributes:
        labels_T: the old token that is due where a new token begins, IGNORED elsewhere.
        places_N: for each of these positions which of the fitted rows is due, -1 for an old token.
    """

    tokens_T: np.ndarray
    labels_T: np.ndarray
    places_N: np.ndarray


def _texts(
    items: Sequence[Rendered], pieces: Pieces, room: int, context: int, seed: int
) -> Iterator[_Text]:
    """Texts in a seeded order, until they have ``room`` positions."""
    place_of = {id: place for place, id in enumerate(sorted(pieces))}
    order = np.random.Generator(np.random.PCG64([seed, 2])).permutation(len(items))
    for index in order.tolist():
        if not room:
            return
        item = items[index]
        tokens = item.tokens_T.tolist()
        spelled = [pieces.get(token, (token,)) for token in tokens]
        lengths_T = np.array([len(parts) for parts in spelled])
        starts_T = np.cumsum(lengths_T) - lengths_T
        chosen = np.flatnonzero(item.is_target_T & (starts_T < context))[:room]
        room -= len(chosen)
        if not len(chosen):
            continue
        old_T = np.concatenate([np.array(parts, dtype=np.int32) for parts in spelled])[:context]
        labels_T = np.full(len(old_T), IGNORED, dtype=np.int32)
        labels_T[starts_T[chosen] - 1] = old_T[starts_T[chosen]]
        places_N = np.array([place_of.get(tokens[place], -1) for place in chosen.tolist()])
        yield _Text(old_T, labels_T, places_N)


def _known(
    engine: Engine,
    texts: Iterator[_Text],
    ids: np.ndarray,
    row_length: int,
    advance: Callable[[int], None],
) -> list[States]:
    """What the base knows of each text; several go through the engine in one row."""
    found: list[States] = []

    def read(row: Sequence[_Text]) -> None:
        hidden_ND, log_sums_N = engine.predictions(_batch(row), ids)
        ends = np.cumsum([len(text.places_N) for text in row])
        for text, end in zip(row, ends.tolist(), strict=True):
            part = slice(end - len(text.places_N), end)
            found.append(States(hidden_ND[part], log_sums_N[part], text.places_N))
        advance(int(ends[-1]))

    row: list[_Text] = []
    for text in texts:
        if row and sum(len(one.tokens_T) for one in (*row, text)) > row_length:
            read(row)
            row = []
        row.append(text)
    if row:
        read(row)
    return found


def _batch(row: Sequence[_Text]) -> PackedBatch:
    """One row of texts, each a segment of its own."""
    segments = [np.full(len(t.tokens_T), number, np.int32) for number, t in enumerate(row, 1)]
    segments_1T = np.concatenate(segments)[None]
    return PackedBatch(
        tokens_BT=np.concatenate([text.tokens_T for text in row])[None],
        segments_BT=segments_1T,
        labels_BT=np.concatenate([text.labels_T for text in row])[None],
        items_BT=segments_1T - 1,
    )
