"""The one conversation type that every reader yields and every later stage takes."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record stands: a file and the number of its first line, counted from 1."""

    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A validated conversation: an optional system turn, then user and assistant in turn.

    Attributes:
        turns: at least one user and one assistant turn; the last is the assistant's.
        id: the record's own ``id``, else ``stem:line``.
        fields: every other field of the record, untouched.
        origin: file and line; None for conversations made in memory.
    """

    turns: tuple[Turn, ...]
    id: str = ""
    fields: Mapping[str, object] = field(default_factory=dict)
    origin: Origin | None = None

    @property
    def domain(self) -> str:
        """The ``domain`` field, or else the stem of the file that the record came from."""
        named = self.fields.get("domain")
        if named is not None:
            return str(named)
        return self.origin.path.stem if self.origin else ""

    @property
    def answers(self) -> tuple[str, ...]:
        """The contents of the assistant's turns."""
        return tuple(turn.content for turn in self.turns if turn.role == "assistant")

    def to_messages(self) -> list[dict[str, str]]:
        """The turns as OpenAI chat messages, the form that chat templates take."""
        return [{"role": turn.role, "content": turn.content} for turn in self.turns]

    def to_record(self) -> dict[str, object]:
        """One record of the native format, to be written as a JSON line.

        Where it came from stays with it: ``id`` and ``domain`` are there even when they were
        taken from the file's name.
        """
        record: dict[str, object] = {"id": self.id, **self.fields}
        if record.get("domain") is None and self.domain:
            record["domain"] = self.domain
        return {**record, "messages": self.to_messages()}

    @property
    def is_nfc(self) -> bool:
        """True when every turn is in Unicode normalization form C."""
        return all(unicodedata.is_normalized("NFC", turn.content) for turn in self.turns)

    def to_nfc(self) -> Conversation:
        """The conversation with its turns, and nothing else, in Unicode normalization form C."""
        turns = (
            replace(turn, content=unicodedata.normalize("NFC", turn.content)) for turn in self.turns
        )
        return replace(self, turns=tuple(turns))
