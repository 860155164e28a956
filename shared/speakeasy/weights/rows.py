"""Rows of the embedding and output matrices: added for new tokens, or replaced.

A new row begins as the mean of the rows of the tokens that the old tokenizer made of the word (fast
vocabulary transfer, arXiv 2402.09977), or as the mean of the whole matrix. Input and output rows
are each taken from their own matrix; in a tied model one matrix is both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from speakeasy.errors import ModelError
from speakeasy.weights.rewrite import (
    EMBEDDING,
    HEAD,
    Advance,
    Base,
    Replacement,
    open_base,
    rewrite,
)
from speakeasy.weights.safetensors_io import (
    BLOCK_BYTES,
    DTYPES,
    Block,
    TensorInfo,
    read_rows,
    row_blocks,
)

Init = Literal["subword", "mean"]

_WAY_OUT = "rows can only be changed in the full-precision model; give that one"


@dataclass(frozen=True, slots=True)
class RowsReport:
    """What ``add_rows`` did.

    Attributes:
        rows_before: rows of the old matrices, padding included.
        rows_after: rows of the new ones; never fewer.
        added: new tokens whose rows lie behind the old matrix.
        overwritten: new tokens whose rows were padding or reserved ones.
        tied: one matrix was written, serving both ends.
    """

    rows_before: int
    rows_after: int
    added: int
    overwritten: int
    tied: bool


def add_rows(
    source: Path,
    target: Path,
    rows: Mapping[int, Sequence[int]],
    *,
    init: Init,
    exclude: Collection[int] = (),
    advance: Advance | None = None,
) -> RowsReport:
    """A copy of a model with rows for new tokens; tokenizer files are not its business.

    Every old row that no new token takes keeps its bits. Means are taken in float32 (sums over the
    whole matrix in float64) over the old values and cast once to the stored type. Memory is that
    of a few blocks, time that of a copy and, for ``mean``, of reading the matrices once more.

    Args:
        source: the model's directory.
        target: a directory of ``files.new_directory``.
        rows: id of each new token -> the ids that the old tokenizer made of it. An id inside the
            old matrix takes that row; those beyond it must follow it without a gap.
        init: ``subword``, the mean of the rows of these old ids, or ``mean``, the mean of all rows
            but those of ``exclude`` and those that new tokens take.
        exclude: ids of rows that were never trained (``untrained.untrained_rows``, padding), left
            out of means of either kind.
        advance: as for ``rewrite.rewrite``.

    Raises:
        ModelError: the base is unsound or quantised; an id leaves a gap; old ids are missing,
            outside the matrix, or all excluded.
        SpeakeasyError: the disk is full or cannot be written.
    """
    base = open_base(source, _WAY_OUT)
    matrices = _matrices(base)
    before = matrices[EMBEDDING].shape[0]
    after = _check_rows(rows, before, init)
    left_out = frozenset(exclude)
    replaced = {}
    for name, info in matrices.items():
        blocks = _spliced(info, sorted(rows), _initial(info, rows, init, left_out))
        replaced[name] = Replacement(DTYPES[info.dtype], (after, info.shape[1]), blocks)
    rewrite(base, target, replaced, {"vocab_size": after}, advance)
    added = sum(id >= before for id in rows)
    return RowsReport(before, after, added, len(rows) - added, base.tied)


def check_addition(
    source: Path,
    rows: Mapping[int, Sequence[int]],
    *,
    init: Init,
    exclude: Collection[int] = (),
    names: Mapping[int, str] | None = None,
) -> None:
    """Raise what ``add_rows`` with the same arguments would raise of the base and of the rows.

    Args:
        names: id of a new token -> the word that it stands for, for the message.
    """
    base = open_base(source, _WAY_OUT)
    matrices = _matrices(base)
    names = names or _NO_NAMES
    _check_rows(rows, matrices[EMBEDDING].shape[0], init, names)
    if init == "subword":
        for id, pieces in rows.items():
            _trained(id, pieces, frozenset(exclude), names)


def replace_rows(
    source: Path,
    target: Path,
    tables: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    advance: Advance | None = None,
) -> None:
    """A copy of a model in which some rows have other values, and all else the same bits.

    Args:
        source: the model's directory.
        target: a directory of ``files.new_directory``.
        tables: tensor name -> (ids (n,), values (n, d) float32, cast to the stored type).
        advance: as for ``rewrite.rewrite``.

    Raises:
        ModelError: the base is unsound or quantised, or a table does not fit it.
        SpeakeasyError: the disk is full or cannot be written.
    """
    base = open_base(source, _WAY_OUT)
    replaced = {}
    for name, table in check_tables(base, tables).items():
        info = base.tensors[name]
        blocks = with_rows(info, table)
        replaced[name] = Replacement(DTYPES[info.dtype], info.shape, blocks)
    rewrite(base, target, replaced, advance=advance)


Table = tuple[np.ndarray, np.ndarray]
"""Rising ids (n,) and their rows' values (n, d)."""


def check_tables(base: Base, tables: Mapping[str, Table]) -> dict[str, Table]:
    """Tables in the order of their ids, each found to fit the base's matrix of that name.

    Raises:
        ModelError: naming the table and what does not fit.
    """
    checked = {}
    for name, (ids, values) in tables.items():
        count, width = base.matrix(name).shape
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or values.shape != (len(ids), width):
            raise ModelError(
                f"rows of {name}: ids {ids.dtype} {ids.shape} and values {values.shape}; expected "
                f"whole numbers (n,) and (n, {width})"
            )
        order = np.argsort(ids, kind="stable")
        ids, values = ids[order], values[order]
        if len(ids) and not 0 <= ids[0] <= ids[-1] < count:
            outside = ids[0] if ids[0] < 0 else ids[-1]
            raise ModelError(f"rows of {name}: id {outside} is outside the model's {count} rows")
        if (twice := np.flatnonzero(ids[1:] == ids[:-1])).size:
            raise ModelError(f"rows of {name}: id {ids[twice[0]]} occurs twice; expected once")
        if not np.isfinite(values).all():
            raise ModelError(f"rows of {name}: hold NaN or infinity; take an earlier checkpoint")
        checked[name] = (ids, values)
    return checked


