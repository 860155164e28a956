"""``speakeasy doctor``: what would run here, why, and what is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from speakeasy.cli.common import command, emit, json_option, model_option, say

if TYPE_CHECKING:
    from rich.text import Text

Facts = dict[str, Any]
Row = tuple[str, str]
WIDTH = 12
"""Columns of the labels."""


@command()
@model_option("Look at this model too: starter, a directory or a Hub id.")
@click.option(
    "--approach",
    type=click.Choice(["1", "2"]),
    help="Cost this approach alone, with --model: 1 LoRA; 2 vocabulary, pre-training, LoRA.  "
    "[default: both]",
)
@json_option
@click.pass_context
def doctor(context: click.Context, model: str | None, approach: str | None, as_json: bool) -> None:
    """Say what would run here, and what is missing.

    With --model also where that model lies, what it is, and what each approach would take of
    memory, time and disk with the guide's settings: here, and whether it fits the cards of the
    guide's hardware table. A model that is not here yet is fetched. The report goes to the standard
    output. The exit status is 1 where no backend can be used, or the model cannot.
    """
    from speakeasy.errors import UsageError
    from speakeasy.training.diagnosis import diagnose

    if approach and model is None:
        raise UsageError(f"--approach {approach}: needs --model, such as --model starter")
    facts = diagnose(model, (int(approach),) if approach else (1, 2), say)
    if as_json:
        emit(facts)
    else:
        _print(facts)
    if facts["problems"]:
        context.exit(1)


def _print(facts: Facts) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    previous = ""
    for label, value in _rows(facts):
        console.print(_line("" if label == previous else label, value))
        previous = label
    sys.stdout.flush()


def _line(label: str, value: str) -> Text:
    from rich.text import Text

    style = {"problem": "bold red", "advice": "bold yellow"}.get(label, "bold")
    return Text.assemble((label.ljust(WIDTH), style), value)


def _rows(facts: Facts) -> Iterator[Row]:
    from speakeasy.training.preflight import gigabytes

    if facts["backend"] is None:
        yield "backend", "none that can be used"
    else:
        yield "backend", f"{facts['backend']} ({facts['reason']})"
        memory = gigabytes(facts["device_memory_bytes"])
        yield "device", f"{facts['device']}; a plan may use {memory}"
        yield "precision", f"{facts['precision']} ({facts['precision_reason']})"
    free, total = facts["memory_available_bytes"], facts["memory_bytes"]
    yield "memory", f"{gigabytes(free)} free of {gigabytes(total)}"
    yield "disk", f"{gigabytes(facts['disk_free_bytes'])} free for {facts['cache']}"
    for name, state in facts["backends"].items():
        how = "installed" if state["installed"] else f"install it with: {state['install']}"
        yield "backends", f"{name}: {how}"
    versions = dict(facts["versions"])
    yield "speakeasy", f"{versions.pop('speakeasy')}, Python {versions.pop('python')}"
    yield "", facts["platform"]
    yield "packages", ", ".join(f"{name} {version}" for name, version in versions.items())
    if "model" in facts:
        yield from _model_rows(facts)
    for line in facts["problems"]:
        yield "problem", line
    for line in facts["advice"]:
        yield "advice", line


def _model_rows(facts: Facts) -> Iterator[Row]:
    from speakeasy.training.preflight import gigabytes

    model = facts["model"]
    stored = model["quantization"] or model["dtype"]
    yield "model", model["source"]
    yield "directory", facts["model_directory"]
    yield (
        "shape",
        f"{model['architecture']}, {model['parameters']:,} parameters ({stored}, "
        f"{gigabytes(model['bytes_on_disk'])}), {model['layers']} layers of "
        f"{model['hidden_size']:,}, vocabulary {model['vocabulary']:,}, "
        f"context {model['context']:,}",
    )
    if not model["supported"]:
        yield "problem", f"the architecture {model['architecture']} is not supported"
    yield "template", model["chat_template"]
    yield "rope", _rope(model["rope"])
    if training := model["training"]:
        yield (
            "training",
            f"about {gigabytes(training['estimated_memory_bytes'])} with the defaults, "
            f"{training['trainable_parameters']:,} trainable parameters"
            + ("" if training["fits"] else f": {training['verdict']}"),
        )
    for approach in model["approaches"]:
        yield from _approach_rows(approach)


def _approach_rows(approach: Facts) -> Iterator[Row]:
    from speakeasy.training.estimate import UNCERTAINTY
    from speakeasy.training.preflight import gigabytes

    label = f"approach {approach['approach']}"
    yield label, approach["work"]
    if not approach["held"]:
        yield label, "needs the full-precision model: a quantised one has no rows to train"
    for held in approach["held"]:
        precision = held["base"]
        if precision == "full precision":
            precision = held["precision"]
        fits = "fits here" if held["fits"] else "does not fit here"
        cards = ", ".join(_card(card) for card in held["cards"])
        yield (
            label,
            f"{precision}: {gigabytes(held['memory_bytes'])}, {fits}; about "
            f"{_duration(held['seconds'])} here ({UNCERTAINTY}); {gigabytes(held['disk_bytes'])} "
            f"of disk; {cards}",
        )


def _card(card: Facts) -> str:
    from speakeasy.training.preflight import gigabytes

    needed = gigabytes(card["memory_bytes"])
    how = " with gradient checkpointing" if card["gradient_checkpointing"] else ""
    verdict = f"fits, {needed}{how}" if card["fits"] else f"does not fit, {needed}"
    return f"{card['gigabytes']} GB card: {verdict}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.0f} hours"
    return f"{seconds / 86400:.0f} days"


def _rope(rope: Facts) -> str:
    scaling = f", scaling {rope['scaling']['rope_type']}" if rope["scaling"] else ""
    notes = {
        "both": "spelled for transformers and for mlx-lm",
        "rope_parameters": "spelled for transformers 5 alone; speakeasy completes it on loading, "
        "mlx-lm by itself would take theta 10,000",
        "rope_theta": "spelled the old way, which both libraries read",
        "neither": "not in the config: the libraries' default",
    }
    return f"theta {rope['theta']:,.0f}{scaling}; {notes[rope['spelling']]}"
