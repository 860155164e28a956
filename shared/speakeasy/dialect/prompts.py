"""Prompts to try a model on: the packaged evaluation prompts, or a user's own.

========  ==================================================================================
.toml     ``[[prompt]]`` tables with the fields of ``Prompt``, as in ``data/prompts.toml``
.jsonl    a line each: ``{"prompt": ...}``, or ``{"messages": [...]}`` of which a last answer is
          left out, so that a file of conversations serves too; the other fields as in TOML
.txt      a prompt a line; empty lines are passed over
========  ==================================================================================
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from speakeasy.errors import DataError, UsageError
from speakeasy.files import read_text

REGISTERS = ("informal", "neutral", "formal")
_ROLES = ("system", "user", "assistant")
_ENTRY = re.compile(r"^\s*\[\[\s*prompt\s*\]\]", re.MULTILINE)
_TOML_LINE = re.compile(r"\s*\(at line (\d+), column \d+\)")

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Something to say to a model.

    Attributes:
        id: unique within its file; ``stem:line`` where the file gives none.
        text: what the user says last.
        category: what it tries, such as ``greeting``.
        register: ``informal``, ``neutral`` or ``formal``; empty where nobody said.
        expects: categories of the lexicon that a good answer would draw on.
        control: plain standard Spanish is the right answer.
        seed: it comes word for word from the guide that this project implements.
        history: role and content of the messages before ``text``.
    """

    id: str
    text: str
    category: str = ""
    register: str = ""
    expects: tuple[str, ...] = ()
    control: bool = False
    seed: bool = False
    history: tuple[tuple[str, str], ...] = ()

    def to_messages(self, system: str | None = None) -> Messages:
        """As chat messages; ``system`` comes first, in place of the prompt's own."""
        turns = [*self.history, ("user", self.text)]
        if system is not None:
            turns = [("system", system), *(turn for turn in turns if turn[0] != "system")]
        return [{"role": role, "content": content} for role, content in turns]


def packaged_prompts(categories: Iterable[str] | None = None) -> tuple[Prompt, ...]:
    """The evaluation prompts that come with the package, all or those of some categories.

    Raises:
        UsageError: there is no such category.
    """
    prompts = _packaged()
    return prompts if categories is None else in_categories(prompts, categories)


@cache
def _packaged() -> tuple[Prompt, ...]:
    file = files("speakeasy.dialect").joinpath("data", "prompts.toml")
    return tuple(_from_toml(Path("prompts.toml"), file.read_text(encoding="utf-8")))


def in_categories(prompts: Sequence[Prompt], categories: Iterable[str]) -> tuple[Prompt, ...]:
    """Those of ``prompts`` that belong to one of ``categories``, in their order.

    Raises:
        UsageError: none of them belongs to one of the categories.
    """
    wanted = set(categories)
    present = sorted({prompt.category for prompt in prompts} - {""})
    for name in sorted(wanted.difference(present)):
        choice = f"expected one of {', '.join(present)}" if present else "these have none"
        raise UsageError(f"--category {name}: no prompt has this category; {choice}")
    return tuple(prompt for prompt in prompts if prompt.category in wanted)


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """Read a user's file; its suffix says how.

    Raises:
        DataError: it cannot be read, or a prompt in it cannot be used; names file and line.
    """
    readers: Mapping[str, Callable[[Path, str], Iterator[Prompt]]] = {
        ".toml": _from_toml,
        ".jsonl": _from_jsonl,
        ".txt": _from_text,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: expected a file of prompts: .toml, .jsonl or .txt")
    text = read_text(path)
    prompts = tuple(reader(path, text))
    if not prompts:
        raise DataError(f"{path}: holds no prompts; expected one at least")
    return prompts


def _from_text(path: Path, text: str) -> Iterator[Prompt]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield Prompt(id=f"{path.stem}:{number}", text=line.strip())


def _from_toml(path: Path, text: str) -> Iterator[Prompt]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _TOML_LINE.search(str(error))
        line = int(place[1]) if place else text.count("\n") + 1
        raise DataError(f"{path}:{line}: not TOML: {_TOML_LINE.sub('', str(error))}") from None
    entries = document.get("prompt", [])
    if not isinstance(entries, list):
        raise DataError(f"{path}: prompt is no list; expected [[prompt]] tables")
    starts = [text.count("\n", 0, match.end()) + 1 for match in _ENTRY.finditer(text)]
    # tomllib tells no lines; entries written in line (prompt = [{...}]) have no header to count.
    lines = starts if len(starts) == len(entries) else [1] * len(entries)
    yield from _validated(path, zip(lines, entries, strict=True), "text")


def _from_jsonl(path: Path, text: str) -> Iterator[Prompt]:
    yield from _validated(path, _json_lines(path, text), "prompt")


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested"
                raise DataError(f"{path}:{number}: not JSON ({reason})") from None


def _validated(path: Path, entries: Iterable[tuple[int, Any]], key: str) -> Iterator[Prompt]:
    """Prompts from plain values; ``key`` is the field that holds the text."""
    seen: dict[str, int] = {}
    for line, entry in entries:
        where = f"{path}:{line}"
        if not isinstance(entry, Mapping):
            raise DataError(f"{where}: is a {type(entry).__name__}; expected a table of fields")
        prompt = _to_prompt(where, f"{path.stem}:{line}", entry, key)
        if prompt.id in seen:
            raise DataError(f"{where}: id {prompt.id!r} is taken by line {seen[prompt.id]}")
        seen[prompt.id] = line
        yield prompt


def _to_prompt(where: str, default_id: str, entry: Mapping[str, Any], key: str) -> Prompt:
    if (key in entry) == ("messages" in entry):
        raise DataError(f"{where}: expected either {key!r} or 'messages'")
    history: tuple[tuple[str, str], ...] = ()
    if "messages" in entry:
        *earlier, (_, text) = _messages(where, entry["messages"])
        history = tuple(earlier)
    else:
        text = _text(where, key, entry[key])
    expects = entry.get("expects", [])
    if not isinstance(expects, list) or not all(isinstance(item, str) for item in expects):
        raise DataError(f"{where}: expects is {expects!r}; expected a list of names")
    register = entry.get("register", "")
    if register not in ("", *REGISTERS):
        raise DataError(f"{where}: register is {register!r}; expected {', '.join(REGISTERS)}")
    return Prompt(
        id=_text(where, "id", entry.get("id", default_id)),
        text=text,
        category=_text(where, "category", entry["category"]) if "category" in entry else "",
        register=register,
        expects=tuple(expects),
        control=_flag(where, "control", entry),
        seed=_flag(where, "seed", entry),
        history=history,
    )


def _messages(where: str, messages: Any) -> list[tuple[str, str]]:
    """Role and content up to the last message of the user's."""
    if not isinstance(messages, list):
        raise DataError(f"{where}: messages is a {type(messages).__name__}; expected a list")
    turns = []
    for number, message in enumerate(messages, 1):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in _ROLES:
            raise DataError(
                f"{where}: message {number} has role {role!r}; expected {', '.join(_ROLES)}"
            )
        turns.append((str(role), _text(where, f"message {number}", message.get("content"))))
    if turns and turns[-1][0] == "assistant":
        turns.pop()
    if not turns or turns[-1][0] != "user":
        raise DataError(f"{where}: no message of the user's to answer")
    return turns


def _text(where: str, name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name} is {value!r}; expected text")
    return value


def _flag(where: str, name: str, entry: Mapping[str, Any]) -> bool:
    value = entry.get(name, False)
    if not isinstance(value, bool):
        raise DataError(f"{where}: {name} is {value!r}; expected true or false")
    return value
