"""A run's final figures as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def summary_table(summary: dict[str, Any]) -> Table:
    """Held-out figures before and after, and what the run took."""
    from rich.table import Table
    from rich.text import Text

    from speakeasy.training.preflight import gigabytes

    title = f"{summary['run']}: {summary['steps']} steps on {summary['device']}"
    table = Table(title=Text(title))
    table.add_column("")
    for name in ("before", "after"):
        table.add_column(name, justify="right")
    for label, name in (
        ("held out: bits per byte", "eval_bits_per_byte"),
        ("held out: loss per token", "eval_loss"),
        ("held out: perplexity per word", "eval_word_perplexity"),
    ):
        before, after = summary[f"{name}_before"], summary[name]
        table.add_row(label, _figure(before), _figure(after))
    if summary.get("measured_on") and summary["quantization"] is not None:
        table.caption = Text(f"Held-out figures: {summary['measured_on']}.")
    table.add_section()
    for part in summary.get("parts", []):
        steps = f"steps {part['first_step']} to {part['last_step']}"
        table.add_row(steps, "", f"{part['backend']} on {part['device']}")
    for label, value in (
        ("training time", f"{summary['seconds']:,.0f} s"),
        ("tokens", f"{summary['tokens']:,}"),
        ("tokens per second", f"{summary['tokens_per_second']:,.0f}"),
        ("peak memory", gigabytes(summary["peak_memory_bytes"])),
        ("trainable parameters", f"{summary['trainable_parameters']:,}"),
    ):
        table.add_row(label, "", value)
    return table


def _figure(value: float | None) -> str:
    return "too large" if value is None else f"{value:,.3f}"
