"""``speakeasy pretrain``: continued pre-training on raw text, to a new model directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from speakeasy.cli.common import command, json_option, model_option
from speakeasy.cli.training import carry_out
from speakeasy.cli.training_options import (
    JOB_FIELDS,
    LORA_OPTIONS,
    PRETRAIN_FIELDS,
    amount_options,
    given,
    job_options,
    paths_option,
    run_options,
)
from speakeasy.errors import UsageError

FULL_RATE = 1e-4
"""Learning rate of ``--train full`` where none is given: a tenth of an adapter's."""


@command()
@model_option("starter, a directory, or a name on the Hub.  [default: starter]")
@paths_option(
    "--corpus-path",
    help="Text: a corpus that 'speakeasy corpus build' made, a .txt or .jsonl file, or a "
    "directory of them; may be given several times.  [default: the packaged texts in Catalan and "
    "in the Spanish of Catalonia]",
)
@paths_option("--eval-path", help="Held-out text.  [default: a seeded share of --corpus-path]")
@click.option(
    "--holdout",
    type=float,
    help="Share of documents held out where there is no --eval-path.  [default: 0.05]",
)
@click.option(
    "--train",
    type=click.Choice(["rows", "rows+lora", "full"]),
    help="What is trained: the rows of a vocabulary's added entries, these and an adapter that is "
    "merged at the end, or every weight.  [default: rows+lora]",
)
@click.option(
    "--fit-rows",
    type=int,
    metavar="TOKENS",
    help="Before the first step, fit the rows of new entries to what the model predicts on so much "
    "of the text in its old tokens; 0 leaves them as 'vocab expand' made them.  [default: 40000]",
)
@click.option(
    "--replay",
    type=float,
    help="Share of the training tokens that is neutral text, so that the new entries do not "
    "grow too likely and nothing is forgotten.  [default: 0.2]",
)
@paths_option("--replay-path", help="The neutral text.  [default: packaged plain Spanish]")
@click.option("--max-length", type=int, help="Tokens of a packed row.  [default: 1024]")
@amount_options(epochs=1)
@job_options
@run_options
@json_option
@click.pass_context
def pretrain(
    context: click.Context,
    output_dir: Path | None,
    resume: bool,
    dry_run: bool,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Go on pre-training a model on raw text.

    For a model whose vocabulary 'speakeasy vocab expand' has enlarged: its new entries are
    learned from running text before 'speakeasy train' adapts it to conversations. The output is a
    complete model directory in Hugging Face format; rows that were not trained are the base's,
    bit for bit.

    \b
    Examples:
      speakeasy pretrain --model models/expanded --output-dir models/pretrained
      speakeasy pretrain --model models/expanded --corpus-path data/corpus \\
          --train rows --output-dir models/pretrained
      speakeasy pretrain --resume --output-dir models/pretrained
    """
    from dataclasses import replace

    from speakeasy.config import OptimizerConfig, PretrainConfig

    chosen = given(context, options)
    unread = LORA_OPTIONS & set(chosen)
    if chosen.get("train") in ("rows", "full") and unread:
        name = "--" + min(unread).replace("_", "-")
        raise UsageError(
            f"{name}: --train {chosen['train']} trains no adapter; leave {name} out, or give "
            "--train rows+lora"
        )
    if chosen.get("train") == "full" and chosen.get("fit_rows"):
        raise UsageError(
            "--fit-rows: --train full has no rows of its own to fit; leave it out, or give "
            "--train rows+lora"
        )
    default = PretrainConfig()
    if chosen.get("train") == "full":
        default = replace(default, optimizer=OptimizerConfig(learning_rate=FULL_RATE))
    carry_out(
        default,
        chosen,
        {**JOB_FIELDS, **PRETRAIN_FIELDS},
        output_dir,
        resume=resume,
        dry_run=dry_run,
        force=force,
        as_json=as_json,
    )
