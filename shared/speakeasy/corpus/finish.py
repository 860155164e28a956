"""The end of a build: languages of short texts, duplicates, the files of the corpus, its record."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy import __version__
from speakeasy.corpus.dedupe import bucket_pairs, exact_duplicates, merge_pairs, near_duplicates
from speakeasy.corpus.documents import RECORD_FILE
from speakeasy.corpus.minhash import BANDS, NEAR_THRESHOLD, shingles, words
from speakeasy.corpus.process import NO_LANGUAGE, Rules
from speakeasy.corpus.sources import Source, printable
from speakeasy.corpus.work import CandidateFiles, Progress, Work
from speakeasy.errors import DataError
from speakeasy.files import write_json

PART_BYTES = 128 * 1024 * 1024
FORMAT = 1
_PACKAGES = ("py3langid", "mwparserfromhell", "selectolax", "pysubs2", "numpy")
_TEXTS_AT_HAND = 4_096

Bars = Callable[[str, int | None, str], AbstractContextManager[Callable[[int], None]]]
"""Makes a progress bar: what is done, how much there is (None: nobody knows), of what unit. What it
yields is called with the units done since the last call."""


@contextmanager
def no_bars(description: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """A progress bar that nobody sees."""
    yield lambda _: None


@dataclass(frozen=True, slots=True)
class Decisions:
    """Which candidates stay: ``reasons`` has '' for those, ``languages`` indices for all."""

    reasons: np.ndarray
    languages: np.ndarray


def versions() -> dict[str, str]:
    """Versions of the packages that decide what a corpus holds."""
    return {name: metadata.version(name) for name in _PACKAGES}


def finish(
    work: Work,
    progress: Progress,
    names: Sequence[str],
    sources: Sequence[Source],
    rules: Rules,
    output: Path,
    bars: Bars,
) -> dict[str, Any]:
    """Write the corpus of a working directory to ``output``, and remove the directory.

    Returns:
        The record, as it stands in ``corpus.json``.

    Raises:
        DataError: nothing is left; the working directory is removed then too.
    """
    candidates = CandidateFiles(work.path, progress.segments)
    with bars("Comparing", BANDS, "bands") as advance:
        decisions = _decide(candidates, advance)
    record = _record(candidates, decisions, progress, names, sources, rules)
    if not record["documents"]:
        work.remove()
        dropped = ", ".join(f"{name} {count:,}" for name, count in record["dropped"].items())
        raise DataError(
            f"{output}: nothing is left of {record['read']:,} documents "
            f"({dropped or 'none could be read'}; {record['problem_count']:,} problems); "
            "nothing was written"
        )
    folder = work.path / "finished"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with bars("Writing", len(candidates), "documents") as advance:
        _write_parts(candidates, decisions, rules.languages, folder, advance)
    write_json(folder / RECORD_FILE, record)
    os.rename(folder, output)
    work.remove()
    return record


def _decide(candidates: CandidateFiles, advance: Callable[[int], None]) -> Decisions:
    """Languages of the short ones, then exact duplicates, then near ones."""
    reasons = np.zeros(len(candidates), "U14")
    languages = _majority(candidates.column("language"), candidates.column("source"))
    reasons[languages == NO_LANGUAGE] = "language"
    reasons[exact_duplicates(candidates.column("content")) & (reasons == "")] = "duplicate"
    among = reasons == ""
    pairs = np.zeros((0, 2), np.int64)
    for band in range(BANDS):
        found = bucket_pairs(candidates.buckets(band), among)
        pairs = merge_pairs(pairs, found, len(candidates))
        advance(1)
    near = near_duplicates(pairs, len(candidates), _shingles_of(candidates))
    reasons[near] = "near_duplicate"
    return Decisions(reasons, languages)


def _shingles_of(candidates: CandidateFiles) -> Callable[[int], np.ndarray]:
    @lru_cache(maxsize=_TEXTS_AT_HAND)
    def shingles_of(index: int) -> np.ndarray:
        return np.unique(shingles(words(json.loads(candidates.line(index))["text"])))

    return shingles_of


def _majority(languages: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Languages (n,) with that of most documents of the source where none was found."""
    settled = languages.copy()
    for source in np.unique(sources):
        known = languages[(sources == source) & (languages != NO_LANGUAGE)]
        if len(known):
            unknown = (sources == source) & (languages == NO_LANGUAGE)
            settled[unknown] = np.bincount(known).argmax()
    return settled