def set_rows(block: np.ndarray, start: int, table: Table) -> None:
    """Write those rows of a table into a block of rows, in place, that lie in it.

    Args:
        block: rows ``start`` to ``start + len(block)`` of the matrix.
        start: number of the block's first row.
        table: of ``check_tables``.
    """
    ids, values = table
    first, last = np.searchsorted(ids, (start, start + len(block)))
    block[ids[first:last] - start] = values[first:last].astype(block.dtype)


def with_rows(info: TensorInfo, table: Table) -> Iterator[Block]:
    """The blocks of a matrix with the rows of a table in place of its own."""
    ids, values = table
    place = {id: number for number, id in enumerate(ids.tolist())}
    return _spliced(info, list(place), lambda id: values[place[id]])


def _matrices(base: Base) -> dict[str, TensorInfo]:
    """The matrices that have a row a token: one of a tied model, two of another."""
    if "lm_head.bias" in base.tensors:
        raise ModelError(
            f"{base.path}: its output matrix has a bias (lm_head.bias); only models of the Llama "
            "family can be given new rows"
        )
    names = (EMBEDDING,) if base.tied else (EMBEDDING, HEAD)
    return {name: base.matrix(name) for name in names}


_NO_NAMES: Mapping[int, str] = {}


def _token(id: int, names: Mapping[int, str]) -> str:
    """How a message names a new token."""
    return f"new token {id} ({names[id]!r})" if id in names else f"new token {id}"


def _check_rows(
    rows: Mapping[int, Sequence[int]],
    before: int,
    init: Init,
    names: Mapping[int, str] = _NO_NAMES,
) -> int:
    """Rows of the new matrix."""
    beyond = sorted(id for id in rows if id >= before)
    for expected, id in enumerate(beyond, start=before):
        if id != expected:
            raise ModelError(
                f"{_token(id, names)}: row {expected} would belong to no token; the matrix has "
                f"{before} rows, so its tokenizer has {id - expected} tokens without one; resize "
                "the model to its tokenizer first, or take these tokens out of the tokenizer"
            )
    for id, pieces in rows.items():
        token = _token(id, names)
        if id < 0:
            raise ModelError(f"{token}: expected an id from 0")
        if init == "subword" and not pieces:
            raise ModelError(f"{token}: no old tokens to take the mean of; use init mean")
        if (outside := next((p for p in pieces if not 0 <= p < before), None)) is not None:
            raise ModelError(
                f"{token}: made of old token {outside}, but the matrix has {before} rows; "
                "give the model whose tokenizer this is"
            )
    return before + len(beyond)


RowOf = Callable[[int], np.ndarray]
"""From the id of a new token to its row (d,), float32."""


def _initial(
    info: TensorInfo, rows: Mapping[int, Sequence[int]], init: Init, exclude: frozenset[int]
) -> RowOf:
    if init == "mean":
        mean = _mean_row(info, np.array(sorted(exclude | rows.keys()), dtype=np.int64))
        return lambda id: mean

    def mean_of_pieces(id: int) -> np.ndarray:
        trained = _trained(id, rows[id], exclude)
        return read_rows(info, trained).astype(np.float32).mean(axis=0)

    return mean_of_pieces


def _trained(
    id: int,
    pieces: Sequence[int],
    exclude: frozenset[int],
    names: Mapping[int, str] = _NO_NAMES,
) -> list[int]:
    """The pieces of a new token whose rows were trained; one at least."""
    trained = [piece for piece in pieces if piece not in exclude]
    if not trained:
        raise ModelError(
            f"{_token(id, names)}: none of its old tokens {list(pieces)} was ever trained, so "
            "their mean says nothing; leave the word out, or use init mean"
        )
    return trained


def _mean_row(info: TensorInfo, left_out: np.ndarray) -> np.ndarray:
    """The mean of a matrix's rows but those of some ids (rising), (d,) float32."""
    total = np.zeros(info.shape[1], dtype=np.float64)
    count = 0
    for start, block in row_blocks(info):
        first, last = np.searchsorted(left_out, (start, start + len(block)))
        kept = np.delete(block, left_out[first:last] - start, axis=0) if last > first else block
        total += kept.astype(np.float32).sum(axis=0, dtype=np.float64)
        count += len(kept)
    if not count:
        raise ModelError(f"{info.file}: no trained row is left to take the mean of; exclude fewer")
    return (total / count).astype(np.float32)


def _spliced(info: TensorInfo, ids: Sequence[int], row: RowOf) -> Iterator[Block]:
    """A matrix with the rows of ``ids`` (rising) made anew; those beyond its end come behind it."""
    dtype = DTYPES[info.dtype]
    before, width = info.shape
    at_once = max(1, BLOCK_BYTES // (width * dtype.itemsize))
    position = place = 0
    while place < len(ids):
        if ids[place] > position:
            yield info.rows(position, ids[place])
        last = place + 1
        while last < len(ids) and last - place < at_once and ids[last] == ids[last - 1] + 1:
            last += 1
        yield np.stack([row(id).astype(dtype) for id in ids[place:last]])
        position, place = ids[last - 1] + 1, last
    if position < before:
        yield info.rows(position, before)
