"""Building a corpus: read, process, remember; then tell duplicates and write.

Reading goes on in this process, processing here or in others; results come back in reading order,
so a corpus is the same whatever the number of processes. What has been processed is written to the
working directory (``corpus.work``) every ``SEGMENT_CHARACTERS`` or ``SEGMENT_SECONDS``; a build
that was stopped, even killed, goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy import __version__
from speakeasy.corpus.filters import MIN_CHARACTERS
from speakeasy.corpus.finish import Bars, finish, no_bars, versions
from speakeasy.corpus.language import LanguageFinder
from speakeasy.corpus.process import Candidates, Rules, process
from speakeasy.corpus.sources import Place, Problem, Raw, Source, find_sources, read_source
from speakeasy.corpus.work import Progress, Work
from speakeasy.errors import RunError, SpeakeasyError, UsageError
from speakeasy.files import occupied

LANGUAGES = ("ca", "es")
BATCH_CHARACTERS = 512 * 1024
BATCH_DOCUMENTS = 1_000
SEGMENT_CHARACTERS = 32 * 1024 * 1024
SEGMENT_SECONDS = 30.0

Say = Callable[[str], None]


@dataclass(slots=True)
class Batch:
    """Raw documents that are processed together.

    Attributes:
        raws: the documents.
        problems: what could not be read between them.
        characters: of all documents (bytes where a document is a whole file).
        source: index of the source of the last of them.
        items: documents and problems of that source that are read.
        position: bytes of all sources that are read.
    """

    raws: list[Raw] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    characters: int = 0
    source: int = 0
    items: int = 0
    position: int = 0


def build_corpus(
    names: Sequence[str],
    output: Path,
    *,
    languages: Sequence[str] = LANGUAGES,
    min_characters: int = MIN_CHARACTERS,
    jobs: int = 1,
    bars: Bars = no_bars,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Build the corpus at ``output`` and return its record (``corpus.json``).

    Args:
        names: files, directories and ``hf:`` data sets.
        output: a directory that does not exist or is empty; it appears when all is done.
        languages: ISO 639-1 codes of the languages to keep.
        min_characters: the least length of a document.
        jobs: processes that parse and clean; 1 is this one. More need a main module that can be
            imported (``if __name__ == "__main__"``).
        bars: makes the progress bars.
        say: called with a line when an unfinished build is gone on with.

    Raises:
        RunError: ``output`` is taken, or another process builds it.
        UsageError: a setting cannot be used, or an unfinished build had others.
        DataError: a source cannot be found, or nothing is left of all.
    """
    output = output.absolute()
    if occupied(output):
        raise RunError(f"{output}: already exists and is not empty; choose another directory")
    if min_characters < 1:
        raise UsageError(f"--min-chars {min_characters}: expected at least 1")
    if jobs < 1:
        raise UsageError(f"--jobs {jobs}: expected at least 1")
    rules = Rules(tuple(dict.fromkeys(languages)), min_characters)
    LanguageFinder(rules.languages)
    sources = find_sources(names)
    work = Work(output, _plan(names, sources, rules))
    with work.locked():
        progress = work.progress()
        if progress.segments:
            say(f"{work.path}: going on with an unfinished build")
        try:
            with bars("Reading", _bytes(sources), "bytes") as advance:
                _scan(sources, rules, work, progress, jobs, advance)
        except SpeakeasyError:
            if not progress.segments:
                work.remove()
            raise
        return finish(work, progress, names, sources, rules, output, bars)


def _bytes(sources: Sequence[Source]) -> int | None:
    """Bytes of all files; None where a data set's size is not known."""
    known = all(source.kind != "hub" for source in sources)
    return sum(source.bytes for source in sources) if known else None


def _plan(names: Sequence[str], sources: Sequence[Source], rules: Rules) -> dict[str, Any]:
    """What an unfinished build must have in common with this one to be gone on with."""
    state = [[source.name, source.bytes, _modified(source)] for source in sources]
    digest = hashlib.blake2b(json.dumps([list(names), state]).encode(), digest_size=16)
    return {
        "sources": digest.hexdigest(),
        "languages": list(rules.languages),
        "min_characters": rules.min_characters,
        "versions": versions() | {"speakeasy": __version__},
    }


def _modified(source: Source) -> int:
    return 0 if source.kind == "hub" else Path(source.name).stat().st_mtime_ns


def _scan(
    sources: Sequence[Source],
    rules: Rules,
    work: Work,
    progress: Progress,
    jobs: int,
    advance: Callable[[int], None],
) -> None:
    """Process what is left to be read, a segment of the working directory at a time."""
    lines: list[bytes] = []
    rows: list[np.ndarray] = []
    characters, position = 0, 0
    began = since = time.monotonic()
    before = progress.seconds
    for batch, candidates in _processed(_batches(sources, progress), rules, jobs):
        progress.add(candidates)
        for problem in batch.problems:
            progress.add_problem(problem)
        progress.source, progress.items = batch.source, batch.items
        progress.seconds = before + time.monotonic() - began
        lines.append(candidates.lines)
        rows.append(candidates.rows)
        characters += batch.characters
        advance(batch.position - position)
        position = batch.position
        if characters >= SEGMENT_CHARACTERS or time.monotonic() - since >= SEGMENT_SECONDS:
            work.write_segment(progress, lines, rows)
            lines, rows, characters, since = [], [], 0, time.monotonic()
    if lines:
        work.write_segment(progress, lines, rows)


def _batches(sources: Sequence[Source], progress: Progress) -> Iterator[Batch]:
    """What is left to be read, in batches; the last one carries the end of the last source."""
    batch, finished = Batch(), sum(source.bytes for source in sources[: progress.source])
    skip = progress.items
    for index in range(progress.source, len(sources)):
        place, items = Place(), 0
        for item in read_source(sources[index], place):
            items += 1
            if items <= skip:
                continue
            if isinstance(item, Problem):
                batch.problems.append(item)
            else:
                batch.raws.append(item)
                batch.characters += len(item.body)
            batch.source, batch.items = index, items
            if batch.characters >= BATCH_CHARACTERS or len(batch.raws) >= BATCH_DOCUMENTS:
                batch.position = finished + place.tell()
                yield batch
                batch = Batch()
        skip = 0
        finished += sources[index].bytes
    if batch.raws or batch.problems:
        batch.position = finished
        yield batch


def _processed(
    batches: Iterator[Batch], rules: Rules, jobs: int
) -> Iterator[tuple[Batch, Candidates]]:
    """Each batch with what it gave, in order."""
    if jobs == 1:
        for batch in batches:
            yield batch, process(batch.raws, rules)
        return
    # Spawned and not forked: the parent may have threads, and macOS forbids forking with them.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_start_worker, initargs=(os.getpid(),)
    )
    waiting: deque[tuple[Batch, Future[Candidates]]] = deque()
    try:
        for batch in batches:
            waiting.append((batch, executor.submit(process, batch.raws, rules)))
            batch.raws = []
            while len(waiting) > 2 * jobs:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    except BrokenProcessPool as error:
        raise SpeakeasyError(
            "a process of the build died, perhaps for want of memory; run the same again with "
            "--jobs 1: what is done is kept"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _start_worker(parent: int) -> None:
    """A worker leaves Ctrl-C to its parent, and ends when the parent has been killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
