"""The options of ``speakeasy evaluate`` that ``speakeasy compare`` takes, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from speakeasy.cli.speaker_options import (
    add,
    machine_options,
    option,
    sampling_of,
    sampling_options,
)

if TYPE_CHECKING:
    from speakeasy.evaluation.plan import EvaluationPlan

F = TypeVar("F", bound=Callable[..., Any])

FIELDS: Mapping[str, str] = {
    "eval_file": "eval_files",
    "text": "texts",
    "neutral_es": "neutral_es",
    "neutral_ca": "neutral_ca",
}
"""Option that names files -> field of the plan."""


def evaluation_options(function: F) -> F:
    """Add the options that say what is scored and asked, and what computes; see ``plan_of``."""
    path = click.Path(path_type=Path)
    paths: dict[str, Any] = {"multiple": True, "type": path, "metavar": "PATH"}
    options = (
        option("--like", type=path, metavar="DIR",
               help="Another evaluation: its sets, prompts, sampling and lexicon, so that the two "
               "can be compared."),
        option("--eval-file", **paths, help="Held-out conversations; may be given several times.  "
               "[default: those that the run held out]"),
        option("--text", **paths, help="Regional text.  [default: what pre-training holds out]"),
        option("--neutral-es", **paths, help="Plain Spanish.  [default: packaged texts]"),
        option("--neutral-ca", **paths, help="Plain Catalan.  [default: packaged texts]"),
        option("--max-items", type=click.IntRange(min=0), default=0,
               help="Score only so many texts of each set; 0 for all."),
        option("--prompts", metavar="FILE", default="packaged",
               help="Prompts from a .toml, .jsonl or .txt file, or 'packaged'."),
        option("--limit", type=click.IntRange(min=0), default=0,
               help="Only the first so many prompts; 0 for all."),
        option("--samples", type=click.IntRange(min=1), default=2, help="Answers to each prompt."),
        option("--lexicon", type=path, metavar="FILE",
               help="Lexicon of another variety.  [default: packaged]"),
        option("--batch-size", type=click.IntRange(min=1), default=32, help="Answers at a time."),
        option("--report-to", multiple=True,
               type=click.Choice(["tensorboard", "wandb", "trackio"]),
               help="Experiment tracker; may be given several times."),
        sampling_options(max_tokens=128),
    )  # fmt: skip
    return add(options, machine_options(function))


def plan_of(options: Mapping[str, Any], **more: Any) -> EvaluationPlan:
    """The plan that the options ask for.

    Args:
        options: those of ``evaluation_options``.
        more: further fields of the plan: what is evaluated.

    Raises:
        UsageError: a value cannot be used.
    """
    from speakeasy.evaluation.plan import EvaluationPlan

    same = (
        "backend", "precision", "use_4bit", "max_items", "prompts", "limit", "samples",
        "batch_size", "report_to",
    )  # fmt: skip
    fields = {name: options[name] for name in same}
    for name, field in FIELDS.items():
        fields[field] = tuple(map(str, options[name]))
    for name in ("like", "lexicon"):
        fields[name] = options[name] and str(options[name])
    return EvaluationPlan(**(fields | {"sampling": sampling_of(options)} | more))
