"""Readers of conversation files: every record becomes a ``Conversation`` or a ``Problem``.

=================  ============================================================================
messages           ``{"messages": [{"role": "user", "content": "..."}, ...]}`` (OpenAI; native)
sharegpt           ``{"conversations": [{"from": "human", "value": "..."}, ...]}``
alpaca             ``{"instruction": ..., "input": ..., "output": ...}``, with ``system`` and
                   ``history`` (pairs) as LLaMA-Factory has them
prompt-completion  ``{"prompt": ..., "completion": ...}``: strings or lists of messages (TRL)
csv                a table with a header; see ``speakeasy.data.tables``
=================  ============================================================================

The JSON formats stand one record a line, or in one array. Texts are taken as they are, to the
last space. Tool calls, images and sound are refused: text is all that is trained on here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from speakeasy.data.chat import ROLES, Conversation, Role, Turn
from speakeasy.data.records import Problem, Record, kind, quote, read_records
from speakeasy.data.tables import read_table

Format = Literal["messages", "sharegpt", "alpaca", "prompt-completion", "csv"]
FORMATS: tuple[Format, ...] = get_args(Format)

TABLE_SUFFIXES = (".csv", ".tsv")
_RECORDS_LOOKED_AT = 100


class _RefusedError(Exception):
    """A record is no conversation; the message says why."""


@dataclass(frozen=True, slots=True)
class Detection:
    """The format a file is read as, and why."""

    format: Format
    reason: str


def detect(path: Path) -> Detection:
    """Tell a file's format by its suffix, or by the first record whose fields tell it."""
    if path.suffix.lower() in TABLE_SUFFIXES:
        return Detection("csv", f"its name ends in {path.suffix}")
    for record in islice(read_records(path), _RECORDS_LOOKED_AT):
        if isinstance(record, Record) and (found := _looks_like(record.value)):
            keys = " and ".join(quote(key) for key in _SHAPES[found].keys)
            return Detection(found, f"line {record.origin.line} has {keys}")
    return Detection("messages", "no record tells, and this is the native format")


def read_conversations(
    path: Path, format: Format | None = None
) -> Iterator[Conversation | Problem]:
    """Read one file as a stream.

    Args:
        path: a regular file.
        format: how to read it; by default as ``detect`` says.

    Raises:
        OSError: the file cannot be read. What it holds never raises.
    """
    chosen = format or detect(path).format
    for record in read_table(path) if chosen == "csv" else read_records(path):
        if isinstance(record, Problem):
            yield record
            continue
        own = chosen
        if own == "csv":
            own = "messages" if "messages" in record.value else "prompt-completion"
        try:
            yield _to_conversation(record, _SHAPES[own], own)
        except _RefusedError as refused:
            yield Problem(record.origin, str(refused), record.raw)


def _to_conversation(record: Record, shape: _Shape, name: Format) -> Conversation:
    value = record.value
    missing = [key for key in shape.keys if key not in value]
    if missing:
        other = _looks_like(value)
        hint = f"; it looks like {other}: give each format a file of its own" if other else ""
        keys = " and ".join(quote(key) for key in missing)
        found = quote(", ".join(value), 80)
        raise _RefusedError(f"has no {keys}; expected {name} (fields here: {found}){hint}")
    for key in ("tools", "functions"):
        if value.get(key):
            raise _RefusedError(f"offers {key}; expected a conversation without tool calls")
    turns = _to_turns(shape.messages(value))
    fields = {key: item for key, item in value.items() if key not in {"id", *shape.used}}
    if "messages" in fields:
        raise _RefusedError(f'has a field "messages" beside {quote(shape.keys[0])}; expected one')
    return Conversation(turns, _identity(record), fields, record.origin)


def _identity(record: Record) -> str:
    given = record.value.get("id")
    if given is None or given == "":
        return f"{record.origin.path.stem}:{record.origin.line}"
    if isinstance(given, str) or (isinstance(given, int) and not isinstance(given, bool)):
        return str(given)
    raise _RefusedError(f'"id" is {kind(given)}; expected text or a whole number')


# Messages to turns -------------------------------------------------------------------------


def _to_turns(messages: Sequence[object]) -> tuple[Turn, ...]:
    """Validate messages: one system message at most, then user and assistant in turn."""
    turns = tuple(_to_turn(number, message) for number, message in enumerate(messages, 1))
    if not turns:
        raise _RefusedError("has no messages; expected a user's and an assistant's at least")
    previous: Role | None = None
    for number, turn in enumerate(turns, 1):
        if turn.role == "system" and number > 1:
            raise _RefusedError(
                f"message {number} is from the system; expected that only as the first"
            )
        if turn.role == "assistant" and previous in (None, "system"):
            raise _RefusedError(
                f"message {number} is from the assistant; expected the user to begin"
            )
        if turn.role == previous:
            raise _RefusedError(
                f"messages {number - 1} and {number} are both from the {turn.role}; "
                "expected user and assistant in turn"
            )
        previous = turn.role
    if previous != "assistant":
        raise _RefusedError(f"ends with a {previous} message; expected the assistant's last")
    return turns


