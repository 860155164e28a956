"""A batch in parts that go through the model side by side, one in each of a CPU's lanes.

Where a framework runs much on one core alone, as MLX's CPU build does with everything but products,
the other cores wait. Conversations know nothing of each other, so cores can as well take one each,
and wait once a batch. What is in flight together is never more than one row, so memory is that
of a row that goes through by itself. A conversation that is too long for a lane has all cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from speakeasy.batches.types import IGNORED, PackedBatch

SHARED_RATE = 0.75
"""How fast cores are that share every product, against as many lanes: two with the starter model on
MLX."""


@dataclass(frozen=True, slots=True)
class Part:
    """Conversations of a batch, in a batch of one row without padding.

    Attributes:
        places_M: where each token stands in the whole batch, laid out flat.
    """

    batch: PackedBatch
    places_M: np.ndarray


@dataclass(frozen=True, slots=True)
class Division:
    """All conversations of a batch that have a target.

    Attributes:
        lanes: for each lane the parts that go through it, one after the other.
        alone: parts that go through by themselves, with all cores.
    """

    lanes: list[list[Part]]
    alone: list[Part]


def divide(batch: PackedBatch, lanes: int) -> Division:
    """Divide a batch of rows among lanes.

    A part in a lane has at most ``row length / lanes`` tokens, one that goes alone at most a row's.
    The same batch is always divided in the same way.
    """
    segments = _segments(batch)
    lengths = [segment.size for segment in segments]
    row_length = batch.tokens_BT.shape[1]
    most = row_length // lanes
    fitting = [index for index, length in enumerate(lengths) if length <= most]
    too_long = [index for index, length in enumerate(lengths) if length > most]

    def shares(alone: Sequence[int]) -> list[list[int]]:
        return _share_out([index for index in fitting if index not in alone], lengths, lanes)

    def seconds(alone: Sequence[int]) -> float:
        """Of the lanes, and of what is alone after them, in tokens of one lane."""
        longest = max(sum(lengths[index] for index in share) for share in shares(alone))
        return longest + sum(lengths[index] for index in alone) / (lanes * SHARED_RATE)

    def parts(chosen: Sequence[int], most: int) -> list[Part]:
        return _parts(batch, [segments[index] for index in sorted(chosen)], most)

    # A conversation that would keep one lane busy while the others are done goes alone.
    alone = min(([], *([index] for index in fitting), fitting), key=seconds)
    return Division(
        [parts(share, most) for share in shares(alone)], parts([*too_long, *alone], row_length)
    )


def _segments(batch: PackedBatch) -> list[np.ndarray]:
    """The places of each conversation that has a target, in row order."""
    labels = batch.labels_BT.ravel()
    places = np.flatnonzero(batch.segments_BT)
    starts = np.flatnonzero(batch.positions_BT.ravel()[places] == 0)
    found = np.split(places, starts[1:])
    return [one for one in found if (labels[one] != IGNORED).any()]


def _share_out(chosen: Sequence[int], lengths: Sequence[int], lanes: int) -> list[list[int]]:
    """The longest first, each to the lane that has least yet (Graham 1969)."""
    shares: list[list[int]] = [[] for _ in range(lanes)]
    loads = [0] * lanes
    for index in sorted(chosen, key=lambda index: -lengths[index]):
        lane = loads.index(min(loads))
        shares[lane].append(index)
        loads[lane] += lengths[index]
    return shares


def _parts(batch: PackedBatch, segments: Sequence[np.ndarray], most: int) -> list[Part]:
    """Neighbours together, as many as there is room for."""
    groups: list[list[np.ndarray]] = []
    room = 0
    for segment in segments:
        if segment.size > room:
            groups.append([])
            room = most
        groups[-1].append(segment)
        room -= segment.size
    return [_part(batch, group) for group in groups]


def _part(batch: PackedBatch, segments: Sequence[np.ndarray]) -> Part:
    places_M = np.concatenate(segments)
    numbers_M = np.repeat(np.arange(1, len(segments) + 1), [one.size for one in segments])
    return Part(
        PackedBatch(
            tokens_BT=batch.tokens_BT.ravel()[None, places_M],
            segments_BT=numbers_M[None].astype(np.int32),
            labels_BT=batch.labels_BT.ravel()[None, places_M],
            items_BT=batch.items_BT.ravel()[None, places_M],
        ),
        places_M,
    )
