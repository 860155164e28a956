"""``rank_pattern`` and ``alpha_pattern`` of PEFT: values of single modules, by regular expression.

Source: ``get_pattern_key`` in ``peft/utils/other.py`` (peft 0.21): the first key that matches the
end of a module's path, after a dot, decides.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from speakeasy.errors import AdapterError
from speakeasy.weights.lora import leaf
from speakeasy.weights.refusals import refusal

_WILD = re.compile(r"\)[*+{]|\\[1-9]|\(\?(?!:)")
"""A group that is repeated, a reference to one, a look-around: with these, matching a short path
can take years, and the file comes from a stranger."""

Number = TypeVar("Number", int, float)


def values_of(
    config: Mapping[str, Any], key: str, modules: Iterable[str], where: object
) -> dict[str, float]:
    """Module -> its value, for those modules that the pattern ``key`` of a config names.

    Args:
        where: the config's file, for messages.

    Raises:
        AdapterError: the pattern is not a mapping from tame regular expressions to numbers.
    """
    pattern = config.get(key) or {}
    if not isinstance(pattern, dict):
        raise AdapterError(
            f"{where}: {key} is {pattern!r}; expected a mapping from modules to numbers"
        )
    for value in pattern.values():
        if type(value) not in (int, float) or not abs(value) < 1e30:
            raise AdapterError(f"{where}: {key} has {value!r}; expected numbers")
    for name in pattern:
        if _WILD.search(name) or sum(map(name.count, "*+{")) > 3 or name.count("?") > 8:
            raise refusal("expression", where, f"{key} has {name!r}")
    compiled = {_compiled(name, key, where): value for name, value in pattern.items()}
    found = {}
    for module in modules:
        for expression, value in compiled.items():
            if expression.match(module):
                found[module] = value
                break
    return found


def _compiled(name: str, key: str, where: object) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings(action="ignore"):  # of what Python may read otherwise one day
            return re.compile(rf"(.*\.)?({name})$")
    except (re.error, OverflowError, RecursionError) as error:
        raise AdapterError(f"{where}: {key}: {name!r} is no regular expression: {error}") from None


def pattern_of(values: Mapping[str, Number], modules: Iterable[str]) -> dict[str, Number]:
    """A short pattern that gives ``values`` to their modules, and nothing to the other modules.

    A leaf name where all modules of that name have the same value, else whole paths. (Dots in a
    path match any character, which no other module's path has in that place.)
    """
    by_leaf: dict[str, set[Number | None]] = {}
    for module in modules:
        by_leaf.setdefault(leaf(module), set()).add(values.get(module))
    return {
        (leaf(module) if len(by_leaf[leaf(module)]) == 1 else module): value
        for module, value in sorted(values.items())
    }
