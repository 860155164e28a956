"""Recipes: what is to be done, in which order, from a TOML file.

::

    description = "One line for people."

    [variety]                   # only for another variety than the packaged one
    lexicon = "lexicon.toml"
    prompts = "prompts.toml"

    [[stage]]
    name = "lora"               # of its directory
    kind = "train"              # which plan it has, and what is done with it
    [stage.plan]                # a config.TrainConfig, where it differs from the defaults
    num_epochs = 1

    [[stage]]
    name = "evaluation"
    kind = "evaluate"
    plan = { run = "stage:lora" }

The kinds and their plans are in ``plans``, what a plan may refer to in ``places``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from speakeasy.errors import RunError, UsageError
from speakeasy.plan_files import from_dict
from speakeasy.workflow.places import PREFIX, beside_recipe, references
from speakeasy.workflow.plans import PLANS, Plan

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_VARIETY = {
    "expand": {"lexicon": "lexicon"},
    "evaluate": {"lexicon": "lexicon", "prompts": "prompts"},
}
"""Kind -> field of its plan -> key of ``[variety]`` that it is filled from."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: its name, its kind, and a plan of the type that ``PLANS`` has for the kind."""

    name: str
    kind: str
    plan: Plan

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the stages that it reads, each once."""
        return tuple(dict.fromkeys(found.stage for found in references(self.plan)))


@dataclass(frozen=True, slots=True)
class Recipe:
    """Stages in order.

    Attributes:
        name: of the packaged recipe, or the file's stem.
        source: what the user called it by.
    """

    name: str
    source: str
    description: str
    stages: tuple[Stage, ...]


def packaged_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(Path(entry.name).stem for entry in _folder().iterdir() if _is_recipe(entry.name))


def load_recipe(source: str) -> Recipe:
    """Read a recipe.

    Args:
        source: name of a packaged recipe, or a TOML file.

    Raises:
        UsageError: there is no such recipe.
        RunError: it is no TOML, or something in it is wrong; names the file and the stage.
    """
    text = recipe_text(source)
    if source in packaged_recipes():
        return parse_recipe(text, source, source, Path.cwd())
    path = Path(source)
    return parse_recipe(text, path.stem, source, path.resolve().parent)


def recipe_text(source: str) -> str:
    """The TOML text of a packaged recipe, or of a file.

    Raises:
        UsageError: there is no such recipe.
        RunError: it is not UTF-8.
    """
    if source in packaged_recipes():
        return (_folder() / f"{source}.toml").read_text(encoding="utf-8")
    path = Path(source)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RunError(f"{path}: not UTF-8; expected a TOML file") from None
    except OSError as error:
        raise UsageError(
            f"RECIPE {source}: cannot be read ({error.strerror}); expected a TOML file, or "
            f"{' or '.join(packaged_recipes())}"
        ) from error


def parse_recipe(text: str, name: str, source: str, base: Path) -> Recipe:
    """A recipe from TOML text; relative paths in it start at ``base``.

    Raises:
        RunError: something in it is wrong.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RunError(f"{source}: not a TOML file ({error})") from None
    _only(document, {"description", "variety", "stage"}, source)
    tables = document.get("stage", [])
    if not isinstance(tables, list) or not tables:
        raise RunError(f"{source}: no [[stage]] table; expected one at least")
    description = document.get("description", "")
    if not isinstance(description, str):
        raise RunError(f"{source}: description = {description!r}: expected text")
    variety = _variety(document.get("variety", {}), source)
    stages: dict[str, Stage] = {}
    for number, table in enumerate(tables, 1):
        stage = _stage(table, f"{source}: stage {number}", base, variety)
        if stage.name in stages:
            raise RunError(f"{source}: stage {number}: name {stage.name!r} is taken already")
        _check_references(stage, stages, source)
        stages[stage.name] = stage
    return Recipe(name, source, description, tuple(stages.values()))


def _folder() -> Traversable:
    return resources.files("speakeasy").joinpath("recipes")


def _is_recipe(name: str) -> bool:
    return name.endswith(".toml")


def _only(table: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(set(table) - known):
        raise RunError(f"{where}: unknown key {unknown[0]!r}; expected one of {sorted(known)}")


def _variety(table: Any, source: str) -> Mapping[str, str]:
    if not isinstance(table, Mapping):
        raise RunError(f"{source}: variety = {table!r}: expected a table")
    _only(table, {"lexicon", "prompts"}, f"{source}: [variety]")
    for key, value in table.items():
        if not isinstance(value, str) or not value:
            raise RunError(f"{source}: [variety]: {key} = {value!r}: expected a file's name")
    return table


def _stage(table: Any, where: str, base: Path, variety: Mapping[str, str]) -> Stage:
    if not isinstance(table, Mapping):
        raise RunError(f"{where}: expected a [[stage]] table")
    _only(table, {"name", "kind", "plan"}, where)
    name, kind, plan = table.get("name"), table.get("kind"), table.get("plan", {})
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RunError(
            f"{where}: name = {name!r}: expected lower-case letters, digits, - or _, since it "
            "names a directory"
        )
    if not isinstance(kind, str) or kind not in PLANS:
        raise RunError(f"{where} ({name}): kind = {kind!r}: expected one of {sorted(PLANS)}")
    if not isinstance(plan, Mapping):
        raise RunError(f"{where} ({name}): plan = {plan!r}: expected a table")
    whole = _of_variety(kind, variety, plan) | dict(plan)
    parsed = from_dict(PLANS[kind], whole, f"{where} ({name})")
    return Stage(name, kind, beside_recipe(parsed, base))


def _of_variety(kind: str, variety: Mapping[str, str], plan: Mapping[str, Any]) -> dict[str, str]:
    """What ``[variety]`` fills in; nothing where the plan takes words or prompts from elsewhere."""
    if plan.get("like") or plan.get("words") or plan.get("suggest"):
        return {}
    fields = _VARIETY.get(kind, {})
    return {field: variety[key] for field, key in fields.items() if key in variety}


def _check_references(stage: Stage, before: Mapping[str, Stage], source: str) -> None:
    """Find out now, not after hours of training, which stage cannot be read."""
    for found in references(stage.plan):
        where = f"{source}: stage {stage.name!r}: {found.field} = {PREFIX + found.stage!r}"
        fitting = [name for name, other in before.items() if other.kind in found.kinds]
        if found.stage not in fitting:
            kinds = " or ".join(found.kinds)
            article = "an" if kinds[0] in "aeiou" else "a"
            raise RunError(
                f"{where}: expected {article} {kinds} stage before it "
                f"({', '.join(fitting) or 'there is none'})"
            )
