"""Fingerprints of texts: one for exact duplicates, and MinHash bands for near ones.

Near duplicates are texts whose sets of word triples have a Jaccard similarity of at least
``NEAR_THRESHOLD``. MinHash (Broder, "On the resemblance and containment of documents", 1997) with
64 hash functions in 16 bands of 4 (locality-sensitive hashing; Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", section 3.4) puts a pair of similarity s in one bucket with
probability 1 - (1 - s^4)^16: 98.8% at 0.7, 99.98% at 0.8, 12% at 0.3.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from zlib import crc32

import numpy as np

NEAR_THRESHOLD = 0.7
SHINGLE_WORDS = 3
BANDS = 16
ROWS = 4
HASHES = BANDS * ROWS

_WORD = re.compile(r"\w+")
_BLOCK = 4096  # shingles at a time: bounds the memory of a long document


def _odd_numbers(count: int, seed: int) -> np.ndarray:
    """Odd 64-bit multipliers, drawn once and for all."""
    return np.random.Generator(np.random.PCG64(seed)).integers(
        0, 2**63, count, dtype=np.uint64
    ) * np.uint64(2) + np.uint64(1)


_PLACE = _odd_numbers(SHINGLE_WORDS, 1)
_MULTIPLY = _odd_numbers(HASHES, 2)[:, None]
_BAND = _odd_numbers(ROWS, 3)


def words(text: str) -> list[str]:
    """The words by which texts are compared: NFKC, without case and punctuation."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def content_hash(text_words: list[str]) -> int:
    """A 64-bit number that two texts share when they have the same words in the same order."""
    digest = hashlib.blake2b(" ".join(text_words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def shingles(text_words: list[str]) -> np.ndarray:
    """Hashes (n,) uint64 of all word triples, repeated ones too; of a shorter text, its words."""
    hashes = np.fromiter(
        (crc32(word.encode()) for word in text_words), np.uint64, count=len(text_words)
    )
    width = min(SHINGLE_WORDS, len(hashes))
    total = np.zeros(len(hashes) - max(width, 1) + 1, np.uint64)
    for place in range(width):
        total += _mix(hashes[place : place + len(total)] * _PLACE[place])
    return _mix(total)


def signature(shingle_hashes: np.ndarray) -> np.ndarray:
    """The MinHash signature (HASHES,) uint32 of shingles, repeated or not."""
    least = np.full(HASHES, 2**32 - 1, np.uint32)
    for start in range(0, len(shingle_hashes), _BLOCK):
        block = shingle_hashes[start : start + _BLOCK] * _MULTIPLY
        np.minimum(least, (block >> np.uint64(32)).min(axis=1).astype(np.uint32), out=least)
    return least


def bands(minhash: np.ndarray) -> np.ndarray:
    """The buckets (BANDS,) uint32 of one signature."""
    rows = minhash.reshape(BANDS, ROWS).astype(np.uint64)
    return (_mix((_mix(rows + np.uint64(1)) * _BAND).sum(axis=1)) >> np.uint64(32)).astype(
        np.uint32
    )


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Jaccard similarity of two sets of shingles, each as ``np.unique`` gives it."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / max(len(one) + len(other) - shared, 1)


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014): every bit moves every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
