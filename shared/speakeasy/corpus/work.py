"""The working directory of a build: what has been done, in segments that appear whole or not.

It stands beside the corpus to be, as ``NAME.unfinished``, and holds no ``corpus.json``, so that
nothing takes it for a corpus. A segment is three files: ``00000.jsonl`` with candidates,
``00000.npy`` with their rows, and ``00000.json`` with counts and the place that reading had come
to. The last is written last: without it the other two do not count.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy.corpus.documents import UNFINISHED
from speakeasy.corpus.process import ROW, Candidates
from speakeasy.corpus.sources import Problem
from speakeasy.errors import RunError, UsageError
from speakeasy.files import write_json

PROBLEMS_KEPT = 100
_PLAN = "plan.json"


@dataclass(slots=True)
class Progress:
    """What all segments together have come to.

    Attributes:
        segments: how many there are.
        source: index of the source that is being read.
        items: documents and problems of that source that are done.
        counts: source number -> counts, as in ``Candidates``.
        problems: the first ``PROBLEMS_KEPT``.
        problem_count: how many there were.
        seconds: the time that they took.
    """

    segments: int = 0
    source: int = 0
    items: int = 0
    counts: dict[int, Counter[str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0
    seconds: float = 0.0

    def add(self, candidates: Candidates) -> None:
        """Count a batch in."""
        for number, counts in candidates.counts.items():
            self.counts.setdefault(number, Counter()).update(counts)
        for problem in candidates.problems:
            self.add_problem(problem)

    def add_problem(self, problem: Problem) -> None:
        """Keep one of the first, count all."""
        self.problem_count += 1
        self.counts.setdefault(problem.number, Counter())["problems"] += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(problem)


class Work:
    """The working directory of the corpus at ``output``.

    Args:
        output: the directory that will appear when the build has finished.
        plan: sources and settings; JSON values. A directory left by a build with another plan is
            refused.
    """

    def __init__(self, output: Path, plan: dict[str, Any]) -> None:
        self.path = output.with_name(output.name + UNFINISHED)
        self.path.mkdir(parents=True, exist_ok=True)
        self._plan = plan

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for this process alone, and see that it is for this plan.

        Raises:
            RunError: another process builds the same corpus.
            UsageError: the directory holds a build of something else.
        """
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.path / "lock", timeout=0):
                self._check_plan()
                yield
        except Timeout as error:
            raise RunError(
                f"{self.path}: another process is building this corpus; wait for it"
            ) from error

    def _check_plan(self) -> None:
        file = self.path / _PLAN
        if not (self.path / "00000.json").is_file():  # nothing is lost
            write_json(file, self._plan)
            return
        before = json.loads(file.read_text(encoding="utf-8"))
        if before != self._plan:
            differ = sorted(
                key for key in {*before, *self._plan} if before.get(key) != self._plan.get(key)
            )
            raise UsageError(
                f"--output-dir: {self.path} holds an unfinished build with another "
                f"{', '.join(differ)}; repeat that command, or remove the directory"
            )

    def remove(self) -> None:
        """Remove the directory and all in it."""
        shutil.rmtree(self.path)

    def progress(self) -> Progress:
        """What earlier runs of the same build have done."""
        path, number, progress = self.path, 0, Progress()
        while (path / f"{number:05}.json").is_file():
            number += 1
        if number:
            stored = json.loads((path / f"{number - 1:05}.json").read_text(encoding="utf-8"))
            progress = Progress(
                segments=number,
                source=stored["source"],
                items=stored["items"],
                counts={int(key): Counter(value) for key, value in stored["counts"].items()},
                problems=[Problem(**problem) for problem in stored["problems"]],
                problem_count=stored["problem_count"],
                seconds=stored["seconds"],
            )
        return progress

    def write_segment(self, progress: Progress, lines: list[bytes], rows: list[np.ndarray]) -> None:
        """Write a segment; ``progress`` is as it is after it, its number of segments before."""
        stem = self.path / f"{progress.segments:05}"
        with stem.with_suffix(".jsonl").open("wb") as file:
            file.writelines(lines)
            _to_disk(file)
        with stem.with_suffix(".npy").open("wb") as file:
            np.save(file, np.concatenate([np.zeros(0, ROW), *rows]))
            _to_disk(file)
        write_json(
            stem.with_suffix(".json"),
            {
                "source": progress.source,
                "items": progress.items,
                "counts": progress.counts,
                "problems": [
                    {"number": item.number, "origin": item.origin, "reason": item.reason}
                    for item in progress.problems
                ],
                "problem_count": progress.problem_count,
                "seconds": progress.seconds,
            },
        )
        progress.segments += 1


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


class CandidateFiles:
    """All candidates of a working directory: their rows by column, their lines one at a time."""

    def __init__(self, path: Path, segments: int) -> None:
        self._stems = [path / f"{number:05}" for number in range(segments)]
        self._rows = [np.load(stem.with_suffix(".npy"), mmap_mode="r") for stem in self._stems]
        self._starts = np.cumsum([0, *(len(rows) for rows in self._rows)])
        self._offsets: list[np.ndarray] = [
            np.cumsum(np.concatenate([np.zeros(1, np.int64), rows["bytes"].astype(np.int64)]))
            for rows in self._rows
        ]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def column(self, name: str) -> np.ndarray:
        """One column of the rows, in order."""
        return np.concatenate([np.zeros(0, ROW)[name], *(rows[name] for rows in self._rows)])

    def buckets(self, band: int) -> np.ndarray:
        """The buckets (n,) of one band."""
        empty = np.zeros(0, np.uint32)
        return np.concatenate([empty, *(rows["bands"][:, band] for rows in self._rows)])

    def line(self, index: int) -> bytes:
        """The line of one candidate."""
        segment = int(np.searchsorted(self._starts, index, side="right")) - 1
        place = index - int(self._starts[segment])
        start, end = self._offsets[segment][place : place + 2].tolist()
        with self._stems[segment].with_suffix(".jsonl").open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def lines(self) -> Iterator[bytes]:
        """All lines, in order."""
        for stem in self._stems:
            with stem.with_suffix(".jsonl").open("rb") as file:
                yield from file
