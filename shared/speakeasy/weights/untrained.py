"""Rows of the embedding and output matrices that training never reached.

A vocabulary has entries that no training text held: reserved tokens, a base model's chat tokens,
padding. Nothing in a model's files says which. Two traces are looked for:

1. A row that vanishes. Where no gradient comes and weight decay does, values end near zero: those
   of Llama 3's base models are about 1e-23 (found by Unsloth, whose ``fix_untrained_tokens`` takes
   a row for untrained if no value of its embedding exceeds 1e-16). Here: the largest magnitude is
   at most 1e-6 of the median row's.
2. A row that three or more tokens share, bit for bit, or one within 1% of such a row (distance over
   norm). An output row that is never the answer gets the same push away from every hidden state as
   all others of its kind, so they meet: the unused tokens' rows that Land and Bartolo start from
   (arXiv 2405.05417). Rows that were all given one value, such as the mean of the matrix, are found
   as well. Two alone may be words made of the same pieces.

The second trace has a wide margin where it could be seen: in SmolLM2-135M, tied, fifteen rows lie
within 0.3% of one another, the next at 1.7%, and ``<|im_start|>``, which was trained, at 12%. What
it cannot find is an input row of an untied model that stayed at its random beginning.
"""

from __future__ import annotations

from collections import defaultdict
from hashlib import blake2b
from pathlib import Path

import numpy as np

from speakeasy.weights.rewrite import EMBEDDING, HEAD, open_base
from speakeasy.weights.safetensors_io import TensorInfo, read_rows, row_blocks

_VANISHING = 1e-6
_SHARED_BY = 3
_NEAR = 0.01
_HEAD_BYTES = 16  # of a row, which trained rows hardly ever have in common
_AT_ONCE = 256
_CENTERS = 32  # shared rows around which neighbors are looked for, the commonest first


def untrained_rows(model: Path) -> np.ndarray:
    """Tokens of which the input row or, in an untied model, the output row was never trained.

    That includes, in an untied model, a token that texts begin with and that is never an answer
    (``<|begin_of_text|>``): ``untrained_by_matrix`` tells the two apart.

    Args:
        model: a model's directory, in full precision.

    Returns:
        ids, rising, (n,) int64.

    Raises:
        ModelError: the directory is unsound, or the model quantised.
    """
    found = untrained_by_matrix(model)
    return np.unique(np.concatenate(list(found.values())))


def untrained_by_matrix(model: Path) -> dict[str, np.ndarray]:
    """``untrained_rows``, for each matrix by itself: tensor name -> ids, rising, (n,) int64.

    Raises:
        ModelError: as for ``untrained_rows``.
    """
    base = open_base(model, "its rows cannot be judged; give the full-precision model")
    names = (EMBEDDING,) if base.tied else (EMBEDDING, HEAD)
    return {name: _untrained(base.matrix(name)) for name in names}


def _untrained(info: TensorInfo) -> np.ndarray:
    largest = np.empty(info.shape[0], dtype=np.float32)
    heads: dict[bytes, list[int]] = defaultdict(list)
    for start, block in row_blocks(info):
        largest[start : start + len(block)] = np.abs(block.astype(np.float32, copy=False)).max(
            axis=1
        )
        for place, head in enumerate(block.view(np.uint8)[:, :_HEAD_BYTES], start):
            heads[head.tobytes()].append(place)
    vanishing = largest <= _VANISHING * np.median(largest)
    shared = []
    for alike in heads.values():
        candidates = [id for id in alike if not vanishing[id]]
        if len(candidates) >= _SHARED_BY:
            shared += [ids for ids in _equal(info, candidates) if len(ids) >= _SHARED_BY]
    found = [np.flatnonzero(vanishing), *map(np.array, shared)]
    if shared:
        shared.sort(key=lambda ids: (-len(ids), ids[0]))
        found.append(_near(info, [ids[0] for ids in shared[:_CENTERS]]))
    return np.unique(np.concatenate(found)).astype(np.int64)


def _equal(info: TensorInfo, ids: list[int]) -> list[list[int]]:
    """Some rows in groups of equal ones."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for start in range(0, len(ids), _AT_ONCE):
        part = ids[start : start + _AT_ONCE]
        for id, row in zip(part, read_rows(info, part), strict=True):
            groups[blake2b(row.tobytes(), digest_size=16).digest()].append(id)
    return list(groups.values())


def _near(info: TensorInfo, centers: list[int]) -> np.ndarray:
    """Rows within ``_NEAR`` of one of some rows, relative to that one's norm."""
    centers_KD = read_rows(info, centers).astype(np.float32)
    norms2_K = np.square(centers_KD).sum(axis=1)
    near = []
    for start, block in row_blocks(info):
        rows_ND = block.astype(np.float32)
        # |x - c|^2 multiplied out: float32 errs by 1e-6 of |c|^2 where the bound is at 1e-4.
        distances2_NK = np.square(rows_ND).sum(axis=1)[:, None] + norms2_K
        distances2_NK -= 2 * (rows_ND @ centers_KD.T)
        near.append(start + np.flatnonzero((distances2_NK <= _NEAR**2 * norms2_K).any(axis=1)))
    return np.concatenate(near)
