"""What a corpus holds, in figures, and whether it is as large as it should be."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speakeasy.corpus.dedupe import bucket_pairs, exact_duplicates
from speakeasy.corpus.documents import RECORD_FILE, Document
from speakeasy.corpus.language import LanguageFinder
from speakeasy.corpus.minhash import (
    BANDS,
    HASHES,
    NEAR_THRESHOLD,
    bands,
    content_hash,
    shingles,
    signature,
    words,
)
from speakeasy.errors import DataError

_REPEATED = ("duplicate", "near_duplicate")

GUIDE_BYTES = (10_000_000, 1_000_000_000)
"""The size that the project's guide recommends for continued pre-training: 10 MB to 1 GB."""


@dataclass(frozen=True, slots=True)
class Status:
    """Figures of a corpus.

    Attributes:
        documents: how many there are.
        characters: of all texts.
        bytes: UTF-8 bytes of all texts.
        words: white-space separated words of all texts.
        languages: tag -> documents and bytes; as the documents say, else as was found.
        exact_duplicates: documents with the same words as an earlier one.
        near_duplicates: further ones whose MinHash signature says that they are near an earlier
            one; an estimate. Two documents of one finished build are not: there the texts
            themselves were compared, and what was near was dropped.
        duplicate_bytes: UTF-8 bytes of both.
    """

    documents: int
    characters: int
    bytes: int
    words: int
    languages: dict[str, dict[str, int]]
    exact_duplicates: int
    near_duplicates: int
    duplicate_bytes: int

    @property
    def distinct_bytes(self) -> int:
        """Bytes when duplicates, exact and near, are counted once."""
        return self.bytes - self.duplicate_bytes

    @property
    def verdict(self) -> str:
        """``too little``, ``enough`` or ``more than needed``, by the guide's sizes."""
        least, most = GUIDE_BYTES
        if self.distinct_bytes < least:
            return "too little"
        return "enough" if self.distinct_bytes <= most else "more than needed"


def summarize(
    documents: Iterable[Document],
    builds: Sequence[Iterable[Document]] = (),
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> Status:
    """Count everything as it streams by; memory grows by some 100 bytes a document.

    Args:
        documents: as ``read_documents`` gives them.
        builds: the documents of finished builds.
        advance: called with the bytes of each text.
    """
    finder = LanguageFinder(("ca", "es"))
    contents: list[int] = []
    sizes: list[int] = []
    characters = word_count = 0
    languages: dict[str, Counter[str]] = {}
    homes: list[int] = []
    with tempfile.TemporaryFile() as signatures:
        for home, document in _numbered(documents, builds):
            homes.append(home)
            text_words = words(document.text)
            size = len(document.text.encode())
            contents.append(content_hash(text_words))
            sizes.append(size)
            signature(shingles(text_words)).tofile(signatures)
            characters += len(document.text)
            word_count += len(document.text.split())
            language = document.language or finder.find(document.text) or "unknown"
            languages.setdefault(language, Counter()).update(documents=1, bytes=size)
            advance(size)
        exact = exact_duplicates(np.array(contents, np.uint64))
        near = np.zeros(len(contents), bool)
        if contents:
            signatures.flush()
            shape = (len(contents), HASHES)
            near = _near(
                np.memmap(signatures, np.uint32, mode="r", shape=shape), ~exact, np.array(homes)
            )
    repeated = np.array(sizes, np.int64)[exact | near]
    return Status(
        documents=len(contents),
        characters=characters,
        bytes=sum(sizes),
        words=word_count,
        languages={name: dict(counts) for name, counts in sorted(languages.items())},
        exact_duplicates=int(exact.sum()),
        near_duplicates=int(near.sum()),
        duplicate_bytes=int(repeated.sum()),
    )


def _numbered(
    documents: Iterable[Document], builds: Sequence[Iterable[Document]]
) -> Iterator[tuple[int, Document]]:
    """Each document with the number of its build, from 1; 0 for those of none."""
    for home, part in enumerate((documents, *builds)):
        for document in part:
            yield home, document


def _near(signatures: np.ndarray, among: np.ndarray, homes: np.ndarray) -> np.ndarray:
    """True for the documents whose signature agrees enough with an earlier one's.

    Pairs of one finished build (``homes`` above 0) are left out.
    """
    buckets = np.zeros((len(signatures), BANDS), np.uint32)
    for index, one in enumerate(signatures):
        buckets[index] = bands(one)
    near = np.zeros(len(signatures), bool)
    for band in range(BANDS):
        pairs = bucket_pairs(buckets[:, band], among)
        apart = (homes[pairs] == 0).any(axis=1) | (homes[pairs[:, 0]] != homes[pairs[:, 1]])
        pairs = pairs[apart]
        agree = (signatures[pairs[:, 0]] == signatures[pairs[:, 1]]).mean(axis=1)
        near[pairs[agree >= NEAR_THRESHOLD, 0]] = True
    return near


def removed_by_builds(builds: Iterable[Path]) -> dict[str, int]:
    """Documents that finished builds dropped as ``duplicate`` and ``near_duplicate``.

    Raises:
        DataError: a record is not what ``corpus build`` writes.
    """
    total: Counter[str] = Counter()
    for build in builds:
        try:
            dropped = json.loads((build / RECORD_FILE).read_text(encoding="utf-8"))["dropped"]
            total.update({name: int(dropped.get(name, 0)) for name in _REPEATED})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{build / RECORD_FILE}: not a record of speakeasy corpus build; build it again"
            ) from error
    return {name: total[name] for name in _REPEATED}
