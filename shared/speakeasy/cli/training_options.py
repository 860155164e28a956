"""The options of ``speakeasy train`` and ``speakeasy pretrain``, and the plans made of them.

Defaults stand in ``config`` alone: an option that was not given is absent from what is made here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

F = TypeVar("F", bound=Callable[..., Any])
Fields = Mapping[str, str]

JOB_FIELDS: Fields = {
    "model": "model",
    "backend": "backend",
    "precision": "precision",
    "use_4bit": "use_4bit",
    "fsdp": "fsdp",
    "gradient_checkpointing": "gradient_checkpointing",
    "compile": "compile",
    "num_epochs": "num_epochs",
    "max_steps": "max_steps",
    "batch_size": "batch_size",
    "grad_accumulation": "grad_accumulation",
    "eval_every": "eval_every",
    "save_every": "save_every",
    "patience": "patience",
    "seed": "seed",
    "report_to": "report_to",
    "lora_r": "lora.r",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "rslora": "lora.rslora",
    "dora": "lora.dora",
    "lora_targets": "lora.targets",
    "learning_rate": "optimizer.learning_rate",
    "rows_rate": "optimizer.rows_rate",
    "lr_schedule": "optimizer.schedule",
    "warmup_ratio": "optimizer.warmup_ratio",
    "weight_decay": "optimizer.weight_decay",
    "max_grad_norm": "optimizer.max_grad_norm",
}
"""Option -> field of any plan."""

TRAIN_FIELDS: Fields = {
    "train_file": "data.train",
    "eval_file": "data.evaluation",
    "format": "data.format",
    "max_length": "data.max_length",
    "max_train": "data.max_train",
    "max_eval": "data.max_eval",
    "holdout": "data.holdout",
    "train_rows": "train_rows",
}
PRETRAIN_FIELDS: Fields = {
    "train": "train",
    "fit_rows": "fit_rows",
    "corpus_path": "corpus.paths",
    "eval_path": "corpus.evaluation",
    "replay_path": "corpus.replay",
    "replay": "corpus.replay_share",
    "max_length": "corpus.max_length",
    "holdout": "corpus.holdout",
}

LORA_OPTIONS = {option for option, field in JOB_FIELDS.items() if field.startswith("lora.")}
"""Options that say what an adapter is like."""

PATHS = ("train_file", "eval_file", "corpus_path", "eval_path", "replay_path")
"""Options that name files or directories of data."""


def _add(options: list[Callable[[F], F]], function: F) -> F:
    for option in reversed(options):
        function = option(function)
    return function


def paths_option(*names: str, help: str) -> Callable[[F], F]:
    """An option that names files or directories, and may be given several times."""
    kind = click.Path(path_type=Path)
    return click.option(*names, multiple=True, type=kind, metavar="PATH", help=help)


def amount_options(epochs: int) -> Callable[[F], F]:
    """How much is trained: epochs, steps, rows."""
    names = click.option
    return lambda function: _add(
        [
            names("--num-epochs", type=int, help=f"Passes over the data.  [default: {epochs}]"),
            names("--max-steps", type=int, help="Stop after so many steps instead."),
            names("--batch-size", type=int, help="Packed rows of a step.  [default: 4]"),
            names(
                "--grad-accumulation",
                type=int,
                help="Batches added up before a step, weighted by targets.  [default: 1]",
            ),
        ],
        function,
    )


def job_options(function: F) -> F:
    """The adapter, the optimizer, evaluation, and where it runs."""
    names = click.option
    return _add(
        [
            names("--lora-r", type=int, help="Rank.  [default: 64]"),
            names("--lora-alpha", type=float, help="Scale: alpha / rank.  [default: 16]"),
            names("--lora-dropout", type=float, help="Share of inputs dropped.  [default: 0]"),
            names(
                "--lora-targets",
                help="all-linear, attention, mlp, or names such as "
                "q_proj,v_proj.  [default: all-linear]",
            ),
            names(
                "--rslora/--no-rslora",
                default=None,
                help="Scale by alpha / sqrt(rank).  [default: no]",
            ),
            names(
                "--dora/--no-dora",
                default=None,
                help="Train the length of each row of an adapted weight apart from its direction "
                "(DoRA): more time and memory.  [default: no]",
            ),
            names(
                "--learning-rate",
                type=float,
                help="Peak of the schedule.  [default: 0.001; pretrain --train full: 0.0001]",
            ),
            names(
                "--rows-rate",
                type=float,
                help="Rate of trained embedding rows, times the learning rate.  [default: 4]",
            ),
            names(
                "--lr-schedule",
                type=click.Choice(["constant", "linear", "cosine"]),
                help="After the warm-up.  [default: cosine]",
            ),
            names("--warmup-ratio", type=float, help="Share of steps.  [default: 0.05]"),
            names("--weight-decay", type=float, help="AdamW's.  [default: 0]"),
            names("--max-grad-norm", type=float, help="Clip to this; 0 never.  [default: 1]"),
            names("--eval-every", type=int, help="Steps.  [default: at the end of each epoch]"),
            names("--save-every", type=int, help="Steps between states.  [default: 25]"),
            names(
                "--patience",
                type=int,
                help="Stop after so many evaluations without a new best.  [default: never]",
            ),
            names("--seed", type=int, help="Of data order, adapter and dropout.  [default: 0]"),
            names(
                "--backend",
                type=click.Choice(["auto", "mlx", "torch"]),
                help="[default: auto, see speakeasy doctor]",
            ),
            names(
                "--precision",
                type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
                help="Of the frozen weights; what is trained is always float32.  [default: auto]",
            ),
            names(
                "--use-4bit/--no-use-4bit",
                "use_4bit",
                default=None,
                help="Hold the frozen base in 4 bits (QLoRA).  [default: no]",
            ),
            names(
                "--fsdp/--no-fsdp",
                default=None,
                help="Divide the frozen blocks among the processes, for models that do not fit "
                "(torchrun).  [default: no]",
            ),
            names(
                "--gradient-checkpointing/--no-gradient-checkpointing",
                default=None,
                help="Recompute activations: less memory, a third slower.  "
                "[default: torch: if it would not fit otherwise; mlx: no]",
            ),
            names(
                "--compile/--no-compile",
                default=None,
                help="torch: compile the blocks when the first batch comes; needs triton (CUDA) or "
                "a C++ compiler (CPU).  [default: no]",
            ),
            names(
                "--report-to",
                multiple=True,
                type=click.Choice(["tensorboard", "wandb", "trackio"]),
                help="Experiment tracker; may be given several times.",
            ),
        ],
        function,
    )


def run_options(function: F) -> F:
    """The run directory, and what is to happen to it."""
    return _add(
        [
            click.option(
                "--output-dir",
                type=click.Path(path_type=Path),
                metavar="DIR",
                help="The run directory; must not hold anything yet.",
            ),
            click.option(
                "--resume",
                is_flag=True,
                help="Go on with the run in --output-dir. No other option is needed; --backend, "
                "--precision, --use-4bit, --fsdp, --gradient-checkpointing, --compile, "
                "--save-every and --report-to may change, and --model and the data's options say "
                "where the same files lie on another machine.",
            ),
            click.option(
                "--dry-run", is_flag=True, help="Everything up to the first step; begins no run."
            ),
            click.option(
                "--force", is_flag=True, help="Train even if the memory estimate says no."
            ),
        ],
        function,
    )


def given(context: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    """The options that were typed, or set in the environment."""
    chosen = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    for name in PATHS:
        if name in chosen:
            chosen[name] = tuple(str(path) for path in chosen[name])
    return chosen


def plan_of(default: Any, options: dict[str, Any], fields: Fields) -> Any:
    """``default`` with these options in place; a section is replaced as a whole, and so checked."""
    sections: dict[str, dict[str, Any]] = {}
    for option, value in options.items():
        section, _, field = fields[option].rpartition(".")
        sections.setdefault(section, {})[field] = value
    own = sections.pop("", {})
    tables = {name: replace(getattr(default, name), **values) for name, values in sections.items()}
    return replace(default, **own, **tables)
