"""Recipes: what is to be done, in which order, from a TOML file.

::

    description = "One line for people."

    [[stage]]
    name = "train"              # of its directory
    kind = "train"              # which plan it has, and what is done with it
    [stage.plan]                # a config.TrainConfig, where it differs from the defaults
    num_epochs = 1

    [[stage]]
    name = "answers"
    kind = "answers"
    plan = { run = "train" }    # an AnswersPlan

Relative paths in a recipe start where the recipe lies.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from speakeasy.config import TrainConfig
from speakeasy.dialect.prompts import packaged_prompts
from speakeasy.errors import RunError, UsageError
from speakeasy.plan_files import from_dict
from speakeasy.training.backend import Sampling

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class AnswersPlan:
    """Answers of a base model and of what training made of it, to the same prompts.

    Attributes:
        run: name of the train stage, which stands before this one.
        prompts: ids of packaged prompts (``dialect.prompts``).
        sampling: how tokens are chosen, on both sides.
    """

    run: str = "train"
    prompts: tuple[str, ...] = ("greeting-01", "surprise-01", "farewell-01")
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=96, temperature=0.0))


PLANS: Mapping[str, type] = {"train": TrainConfig, "answers": AnswersPlan}
"""Kind of stage -> what its plan is."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: its name, its kind, and a plan of the type that ``PLANS`` has for the kind."""

    name: str
    kind: str
    plan: Any


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
    if source in packaged_recipes():
        text = (_folder() / f"{source}.toml").read_text(encoding="utf-8")
        return parse_recipe(text, source, source, Path.cwd())
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RunError(f"{path}: not UTF-8; expected a TOML file") from None
    except OSError as error:
        raise UsageError(
            f"RECIPE {source}: cannot be read ({error.strerror}); expected a TOML file, or "
            f"{' or '.join(packaged_recipes())}"
        ) from error
    return parse_recipe(text, path.stem, source, path.resolve().parent)


def parse_recipe(text: str, name: str, source: str, base: Path) -> Recipe:
    """A recipe from TOML text; relative paths in it start at ``base``.

    Raises:
        RunError: something in it is wrong.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RunError(f"{source}: not a TOML file ({error})") from None
    _only(document, {"description", "stage"}, source)
    tables = document.get("stage", [])
    if not isinstance(tables, list) or not tables:
        raise RunError(f"{source}: no [[stage]] table; expected one at least")
    description = document.get("description", "")
    if not isinstance(description, str):
        raise RunError(f"{source}: description = {description!r}: expected text")
    stages: dict[str, Stage] = {}
    for number, table in enumerate(tables, 1):
        stage = _stage(table, f"{source}: stage {number}", base)
        if stage.name in stages:
            raise RunError(f"{source}: stage {number}: name {stage.name!r} is taken already")
        _check_answers(stage, stages, source)
        stages[stage.name] = stage
    return Recipe(name, source, description, tuple(stages.values()))


def _folder() -> Traversable:
    return resources.files("speakeasy").joinpath("recipes")


def _is_recipe(name: str) -> bool:
    return name.endswith(".toml")


def _only(table: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(set(table) - known):
        raise RunError(f"{where}: unknown key {unknown[0]!r}; expected one of {sorted(known)}")


def _stage(table: Any, where: str, base: Path) -> Stage:
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
    parsed: Any = from_dict(PLANS[kind], plan, f"{where} ({name})")
    return Stage(name, kind, _placed(parsed, base) if isinstance(parsed, TrainConfig) else parsed)


def _placed(config: TrainConfig, base: Path) -> TrainConfig:
    """The plan with its paths made absolute; a model is a path if it begins with a dot."""
    data = replace(
        config.data,
        train=tuple(str(base / path) for path in config.data.train),
        evaluation=tuple(str(base / path) for path in config.data.evaluation),
    )
    model = str(base / config.model) if config.model.startswith(".") else config.model
    return replace(config, model=model, data=data)


def _check_answers(stage: Stage, before: Mapping[str, Stage], source: str) -> None:
    """Find out now, not after the training, what an answers stage cannot do."""
    if not isinstance(stage.plan, AnswersPlan):
        return
    runs = [name for name, earlier in before.items() if earlier.kind == "train"]
    if stage.plan.run not in runs:
        raise RunError(
            f"{source}: stage {stage.name!r}: run = {stage.plan.run!r}: expected a train stage "
            f"before it ({', '.join(runs) or 'there is none'})"
        )
    known = [prompt.id for prompt in packaged_prompts()]
    for name in stage.plan.prompts:
        if name not in known:
            raise RunError(
                f"{source}: stage {stage.name!r}: prompts has {name!r}: expected ids of packaged "
                f"prompts, such as {known[0]}"
            )
