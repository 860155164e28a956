"""What a plan refers to: files beside the recipe, and the directories of other stages.

``"stage:NAME"`` in the place of a model, a run or an evaluation is what the stage NAME has made.
Other relative paths start where the recipe lies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from speakeasy.config import PretrainConfig, TrainConfig
from speakeasy.evaluation.plan import PACKAGED, EvaluationPlan
from speakeasy.rating import wish
from speakeasy.workflow.plans import (
    PACKAGED_LEXICONS,
    ComparePlan,
    ExpandPlan,
    Plan,
    StudyPlan,
)

PREFIX = "stage:"
_MODELS = ("expand", "pretrain")
_RUNS = ("train", "pretrain")
_EVALUATIONS = ("evaluate",)

_REFERENCES: Mapping[type, Mapping[str, tuple[str, ...]]] = {
    ExpandPlan: {"model": _MODELS},
    PretrainConfig: {"model": _MODELS},
    TrainConfig: {"model": _MODELS},
    EvaluationPlan: {"model": _MODELS, "run": _RUNS, "like": _EVALUATIONS},
    ComparePlan: {"evaluations": _EVALUATIONS, "base": _EVALUATIONS},
    StudyPlan: {"evaluations": _EVALUATIONS},
}
"""Plan -> field -> kinds of stages that may stand there."""

_FILES: Mapping[type, tuple[str, ...]] = {
    ExpandPlan: ("words", "lexicon", "corpus"),
    PretrainConfig: ("corpus.paths", "corpus.evaluation", "corpus.replay"),
    TrainConfig: ("data.train", "data.evaluation"),
    EvaluationPlan: (
        "adapter", "run", "like", "eval_files", "texts", "neutral_es", "neutral_ca", "prompts",
        "lexicon",
    ),
    ComparePlan: ("evaluations", "base"),
    StudyPlan: ("evaluations", "gold", "dialogues"),
}  # fmt: skip
"""Plan -> fields that hold paths; a dot leads into a table."""

_WORDS: Mapping[tuple[type, str], tuple[str, ...]] = {
    (ExpandPlan, "lexicon"): PACKAGED_LEXICONS,
    (EvaluationPlan, "prompts"): (PACKAGED,),
    (StudyPlan, "gold"): (wish.PACKAGED, wish.NONE),
    (StudyPlan, "dialogues"): (wish.PACKAGED, wish.NONE),
}
"""What stands in the place of a path and is none."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A field of a plan that names another stage.

    Attributes:
        kinds: of the stages that fit there.
    """

    field: str
    stage: str
    kinds: tuple[str, ...]


def references(plan: Plan) -> Iterator[Reference]:
    """The other stages that a plan names."""
    for field, kinds in _REFERENCES[type(plan)].items():
        value = getattr(plan, field)
        for name in value if isinstance(value, tuple) else (value,):
            if name is not None and name.startswith(PREFIX):
                yield Reference(field, name.removeprefix(PREFIX), kinds)


def beside_recipe(plan: Plan, folder: Path) -> Any:
    """The plan with paths that start at ``folder``; a model is a path if it begins with a dot."""
    kind = type(plan)
    for field in _FILES[kind]:
        plan = _changed(plan, field, partial(_at, folder, _WORDS.get((kind, field), ())))
    if isinstance(plan, TrainConfig | PretrainConfig | ExpandPlan | EvaluationPlan):
        plan = _changed(
            plan, "model", lambda name: str(folder / name) if name.startswith(".") else name
        )
    return plan


def in_root(plan: Plan, root: Path) -> Any:
    """The plan with the directories of stages, all of them in ``root``, for their names."""
    for field in _REFERENCES[type(plan)]:
        plan = _changed(plan, field, lambda name: str(_directory(name, root)))
    return plan


def _directory(name: str, root: Path) -> str:
    return str(root / name.removeprefix(PREFIX)) if name.startswith(PREFIX) else name


def _at(folder: Path, words: tuple[str, ...], path: str) -> str:
    return path if path in words or path.startswith(PREFIX) else str(folder / path)


def _changed(plan: Any, field: str, change: Callable[[str], str]) -> Any:
    """The plan with a field's text, or each of its texts, changed; None stays."""
    name, _, inner = field.partition(".")
    value = getattr(plan, name)
    if inner:
        return replace(plan, **{name: _changed(value, inner, change)})
    if value is None:
        return plan
    new = tuple(change(text) for text in value) if isinstance(value, tuple) else change(value)
    return replace(plan, **{name: new})
