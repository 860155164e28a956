"""Many files as one data set: finding them, reading them all, refusing what is broken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from speakeasy.data.chat import Conversation, Origin
from speakeasy.data.formats import (
    TABLE_SUFFIXES,
    Detection,
    Format,
    detect,
    read_conversations,
)
from speakeasy.data.records import Problem
from speakeasy.errors import DataError

DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", *TABLE_SUFFIXES)
"""The files of a directory that are read; a file that is named itself may have any suffix."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file that was read.

    Attributes:
        path: the file.
        format: what it was read as.
        reason: why.
        conversations: how many it gave.
        problems: how many pieces of it were refused.
    """

    path: Path
    format: Format
    reason: str
    conversations: int
    problems: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """Everything that a set of files holds, good and bad, in the files' order."""

    conversations: list[Conversation]
    problems: list[Problem]
    sources: list[Source]


def find_files(paths: Iterable[Path]) -> list[Path]:
    """The files that are meant: files as named, directories as their data files, sorted.

    Directories are not searched deeper, hidden files are left out, and a file that is named
    twice counts once.

    Raises:
        DataError: a path does not exist, is no file, or is a directory without data.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            files = sorted(
                file
                for file in path.iterdir()
                if file.suffix.lower() in DATA_SUFFIXES
                and not file.name.startswith(".")
                and file.is_file()
            )
            if not files:
                suffixes = ", ".join(DATA_SUFFIXES)
                raise DataError(f"{path}: holds no data file; expected a name in {suffixes}")
        elif path.is_file():
            files = [path]
        elif path.exists():
            raise DataError(f"{path}: is no regular file; save the data in one first")
        else:
            raise DataError(f"{path}: no such file or directory; check the spelling")
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def read_dataset(paths: Iterable[Path], format: Format | None = None) -> Dataset:
    """Read files and directories, keeping conversations and problems apart.

    A file without a record counts as a problem at its first line.

    Raises:
        DataError: a path is missing or cannot be opened. What files hold never raises.
    """
    whole = Dataset([], [], [])
    for path in find_files(paths):
        before = len(whole.conversations), len(whole.problems)
        try:
            chosen = Detection(format, "as asked for by --format") if format else detect(path)
            for item in read_conversations(path, chosen.format):
                if isinstance(item, Problem):
                    whole.problems.append(item)
                else:
                    whole.conversations.append(item)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); check it") from error
        if before == (len(whole.conversations), len(whole.problems)):
            reason = "the file holds no record; expected conversations"
            whole.problems.append(Problem(Origin(path, 1), reason, b""))
        conversations = len(whole.conversations) - before[0]
        problems = len(whole.problems) - before[1]
        whole.sources.append(Source(path, chosen.format, chosen.reason, conversations, problems))
    return whole


def load_conversations(paths: Iterable[Path], format: Format | None = None) -> list[Conversation]:
    """The conversations of files and directories, all of them sound.

    Raises:
        DataError: a path is missing, or a file holds a problem: the first one, the number of
            others, and the command that lists them.
    """
    dataset = read_dataset(paths, format)
    require_no_problem(dataset)
    return dataset.conversations


def require_no_problem(dataset: Dataset, *, otherwise: str = "") -> None:
    """Raise ``DataError`` with the first problem of a data set, if it has one.

    Args:
        dataset: as read.
        otherwise: the next step to tell the user; by default the command that lists them all.
    """
    if dataset.problems:
        first, *others = dataset.problems
        more = f"{len(others):,} more; " if others else ""
        step = otherwise or f"see all: speakeasy data check {first.origin.path}"
        raise DataError(f"{first} ({more}{step})")


def starter_files() -> list[Path]:
    """The packaged starter conversations' files, one a domain, sorted."""
    folder = resources.files("speakeasy.data") / "starter"
    with resources.as_file(folder) as path:
        return find_files([path])


def starter_conversations() -> list[Conversation]:
    """The packaged starter conversations.

    Written for this project by a language model, and awaiting review by native speakers.
    """
    return load_conversations(starter_files())