def _write_parts(
    candidates: CandidateFiles,
    decisions: Decisions,
    languages: Sequence[str],
    folder: Path,
    advance: Callable[[int], None],
) -> None:
    """The kept lines in files of about ``PART_BYTES``, each on the disk before the next."""
    unknown = candidates.column("language") == NO_LANGUAGE
    kept = decisions.reasons == ""
    number, file = 0, None
    try:
        for index, line in enumerate(candidates.lines()):
            advance(1)
            if not kept[index]:
                continue
            if unknown[index]:
                document = json.loads(line)
                document["language"] = languages[decisions.languages[index]]
                line = json.dumps(document, ensure_ascii=False).encode() + b"\n"
            if file is None:
                file = (folder / f"part-{number:04}.jsonl").open("wb")
            file.write(line)
            if file.tell() >= PART_BYTES:
                _close(file)
                number, file = number + 1, None
    finally:
        if file is not None:
            _close(file)


def _close(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


def _record(
    candidates: CandidateFiles,
    decisions: Decisions,
    progress: Progress,
    names: Sequence[str],
    sources: Sequence[Source],
    rules: Rules,
) -> dict[str, Any]:
    """What ``corpus.json`` says."""
    kept = decisions.reasons == ""
    of_source = candidates.column("source")
    by_source = [
        _source_record(
            name,
            [source for source in sources if source.number == number],
            progress.counts.get(number, Counter()),
            Counter(decisions.reasons[of_source == number].tolist()),
        )
        for number, name in enumerate(names)
    ]
    total: Counter[str] = sum(progress.counts.values(), Counter())
    dropped: Counter[str] = Counter()
    for item in by_source:
        dropped.update(item["dropped"])
    sums = {
        name: candidates.column(column)
        for name, column in (("characters", "characters"), ("bytes", "utf8"), ("words", "words"))
    }
    return {
        "format": FORMAT,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "speakeasy": __version__,
        "versions": versions(),
        "settings": {
            "languages": list(rules.languages),
            "min_chars": rules.min_characters,
            "near_duplicate_similarity": NEAR_THRESHOLD,
        },
        "read": total["read"],
        "documents": int(kept.sum()),
        **{name: int(column[kept].sum(dtype=np.int64)) for name, column in sums.items()},
        "languages": {
            language: {
                "documents": int((kept & (decisions.languages == number)).sum()),
                "bytes": int(
                    sums["bytes"][kept & (decisions.languages == number)].sum(dtype=np.int64)
                ),
            }
            for number, language in enumerate(rules.languages)
        },
        "dropped": dict(dropped.most_common()),
        "other_languages": dict(
            Counter(
                {
                    name.removeprefix("language:"): count
                    for name, count in total.items()
                    if name.startswith("language:")
                }
            ).most_common()
        ),
        "cut": total["cut"],
        "undecodable_characters": total["undecodable_characters"],
        "sources": by_source,
        "problem_count": progress.problem_count,
        "problems": [{"origin": item.origin, "reason": item.reason} for item in progress.problems],
        "seconds": round(progress.seconds, 1),
    }


def _source_record(
    name: str, sources: Sequence[Source], counts: Counter[str], decided: Counter[str]
) -> dict[str, Any]:
    """What one name on the command line gave."""
    dropped = Counter(
        {
            key.removeprefix("dropped:"): count
            for key, count in counts.items()
            if key.startswith("dropped:")
        }
    )
    dropped.update({reason: count for reason, count in decided.items() if reason})
    return {
        "source": printable(name),
        "files": dict(Counter(source.kind for source in sources)),
        "bytes": sum(source.bytes for source in sources),
        "read": counts["read"],
        "documents": decided[""],
        "dropped": dict(dropped.most_common()),
        "problems": counts["problems"],
    }
