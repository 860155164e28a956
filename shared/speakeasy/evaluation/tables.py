"""The figures of a comparison as rows of words, the same in the terminal, in Markdown and in HTML.

The guide's own table comes first, in its order and its words; the other figures follow in groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from speakeasy.dialect.variety import Variety
from speakeasy.evaluation.differences import UNCOMPARABLE
from speakeasy.evaluation.metric_kinds import METRICS
from speakeasy.training.run import Record

GUIDE = (
    "training_seconds",
    "eval_loss",
    "tokens_per_regional_word",
    "peak_memory_bytes",
    "model_bytes",
)
"""The guide's table."""
GROUPS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "How well texts are predicted": (
            "eval_bits_per_byte",
            "word_perplexity",
            "regional_bits_per_byte",
            "neutral_es_bits_per_byte",
            "neutral_ca_bits_per_byte",
        ),
        "Tokens per word": ("tokens_per_word_es", "tokens_per_word_ca"),
        "Dialect": (
            "marker_density",
            "marker_density_error",
            "coverage",
            "expected",
            "control_plain",
            "anti_density",
        ),
        "Two languages": ("code_mixing", "switch_rate", "catalan_drift"),
        "Variety, repetition, copying": (
            "distinct_1",
            "distinct_2",
            "repetition",
            "loops",
            "prompt_overlap",
            "truncated",
            "overlap_13gram",
            "words_per_answer",
        ),
    }
)
"""The other figures: heading -> names."""
NONE = "–"
"""Stands where a figure cannot be had."""
_DECIDED_BY = {"word_perplexity": "eval_bits_per_byte"}
"""Figures without pairs of their own, and that which is of the same texts."""
_DECIMALS = {
    "bits/byte": 3,
    "nats/token": 3,
    "tokens/word": 2,
    "weight/100 words": 2,
    "marks/100 words": 2,
    "0..100": 1,
    "words": 1,
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of one model.

    Attributes:
        text: the value; ``NONE`` where there is none.
        interval: its 95% interval in brackets, or empty.
    """

    text: str
    interval: str

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".rstrip()


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of all models.

    Attributes:
        name: of ``METRICS``.
        label: for people.
        cells: one a model, in the order of the comparison.
        aim: which way is better, in words; empty where neither is.
        note: what must be known to read it; empty for nothing.
    """

    name: str
    label: str
    cells: tuple[Cell, ...]
    aim: str
    note: str


def guide_rows(comparison: Record) -> list[Row]:
    """The guide's table."""
    return [_row(comparison, name) for name in GUIDE]


def grouped_rows(comparison: Record) -> Iterator[tuple[str, list[Row]]]:
    """The other figures, heading by heading; those that no model has are left out."""
    for heading, names in GROUPS.items():
        rows = [_row(comparison, name) for name in names]
        if rows := [row for row in rows if any(cell.text != NONE for cell in row.cells)]:
            yield heading, rows


def _row(comparison: Record, name: str) -> Row:
    kind = METRICS[name]
    return Row(
        name,
        kind.label_for(variety_of(comparison)),
        tuple(_cell(name, run["metrics"][name]) for run in comparison["runs"]),
        _aim(comparison, name),
        _note(comparison, name),
    )


def _cell(name: str, metric: Record) -> Cell:
    if metric["value"] is None:
        return Cell(NONE, "")
    return Cell(figure_text(name, metric["value"]), interval_text(name, metric["interval"]))


def _aim(comparison: Record, name: str) -> str:
    better = METRICS[name].better
    said = human(comparison).get(name)
    if better == "near":
        return "near to people" + ("" if said is None else f": {figure_text(name, said)}")
    return "" if better is None else f"{better} is better"


def _note(comparison: Record, name: str) -> str:
    barred = any(
        pair["metric"] == _DECIDED_BY.get(name, name) and pair["verdict"] == UNCOMPARABLE
        for pair in comparison["pairs"]
    )
    if not barred:
        return ""
    tokenizers = {run["model"]["tokenizer_fingerprint"] for run in comparison["runs"]}
    if name == "eval_loss" and len(tokenizers) > 1:
        return "not comparable across tokenizers"
    return UNCOMPARABLE


def variety_of(comparison: Record) -> Variety:
    """The variety that the answers were measured for."""
    return Variety(**comparison["runs"][0]["variety"])


def human(comparison: Record) -> Mapping[str, float | None]:
    """The measures of the held-out answers that people wrote."""
    return comparison["runs"][0]["answers"]["human"]


def figure_text(name: str, value: float) -> str:
    """A figure as people read it: ``12 min 3 s``, ``1.9 GB``, ``34.5%``, ``2.163``."""
    unit = METRICS[name].unit
    if unit == "seconds":
        return duration(value)
    if unit == "bytes":
        return data_size(value)
    if unit == "share":
        return f"{value:.1%}".replace("-", "−")
    decimals = 0 if abs(value) >= 1_000 else _DECIMALS.get(unit, 1)
    return f"{value:,.{decimals}f}".replace("-", "−")


def interval_text(name: str, interval: Sequence[float] | None) -> str:
    """``[2.100, 2.220]``; empty without one."""
    if interval is None:
        return ""
    return f"[{', '.join(figure_text(name, end) for end in interval)}]"


def duration(seconds: float) -> str:
    """Seconds as people say them: the two largest units."""
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if hours:
        return f"{hours:,} h {minutes % 60} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def data_size(count: float) -> str:
    """Bytes as people say them."""
    for least, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= least:
            return f"{count / least:,.1f} {unit}"
    return f"{count:,.0f} bytes"


def spoken(name: str) -> str:
    """The name of a set as people say it: ``neutral es``."""
    return name.replace("_", " ")
