"""``speakeasy train``: LoRA on conversations, from files to a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from speakeasy.cli.common import command, json_option, model_option
from speakeasy.cli.training import carry_out
from speakeasy.cli.training_options import (
    JOB_FIELDS,
    TRAIN_FIELDS,
    amount_options,
    given,
    job_options,
    paths_option,
    run_options,
)


@command()
@model_option("starter, a directory, or a name on the Hub.  [default: starter]")
@paths_option(
    "--train-file",
    help="Conversations: a file or a directory; may be given several times.  "
    "[default: the packaged starter conversations]",
)
@paths_option(
    "--eval-file", help="Held-out conversations.  [default: a seeded share of --train-file]"
)
@click.option("--format", help="Reader of the files.  [default: found by looking]")
@click.option(
    "--holdout", type=float, help="Share held out where there is no --eval-file.  [default: 0.05]"
)
@click.option("--max-train", type=int, help="Use only so many conversations.  [default: all]")
@click.option("--max-eval", type=int, help="Score only so many.  [default: all]")
@click.option(
    "--max-length",
    type=int,
    help="Tokens of a packed row, and of the longest conversation.  [default: 1024]",
)
@click.option(
    "--train-rows",
    type=click.Choice(["auto", "new"]),
    help="Embedding rows trained beside the adapter: those of chat tokens that the base never "
    "saw (auto), or those of a vocabulary's added entries too (new).  [default: auto]",
)
@amount_options(epochs=3)
@job_options
@run_options
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
    from speakeasy.config import TrainConfig

    carry_out(
        TrainConfig(),
        given(context, options),
        {**JOB_FIELDS, **TRAIN_FIELDS},
        output_dir,
        resume=resume,
        dry_run=dry_run,
        force=force,
        as_json=as_json,
    )
