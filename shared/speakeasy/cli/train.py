"""``speakeasy train``: LoRA on conversations, from files to a run directory."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from speakeasy.cli.common import command, console, emit, json_option, progress, say
from speakeasy.errors import RunError, UsageError

if TYPE_CHECKING:
    from speakeasy.config import TrainConfig
    from speakeasy.training.run import Run
    from speakeasy.training.session import Opened, Session

F = TypeVar("F", bound=Callable[..., Any])

FIELDS = {
    "model": "model",
    "backend": "backend",
    "precision": "precision",
    "use_4bit": "use_4bit",
    "gradient_checkpointing": "gradient_checkpointing",
    "num_epochs": "num_epochs",
    "max_steps": "max_steps",
    "batch_size": "batch_size",
    "grad_accumulation": "grad_accumulation",
    "eval_every": "eval_every",
    "save_every": "save_every",
    "patience": "patience",
    "seed": "seed",
    "report_to": "report_to",
    "train_file": "data.train",
    "eval_file": "data.evaluation",
    "format": "data.format",
    "max_length": "data.max_length",
    "max_train": "data.max_train",
    "max_eval": "data.max_eval",
    "holdout": "data.holdout",
    "lora_r": "lora.r",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "rslora": "lora.rslora",
    "lora_targets": "lora.targets",
    "learning_rate": "optimizer.learning_rate",
    "lr_schedule": "optimizer.schedule",
    "warmup_ratio": "optimizer.warmup_ratio",
    "weight_decay": "optimizer.weight_decay",
    "max_grad_norm": "optimizer.max_grad_norm",
}
"""Option -> field of the plan. The defaults stand in ``config.TrainConfig`` alone."""

CHANGEABLE = {"report_to", "save_every"}
"""Options that may differ when a run is resumed: they do not touch its course."""


def _options(function: F) -> F:
    """Every option of a plan; one not given is absent from what the command receives."""
    names = click.option
    paths = click.Path(path_type=Path)
    for option in reversed(
        [
            names(
                "--model",
                "--model-name",
                "--model-path",
                "model",
                help="starter, a directory, or a name on the Hub.  [default: starter]",
            ),
            names(
                "--train-file",
                multiple=True,
                type=paths,
                metavar="FILE",
                help="Conversations: a file or a directory; may be given several times.  "
                "[default: the packaged starter conversations]",
            ),
            names(
                "--eval-file",
                multiple=True,
                type=paths,
                metavar="FILE",
                help="Held-out conversations.  [default: a seeded share of --train-file]",
            ),
            names("--format", help="Reader of the files.  [default: found by looking]"),
            names(
                "--holdout",
                type=float,
                help="Share held out where there is no --eval-file.  [default: 0.05]",
            ),
            names("--max-train", type=int, help="Use only so many conversations.  [default: all]"),
            names("--max-eval", type=int, help="Score only so many.  [default: all]"),
            names(
                "--max-length",
                type=int,
                help="Tokens of a packed row, and of the longest conversation.  [default: 1024]",
            ),
            names("--num-epochs", type=int, help="Passes over the data.  [default: 3]"),
            names("--max-steps", type=int, help="Stop after so many steps instead."),
            names("--batch-size", type=int, help="Packed rows of a step.  [default: 4]"),
            names(
                "--grad-accumulation",
                type=int,
                help="Batches added up before a step, weighted by targets.  [default: 1]",
            ),
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
            names("--learning-rate", type=float, help="Peak of the schedule.  [default: 0.001]"),
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
                help="Of the frozen weights; the adapter is always float32.  [default: auto]",
            ),
            names(
                "--use-4bit/--no-use-4bit",
                "use_4bit",
                default=None,
                help="Hold the frozen base in 4 bits (QLoRA).  [default: no]",
            ),
            names(
                "--gradient-checkpointing/--no-gradient-checkpointing",
                default=None,
                help="Recompute activations: less memory, a third slower.  "
                "[default: torch: if it would not fit otherwise; mlx: no]",
            ),
            names(
                "--report-to",
                multiple=True,
                type=click.Choice(["tensorboard", "wandb", "trackio"]),
                help="Experiment tracker; may be given several times.",
            ),
        ]
    ):
        function = option(function)
    return function


@command()
@_options
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The run directory; must not hold anything yet.",
)
@click.option(
    "--resume", is_flag=True, help="Go on with the run in --output-dir; no other option is needed."
)
@click.option("--dry-run", is_flag=True, help="Everything up to the first step; writes nothing.")
@click.option("--force", is_flag=True, help="Train even if the memory estimate says no.")
@json_option
@click.pass_context
def train(
    context: click.Context,
    output_dir: Path | None,
    resume: bool,
    dry_run: bool,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Adapt a model to conversations with LoRA.

    \b
    Examples:
      speakeasy train --output-dir runs/first                 starter model and data
      speakeasy train --model meta-llama/Llama-3.2-1B-Instruct \\
          --train-file train.jsonl --eval-file eval.jsonl --output-dir runs/llama
      speakeasy train --resume --output-dir runs/first        after Ctrl-C, or a crash

    The run directory holds the plan (run.toml), every step (metrics.jsonl), states to resume
    from, and at the end the best adapter: PEFT's format from the torch backend, mlx-lm's from
    the MLX backend.
    """
    from speakeasy.training import session as sessions
    from speakeasy.training.run import Run

    given = _given(context, options)
    if output_dir is None and (resume or not dry_run):
        raise UsageError("--output-dir: missing; name a new directory for the run")
    run = None
    if resume:
        assert output_dir is not None
        run = Run.open(output_dir)
        config = _resumed(run, given)
        if (summary := run.summary) is not None:
            say(f"{output_dir}: this run has finished already")
            _report(summary, as_json)
            return
    else:
        config = _config(given)
        if output_dir is not None and not dry_run:
            Run.check_free(output_dir)
    session = sessions.plan(config, force=force, say=say, bar=progress)
    show_preflight(session)
    if dry_run:
        if as_json:
            emit(_dry_run_record(session))
        return
    assert output_dir is not None
    opened = sessions.open_engine(session, run)
    if run is None:
        run = Run.create(output_dir, session.config, sessions.environment(session))
    _report(_train(session, run, opened), as_json)


