"""What ``suggest`` reads: conversations and raw text, and which share of them is held out.

A file is conversations or raw text by its name, and a ``.jsonl`` file by its first record: an
object with ``text`` and none of the fields of a conversation is a document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from speakeasy.corpus.documents import (
    RECORD_FILE,
    Document,
    read_documents,
    refuse_unfinished,
    text_files,
)
from speakeasy.corpus.starter import starter_text_files
from speakeasy.data.chat import Conversation
from speakeasy.data.dataset import (
    DATA_SUFFIXES,
    load_conversations,
    starter_files,
)
from speakeasy.data.records import Record, read_records
from speakeasy.data.split import hold_out
from speakeasy.errors import DataError, UsageError

_CONVERSATION_FIELDS = {"messages", "conversations", "instruction", "prompt"}


@dataclass(frozen=True, slots=True)
class Material:
    """Files, sorted by what they hold.

    Attributes:
        conversations: files of conversations.
        texts: files of raw text, and corpus directories.
    """

    conversations: tuple[Path, ...]
    texts: tuple[Path, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return (*self.conversations, *self.texts)

    @property
    def text_bytes(self) -> int:
        """Size of the files of raw text."""
        return sum(file.stat().st_size for file in text_files(self.texts)) if self.texts else 0


def starter_material() -> Material:
    """The packaged conversations and texts (Catalan, and Spanish with its accent)."""
    return Material(tuple(starter_files()), tuple(starter_text_files()))


def find_material(paths: Sequence[Path]) -> Material:
    """The files of the paths; of a directory all that can be read, not searched deeper.

    Raises:
        DataError: a path is missing or holds nothing that can be read.
    """
    conversations: dict[Path, None] = {}
    texts: dict[Path, None] = {}
    for path in paths:
        if path.is_dir() and (path / RECORD_FILE).is_file():
            texts[path] = None
            continue
        for file in _files(path):
            (texts if _is_text(file) else conversations)[file] = None
    return Material(tuple(conversations), tuple(texts))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        refuse_unfinished(path)
        files = sorted(
            file
            for file in path.iterdir()
            if file.suffix.lower() in (".txt", *DATA_SUFFIXES)
            and not file.name.startswith(".")
            and file.is_file()
        )
        if not files:
            raise DataError(
                f"{path}: holds no file that can be read; expected text (.txt), a corpus or "
                "conversations"
            )
        return files
    if not path.exists():
        raise DataError(f"{path}: no such file or directory; check the spelling")
    return [path]


def _is_text(file: Path) -> bool:
    if file.suffix.lower() == ".txt":
        return True
    if file.suffix.lower() != ".jsonl":
        return False
    try:
        first = next(read_records(file), None)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check it") from error
    fields = set(first.value) if isinstance(first, Record) else set()
    return "text" in fields and not fields & _CONVERSATION_FIELDS


@dataclass(frozen=True, slots=True)
class Part:
    """A text, and whether it is held out."""

    text: str
    held_out: bool


def answers(material: Material, fraction: float, seed: int) -> list[Part]:
    """The assistant's turns of all conversations; a conversation's are on one side.

    Near duplicates are kept together (``data.split.hold_out``).

    Raises:
        DataError: a file holds something else, or one conversation only.
        UsageError: the fraction is out of range.
    """
    if not material.conversations:
        return []
    train, held = hold_out(load_conversations(material.conversations), fraction=fraction, seed=seed)
    return [*_parts(train, held_out=False), *_parts(held, held_out=True)]


def _parts(conversations: Sequence[Conversation], *, held_out: bool) -> list[Part]:
    return [Part(answer, held_out) for item in conversations for answer in item.answers]


def documents(material: Material, fraction: float, seed: int) -> Iterator[Part]:
    """The documents of all texts, one in memory at a time.

    Which are held out depends on what they say and on the seed, so the same text twice is on one
    side. The first document is never held out: there must be something to count.

    Raises:
        DataError: a file cannot be read.
        UsageError: the fraction is out of range.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"--eval-fraction {fraction}: expected a number between 0 and 1")
    if not material.texts:
        return
    first = None
    for document in read_documents(material.texts):
        draw = _draw(document, seed)
        first = draw if first is None else first
        yield Part(document.text, draw < fraction and draw != first)


def _draw(document: Document, seed: int) -> float:
    digest = hashlib.blake2b(f"{seed}\n{document.text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def running_texts(material: Material) -> Iterator[str]:
    """All that is said and written, a turn or a document at a time; nothing is held out.

    Raises:
        DataError: a file cannot be read.
    """
    if material.conversations:
        for item in load_conversations(material.conversations):
            yield from (turn.content for turn in item.turns)
    if material.texts:
        yield from (document.text for document in read_documents(material.texts))
