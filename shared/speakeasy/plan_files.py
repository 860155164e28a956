"""Frozen dataclasses to TOML and back, without loss: the form of ``run.toml`` and of recipes."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from speakeasy.errors import RunError

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values in TOML's types: tuples become lists, None is left out."""
    out: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            out[item.name] = to_dict(value)
        elif value is not None:
            out[item.name] = list(value) if isinstance(value, tuple) else value
    return out


def from_dict(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """The dataclass ``kind`` from nested plain values.

    Args:
        where: file that the values come from, for messages.

    Raises:
        RunError: an unknown key, or a value of the wrong type.
        UsageError: a value out of range.
    """
    hints = get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise RunError(f"{where}: unknown key {unknown[0]!r}; expected one of {sorted(hints)}")
    arguments = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise RunError(f"{where}: {name} = {value!r}: expected a table")
            arguments[name] = from_dict(hint, value, f"{where}: [{name}]")  # type: ignore[arg-type]
        else:
            arguments[name] = _convert(value, hint, f"{where}: {name}")
    return kind(**arguments)


def _convert(value: Any, hint: Any, where: str) -> Any:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise RunError(f"{where} = {value!r}: expected one of {list(get_args(hint))}")
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise RunError(f"{where} = {value!r}: expected a list of strings")
        return tuple(value)
    kinds = get_args(hint) or (hint,)
    if float in kinds and type(value) is int:
        return float(value)
    if type(value) not in kinds:
        names = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
        raise RunError(f"{where} = {value!r}: expected {names}")
    return value


def dump(config: Any) -> str:
    """The plan as TOML text."""
    import tomli_w

    return tomli_w.dumps(to_dict(config))


def read(path: Path) -> dict[str, Any]:
    """A run's TOML file as nested plain values.

    Raises:
        RunError: the file is missing, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: not found; is {path.parent} a run directory?") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: not a TOML file ({error})") from None


def load(kind: type[T], path: Path) -> T:
    """Read a plan that ``dump`` wrote.

    Raises:
        RunError: the file is missing, is no TOML, or has a wrong key or value.
    """
    return from_dict(kind, read(path), str(path))