def _to_turn(number: int, message: object) -> Turn:
    if not isinstance(message, Mapping):
        raise _RefusedError(f"message {number} is {kind(message)}; expected an object")
    for key in ("tool_calls", "function_call", "tool_call_id"):
        if message.get(key):
            raise _RefusedError(
                f"message {number} has {quote(key)}; expected text only, no tool calls"
            )
    if message.get("weight") == 0:
        raise _RefusedError(
            f"message {number} has weight 0; expected answers that may all be learned"
        )
    role = message.get("role")
    if role in ("tool", "function"):
        raise _RefusedError(
            f"message {number} is from a tool; expected a conversation without tools"
        )
    if role not in ROLES:
        raise _RefusedError(
            f"message {number} has role {quote(role)}; expected system, user or assistant"
        )
    return Turn(role, _to_text(f"message {number}", message.get("content")))


def _to_text(what: str, content: object) -> str:
    """Text, or a list of text parts (joined as they stand); never empty."""
    if isinstance(content, list):
        parts = [_part_text(what, part) for part in content]
        content = "".join(parts)
    if not isinstance(content, str):
        raise _RefusedError(f"{what} has {kind(content)} as its content; expected text")
    if not content.strip():
        raise _RefusedError(f"{what} is empty; expected text")
    if "\0" in content:
        raise _RefusedError(f"{what} holds a NUL character; expected text")
    return content


def _part_text(what: str, part: object) -> str:
    if not isinstance(part, Mapping) or part.get("type") != "text":
        found = quote(part.get("type")) if isinstance(part, Mapping) else kind(part)
        raise _RefusedError(f"{what} has a part of type {found}; expected text parts only")
    text = part.get("text")
    if not isinstance(text, str):
        raise _RefusedError(f"{what} has a text part with {kind(text)}; expected text")
    return text


# Formats to messages -----------------------------------------------------------------------

_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "function_call": "tool",
    "observation": "tool",
    "tool": "tool",
}


def _list(value: Mapping[str, Any], key: str) -> list[Any]:
    if not isinstance(value[key], list):
        raise _RefusedError(f"{quote(key)} is {kind(value[key])}; expected an array")
    return value[key]


def _system(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    text = value.get("system")
    return [{"role": "system", "content": text}] if text else []


def _from_messages(value: Mapping[str, Any]) -> list[Any]:
    return _list(value, "messages")


def _from_sharegpt(value: Mapping[str, Any]) -> list[Any]:
    messages = _system(value)
    for number, message in enumerate(_list(value, "conversations"), 1):
        if not isinstance(message, Mapping):
            raise _RefusedError(f"message {number} is {kind(message)}; expected an object")
        # Many published sets carry OpenAI's keys under ShareGPT's field.
        name = message.get("from", message.get("role"))
        role = _SHAREGPT_ROLES.get(name) if isinstance(name, str) else None
        if role is None:
            raise _RefusedError(
                f"message {number} is from {quote(name)}; expected human, gpt or system"
            )
        content = message.get("value", message.get("content"))
        messages.append({**message, "role": role, "content": content})
    return messages


def _from_alpaca(value: Mapping[str, Any]) -> list[Any]:
    """``input`` follows ``instruction`` after an empty line, as in Alpaca's own prompt."""
    messages = _system(value)
    history = _list(value, "history") if value.get("history") else []
    for number, pair in enumerate(history, 1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise _RefusedError(f'"history" {number} is {quote(pair)}; expected [question, answer]')
        messages.append({"role": "user", "content": pair[0]})
        messages.append({"role": "assistant", "content": pair[1]})
    question = _to_text('"instruction"', value["instruction"])
    if value.get("input"):
        question += "\n\n" + _to_text('"input"', value["input"])
    answer = _to_text('"output"', value["output"])
    messages.append({"role": "user", "content": question})
    messages.append({"role": "assistant", "content": answer})
    return messages


def _from_prompt_completion(value: Mapping[str, Any]) -> list[Any]:
    messages = _system(value)
    for key, role in (("prompt", "user"), ("completion", "assistant")):
        part = value[key]
        if isinstance(part, list):
            messages.extend(part)
        else:
            messages.append({"role": role, "content": _to_text(quote(key), part)})
    return messages


@dataclass(frozen=True, slots=True)
class _Shape:
    """One format of records: the fields that tell it, all that it takes, and how it is read."""

    keys: tuple[str, ...]
    used: frozenset[str]
    messages: Callable[[Mapping[str, Any]], list[Any]]


def _shape(keys: str, optional: str, messages: Callable[[Mapping[str, Any]], list[Any]]) -> _Shape:
    return _Shape(tuple(keys.split()), frozenset(f"{keys} {optional}".split()), messages)


_SHAPES: dict[Format, _Shape] = {
    "messages": _shape("messages", "", _from_messages),
    "sharegpt": _shape("conversations", "system", _from_sharegpt),
    "alpaca": _shape("instruction output", "input system history", _from_alpaca),
    "prompt-completion": _shape("prompt completion", "system", _from_prompt_completion),
}


def _looks_like(value: Mapping[str, Any]) -> Format | None:
    for name, shape in _SHAPES.items():
        if all(key in value for key in shape.keys):
            return name
    return None
