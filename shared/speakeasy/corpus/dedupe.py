"""Which candidates repeat an earlier one, exactly or nearly.

Exact duplicates have the same words. Near ones are sought with MinHash buckets and then proved:
both texts are read again and their word triples compared, so that no document is dropped that is
less than ``NEAR_THRESHOLD`` similar to one that is kept. Memory: 8 bytes a candidate for each of
two columns at a time, whatever the texts' size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from speakeasy.corpus.minhash import NEAR_THRESHOLD, similarity

_PAIRS_AT_ONCE = 65_536


def exact_duplicates(content: np.ndarray) -> np.ndarray:
    """True for each of (n,) content hashes that has been there before."""
    repeated = np.ones(len(content), bool)
    repeated[np.unique(content, return_index=True)[1]] = False
    return repeated


def bucket_pairs(buckets: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Pairs (n, 2) of a candidate and the first one that has the same bucket in one band.

    Args:
        buckets: (candidates,) uint32 of one band.
        among: True for the candidates that count.
    """
    indices = np.flatnonzero(among)
    _, first, inverse = np.unique(buckets[indices], return_index=True, return_inverse=True)
    partners = indices[first[inverse]]
    paired = partners != indices
    return np.stack([indices[paired], partners[paired]], axis=1)


def merge_pairs(one: np.ndarray, other: np.ndarray, count: int) -> np.ndarray:
    """Both lists of pairs (n, 2) as one, sorted, each pair once; ``count`` candidates in all."""
    both = np.concatenate([one, other])
    return np.stack(np.divmod(np.unique(both[:, 0] * count + both[:, 1]), count), axis=1)


def near_duplicates(
    pairs: np.ndarray, count: int, shingles_of: Callable[[int], np.ndarray]
) -> np.ndarray:
    """True for each of ``count`` candidates that is similar to an earlier one that is kept.

    Args:
        pairs: (n, 2) later and earlier candidate, sorted.
        count: how many candidates there are.
        shingles_of: the set of shingles of a candidate's text, as ``np.unique`` gives it.
    """
    dropped = np.zeros(count, bool)
    keeper: dict[int, int] = {}
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        for later, earlier in pairs[start : start + _PAIRS_AT_ONCE].tolist():
            kept = keeper.get(earlier, earlier)
            if dropped[later]:
                continue
            if similarity(shingles_of(later), shingles_of(kept)) >= NEAR_THRESHOLD:
                dropped[later] = True
                keeper[later] = kept
    return dropped
