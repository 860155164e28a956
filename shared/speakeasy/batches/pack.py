"""Whole conversations into rows of one fixed length: seeded first-fit-decreasing.

First-fit-decreasing (Johnson 1973) puts the longest conversation first, each into the leftmost row
that has room. It needs at most 11/9 of the best number of rows and, with conversations much
shorter than a row, leaves next to nothing empty.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from speakeasy.batches.types import IGNORED, PackedBatch, Rendered


def pack(lengths: Sequence[int], row_length: int, seed: int) -> list[list[int]]:
    """Assign every item to one row.

    Args:
        lengths: tokens of each item, 1 to ``row_length``.
        row_length: tokens of a row.
        seed: shuffles items of equal length among themselves, and the order of the rows.

    Returns:
        For each row the indices of its items, longest first. The same arguments give the same
        rows on every machine.

    Raises:
        ValueError: an item is empty or longer than a row.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if sizes.size == 0:
        return []
    if sizes.min() < 1 or sizes.max() > row_length:
        bad = int(np.flatnonzero((sizes < 1) | (sizes > row_length))[0])
        raise ValueError(f"item {bad} has {sizes[bad]} tokens; expected 1 to {row_length}")
    generator = np.random.Generator(np.random.PCG64(seed))
    shuffled = generator.permutation(sizes.size)
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]

    room = _Room(sizes.size, row_length)
    rows: list[list[int]] = []
    for item in order.tolist():
        row = room.take_first_fit(int(sizes[item]))
        if row == len(rows):
            rows.append([])
        rows[row].append(item)
    return [rows[row] for row in generator.permutation(len(rows))]


class _Room:
    """Free tokens of each row, in a tree whose inner nodes hold the largest below them.

    So the leftmost row with enough room is found in log2(rows) steps.
    """

    def __init__(self, rows: int, row_length: int) -> None:
        self._leaves = 1 << (rows - 1).bit_length()
        self._most = [row_length] * (2 * self._leaves)

    def take_first_fit(self, size: int) -> int:
        """Take ``size`` tokens from the leftmost row that has them, and return its number."""
        most, node = self._most, 1
        while node < self._leaves:
            node *= 2
            if most[node] < size:
                node += 1
        row = node - self._leaves
        most[node] -= size
        while node > 1:
            node //= 2
            most[node] = max(most[2 * node], most[2 * node + 1])
        return row


def fill_ratio(lengths: Sequence[int], rows: Sequence[Sequence[int]], row_length: int) -> float:
    """Share of the rows' positions that hold a token, 0 to 1; 1 when there are no rows."""
    used = sum(lengths[item] for row in rows for item in row)
    return used / (len(rows) * row_length) if rows else 1.0


def build_batch(
    items: Sequence[Rendered], rows: Sequence[Sequence[int]], row_length: int
) -> PackedBatch:
    """The numpy arrays of packed rows, B = len(rows) by T = ``row_length``.

    Raises:
        ValueError: the items of a row are longer than the row together.
    """
    shape = (len(rows), row_length)
    tokens_BT = np.zeros(shape, dtype=np.int32)
    segments_BT = np.zeros(shape, dtype=np.int32)
    labels_BT = np.full(shape, IGNORED, dtype=np.int32)
    items_BT = np.full(shape, -1, dtype=np.int32)
    for b, row in enumerate(rows):
        start = 0
        for segment, index in enumerate(row, 1):
            item = items[index]
            stop = start + item.tokens_T.size
            if stop > row_length:
                raise ValueError(f"row {b} holds {stop} tokens or more; expected <= {row_length}")
            tokens_BT[b, start:stop] = item.tokens_T
            segments_BT[b, start:stop] = segment
            items_BT[b, start:stop] = index
            # Position t is scored on token t + 1 of its own conversation.
            labels_BT[b, start : stop - 1] = np.where(
                item.is_target_T[1:], item.tokens_T[1:], IGNORED
            )
            start = stop
    return PackedBatch(tokens_BT, segments_BT, labels_BT, items_BT)