def _train(session: Session, run: Run, opened: Opened) -> dict[str, Any]:
    from speakeasy.cli.watch import Watchers, for_this_output
    from speakeasy.training import session as sessions
    from speakeasy.training.trackers import open_trackers

    with (
        open_trackers(session.config.report_to, run) as trackers,
        for_this_output() as watcher,
    ):
        return sessions.train(session, run, opened, Watchers(watcher, *trackers))


def _given(context: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    """The options that were typed, or set in the environment."""
    chosen = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    for name in ("train_file", "eval_file"):
        if name in chosen:
            chosen[name] = tuple(str(path) for path in chosen[name])
    return chosen


def _config(given: dict[str, Any]) -> TrainConfig:
    """The plan of these options, over the defaults."""
    from dataclasses import replace

    from speakeasy.config import DataConfig, LoraConfig, OptimizerConfig, TrainConfig

    kinds: dict[str, Any] = {"data": DataConfig, "lora": LoraConfig, "optimizer": OptimizerConfig}
    sections: dict[str, dict[str, Any]] = {name: {} for name in ("", *kinds)}
    for option, value in given.items():
        section, _, field = FIELDS[option].rpartition(".")
        sections[section][field] = value
    tables = {name: kind(**sections[name]) for name, kind in kinds.items()}
    return replace(TrainConfig(), **sections[""], **tables)


def _resumed(run: Any, given: dict[str, Any]) -> TrainConfig:
    """The plan of a run; options that say otherwise are refused."""
    from dataclasses import replace

    stored = run.config
    for option, value in given.items():
        section, _, field = FIELDS[option].rpartition(".")
        was = getattr(getattr(stored, section) if section else stored, field)
        same = value == was or value == "auto"
        if option in ("train_file", "eval_file"):
            same = tuple(str(Path(path).resolve()) for path in value) == was
        elif option == "model":
            same = value == was or str(Path(value).resolve()) == was
        if not same and option not in CHANGEABLE:
            name = "--" + option.replace("_", "-")
            raise RunError(
                f"{name} {value}: {run.path} was started with {was!r}; leave {name} out to go on, "
                f"or start a new run"
            )
    changes = {name: given[name] for name in CHANGEABLE & set(given)}
    return replace(stored, **changes)


def show_preflight(session: Session) -> None:
    """Show what is about to be trained: an example with its targets, counts, memory."""
    from speakeasy.batches.preview import pieces, to_text
    from speakeasy.batches.templates import ensure_chat_template
    from speakeasy.training.preflight import gigabytes

    template = ensure_chat_template(session.tokenizer)
    if template.is_default:
        say(f"chat template: {template.reason}")
    sides = {"training": session.prepared.train, "held out": session.prepared.held_out}
    example = sides["training"].items[0]
    say(f"first training conversation ({example.id}); ⟦ ⟧ marks what is learned:")
    console().print(to_text(pieces(session.tokenizer, example)), soft_wrap=True)
    for name, side in sides.items():
        say(
            f"{name}: {len(side.items):,} conversations, {side.tokens:,} tokens, "
            f"{side.targets:,} targets; {side.shortened:,} shortened, "
            f"{len(side.rejected):,} left out"
        )
        for rejected in side.rejected[:5]:
            say(f"  left out: {rejected.origin or rejected.id}: {rejected.reason}")
    if session.prepared.overlap:
        say(
            f"warning: {session.prepared.overlap:,} held-out conversations are also trained on; "
            f"their figures say nothing (speakeasy data split keeps them apart)"
        )
    lora, placement = session.config.lora, session.placement
    share = session.trainable_parameters / session.shape.parameter_count
    say(
        f"adapter: rank {lora.r}, scale {lora.scale:g}, {len(session.layers)} layers, "
        f"{session.trainable_parameters:,} trainable parameters ({share:.1%} of the model)"
    )
    checkpointing = ", activations recomputed" if placement.gradient_checkpointing else ""
    say(
        f"memory: about {gigabytes(placement.estimate.total)} of "
        f"{gigabytes(session.device.memory)} free; {session.config.precision}, "
        f"{placement.rows_per_pass} rows at a time{checkpointing}"
    )


def _dry_run_record(session: Session) -> dict[str, Any]:
    import dataclasses

    from speakeasy.config import to_dict

    return {
        "backend": session.selection.name,
        "reason": session.selection.reason,
        "plan": to_dict(session.config),
        "trainable_parameters": session.trainable_parameters,
        "train_conversations": len(session.prepared.train.items),
        "eval_conversations": len(session.prepared.held_out.items),
        "tokens": session.prepared.train.tokens,
        "target_tokens": session.prepared.train.targets,
        "rows_per_pass": session.placement.rows_per_pass,
        "estimated_memory_bytes": session.placement.estimate.total,
        "estimated_memory": dataclasses.asdict(session.placement.estimate),
        "available_memory_bytes": session.device.memory,
    }


def _report(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit(summary)
        return
    from speakeasy.cli.summary import summary_table

    console().print(summary_table(summary))
    if summary["eval_bits_per_byte"] >= summary["eval_bits_per_byte_before"]:
        say("warning: the held-out figures are no better than before training")
    say(f"adapter: {summary['adapter']}")
    say(f"talk with it: speakeasy chat --run {shlex.quote(summary['run'])}")
