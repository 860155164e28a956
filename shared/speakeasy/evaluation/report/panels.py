"""Which plots a report has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from speakeasy.evaluation.metric_kinds import METRICS
from speakeasy.evaluation.report.plots import Curve, Dot, curves, dots
from speakeasy.evaluation.tables import figure_text, human, variety_of
from speakeasy.training.run import Record

INTERVALS = (
    "eval_bits_per_byte",
    "neutral_es_bits_per_byte",
    "marker_density",
    "coverage",
    "control_plain",
    "catalan_drift",
    "distinct_2",
    "repetition",
)
"""The figures whose intervals are drawn."""
FERTILITY = ("tokens_per_regional_word", "tokens_per_word_es", "tokens_per_word_ca")
_KINDS = {"pretrain": "Pre-training, on held-out text", "train": "LoRA, on held-out conversations"}


@dataclass(frozen=True, slots=True)
class Panel:
    """A plot of the page.

    Attributes:
        caption: what it shows.
        hint: its unit, or which way is better.
        svg: the element.
    """

    caption: str
    hint: str
    svg: str


def interval_panels(comparison: Record, names: Sequence[str] = INTERVALS) -> tuple[Panel, ...]:
    """A panel a figure: a dot and a whisker for each run that has it, and what people do."""
    return tuple(_dot_panels(comparison, names))


def curve_panels(comparison: Record) -> tuple[Panel, ...]:
    """A panel for pre-training and one for LoRA: bits per byte over what has been read."""
    return tuple(_curve_panels(comparison))


def fertility_panels(comparison: Record) -> tuple[Panel, ...]:
    """A panel a kind of words: tokens per word, before the tokenizer was expanded and after."""
    return interval_panels(comparison, FERTILITY)


def _dot_panels(comparison: Record, names: Sequence[str]) -> Iterator[Panel]:
    people = human(comparison)
    for name in names:
        kind = METRICS[name]
        scale = 100 if kind.unit == "share" else 1
        listed = []
        for number, run in enumerate(comparison["runs"]):
            found = run["metrics"][name]
            if found["value"] is not None:
                low_high = found["interval"]
                ends = None if low_high is None else (scale * low_high[0], scale * low_high[1])
                text = figure_text(name, found["value"])
                listed.append(Dot(run["name"], number, scale * found["value"], text, ends))
        target = people.get(name) if kind.better == "near" else None
        mark = None if target is None else ("people", scale * target)
        if listed:
            yield Panel(
                kind.label_for(variety_of(comparison)),
                {"share": "%", "tokens/word": ""}.get(kind.unit, kind.unit),
                dots(f"dots-{name}", listed, mark),
            )


def _curve_panels(comparison: Record) -> Iterator[Panel]:
    for kind, caption in _KINDS.items():
        # The same run may stand behind several of what is compared.
        lines: dict[tuple[tuple[float, float], ...], Curve] = {}
        for number, run in enumerate(comparison["runs"]):
            for part in run["lineage"]:
                points = tuple((seen / 1e6, bits) for seen, bits in part["curve"])
                if part["kind"] == kind and points:
                    lines.setdefault(points, Curve(run["name"], number, points))
        if lines:
            svg = curves(f"curve-{kind}", list(lines.values()), "MB of text read", "bits per byte")
            yield Panel(caption, "lower is better", svg)
