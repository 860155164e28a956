"""What ``train`` and ``pretrain`` share: from a plan to a finished run, and what is shown of it."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speakeasy.cli.common import console, emit, progress, say
from speakeasy.cli.processes import together
from speakeasy.cli.resuming import resumed_on_this_machine, resumed_plan
from speakeasy.cli.training_options import Fields, plan_of
from speakeasy.errors import RunError, UsageError

if TYPE_CHECKING:
    from speakeasy.batches.types import RenderedSet
    from speakeasy.training.opening import Opened
    from speakeasy.training.run import Run
    from speakeasy.training.session import Session


def carry_out(
    default: Any,
    options: dict[str, Any],
    fields: Fields,
    output_dir: Path | None,
    *,
    resume: bool,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Plan, show, train and report; as one of several processes, if a launcher started them.

    Args:
        default: the plan where no option says otherwise; its type is the command's.
        options: those that were given.
    """
    from speakeasy.training import session as sessions
    from speakeasy.training.agreement import agreed, shared_plan
    from speakeasy.training.opening import open_engine
    from speakeasy.training.planning import plan
    from speakeasy.training.resume import check_same
    from speakeasy.training.run import Run
    from speakeasy.training.silent_run import SilentRun
    from speakeasy.vocab.progress import no_bar

    if output_dir is None and (resume or not dry_run):
        raise UsageError("--output-dir: missing; name a new directory for the run")
    with together(as_json) as (group, line):
        leads = group.rank == 0
        tell, bar = (say, progress) if leads else (lambda text: None, no_bar)
        run = config = selection = None
        if leads and resume:
            assert output_dir is not None
            run = _unfinished(output_dir, default, options, fields, as_json)
            if run is not None:
                config, selection = resumed_on_this_machine(run, options, fields)
        elif leads:
            config = plan_of(default, options, fields)
            if output_dir is not None and not dry_run:
                Run.check_free(output_dir)
        config = shared_plan(group, config, type(default))
        if config is None:
            return
        session = agreed(
            group,
            lambda: plan(config, selection=selection, group=group, force=force, say=tell, bar=bar),
        )
        if leads:
            show_preflight(session)
        if dry_run:
            if run is not None:
                check_same(run, sessions.environment(session))
            if as_json and leads:
                emit(_dry_run_record(session))
            return
        assert output_dir is not None
        opened = open_engine(session, run, say=tell, bar=bar)
        if not leads:
            run = SilentRun(output_dir)
        elif run is None:
            run = Run.create(output_dir, session.config, sessions.environment(session))
        line.advice = run.advice
        summary = _train(session, run, opened)
        if leads:
            report(summary, as_json)


def _unfinished(
    output_dir: Path, default: Any, options: dict[str, Any], fields: Fields, as_json: bool
) -> Run | None:
    """The run to go on with; None if it has finished, after a report."""
    from speakeasy.training.run import Run

    run = Run.open(output_dir)
    if type(run.config) is not type(default):
        raise RunError(f"{output_dir}: another command's run; go on with: {run.resume_command}")
    if (summary := run.summary) is None:
        return run
    resumed_plan(run, options, fields)  # options that contradict it are still refused
    say(f"{output_dir}: this run has finished already")
    report(summary, as_json)
    return None


def _train(session: Session, run: Run, opened: Opened) -> dict[str, Any]:
    from speakeasy.cli.watch import Watchers, for_this_output
    from speakeasy.training import session as sessions
    from speakeasy.training.trackers import open_trackers

    if session.group.rank:
        return sessions.train(session, run, opened, Watchers())
    with (
        open_trackers(session.config.report_to, run) as trackers,
        for_this_output() as watcher,
    ):
        return sessions.train(session, run, opened, Watchers(watcher, *trackers))


def show_preflight(session: Session) -> None:
    """Show what is about to be trained: an example with its targets, counts, memory."""
    from speakeasy.config import TrainConfig
    from speakeasy.training.preflight import gigabytes

    sides = {"training": session.prepared.train, "held out": session.prepared.held_out}
    if isinstance(session.config, TrainConfig):
        _show_conversations(session, sides)
    else:
        _show_text(session, sides)
    lora, placement = session.config.lora, session.placement
    share = session.trainable_parameters / session.shape.parameter_count
    adapter = (
        f"adapter: rank {lora.r}, scale {lora.scale:g}, {len(session.layers)} layers, "
        if session.layers
        else ""
    )
    say(
        f"{adapter}{session.trainable_parameters:,} trainable parameters ({share:.1%} of the model)"
    )
    checkpointing = ", activations recomputed" if placement.gradient_checkpointing else ""
    divided = f", blocks divided by {session.group.size}" if session.config.fsdp else ""
    compiled = ", blocks compiled" if session.config.compile else ""
    say(
        f"memory: about {gigabytes(placement.estimate.total)} of "
        f"{gigabytes(session.device.memory)} free; {session.config.precision}, "
        f"{placement.rows_per_pass} rows at a time{checkpointing}{divided}{compiled}"
    )
    rows, size = session.config.rows_per_step, session.group.size
    if rows < size:
        say(
            f"warning: {rows} rows a step for {size} processes, so that some have nothing to do; "
            "raise --batch-size or --grad-accumulation, or start fewer"
        )


def _show_conversations(session: Session, sides: dict[str, RenderedSet]) -> None:
    from speakeasy.batches.preview import pieces, to_text
    from speakeasy.batches.templates import ensure_chat_template

    template = ensure_chat_template(session.tokenizer)
    if template.is_default:
        say(f"chat template: {template.reason}")
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


def _show_text(session: Session, sides: dict[str, RenderedSet]) -> None:
    example = sides["training"].items[0].tokens_T[:80].tolist()
    say("the first training text begins:")
    say(f"  {session.tokenizer.decode(example, clean_up_tokenization_spaces=False)} …")
    for name, side in sides.items():
        say(f"{name}: {len(side.items):,} pieces of documents, {side.tokens:,} tokens")
    say(f"neutral text, held out too: {len(session.prepared.neutral):,} pieces")


def _dry_run_record(session: Session) -> dict[str, Any]:
    from speakeasy.plan_files import to_dict

    return {
        "backend": session.selection.name,
        "reason": session.selection.reason,
        "plan": to_dict(session.config),
        "trainable_parameters": session.trainable_parameters,
        "trained_rows": 0 if session.rows is None else len(session.rows.ids),
        **session.counts,
        "tokens": session.prepared.train.tokens,
        "target_tokens": session.prepared.train.targets,
        "rows_per_pass": session.placement.rows_per_pass,
        "estimated_memory_bytes": session.placement.estimate.total,
        "estimated_memory": dataclasses.asdict(session.placement.estimate),
        "available_memory_bytes": session.device.memory,
    }


def report(summary: dict[str, Any], as_json: bool) -> None:
    """Show the final figures, and what can be done next."""
    if as_json:
        emit(summary)
        return
    from speakeasy.cli.summary import summary_table

    console().print(summary_table(summary))
    if summary["eval_bits_per_byte"] >= summary["eval_bits_per_byte_before"]:
        say("warning: the held-out figures are no better than before training")
    if model := summary.get("model_directory"):
        say(f"model: {model}")
        say(f"adapt it to conversations: speakeasy train --model {shlex.quote(model)}")
        return
    say(f"adapter: {summary['adapter']}")
    say(f"talk with it: speakeasy chat --run {shlex.quote(summary['run'])}")
