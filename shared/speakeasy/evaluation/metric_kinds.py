"""Every figure of an evaluation: its name, what people call it, its unit, which way is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from speakeasy.dialect.variety import Variety

Better = Literal["lower", "higher", "near"]


@dataclass(frozen=True, slots=True)
class MetricKind:
    """What a figure is. ``docs/metrics.md`` has the formulas.

    Attributes:
        label: for people; ``{matrix}`` and ``{contact}`` stand for the variety's language codes.
        unit: of the value; ``share`` is 0 to 1.
        better: ``near`` is near to what people do; None where neither way is.
    """

    label: str
    unit: str
    better: Better | None

    def label_for(self, variety: Variety) -> str:
        """The label with the variety's languages in it."""
        return self.label.format(matrix=variety.matrix, contact=variety.contact or "none")


METRICS: Mapping[str, MetricKind] = MappingProxyType(
    {
        "training_seconds": MetricKind("Training time", "seconds", "lower"),
        "eval_loss": MetricKind("Final eval loss", "nats/token", "lower"),
        "eval_bits_per_byte": MetricKind("Bits per byte, conversations", "bits/byte", "lower"),
        "word_perplexity": MetricKind("Word perplexity, conversations", "", "lower"),
        "tokens_per_regional_word": MetricKind("Tokens per regional word", "tokens/word", "lower"),
        "tokens_per_word_es": MetricKind("Tokens per Spanish word", "tokens/word", "lower"),
        "tokens_per_word_ca": MetricKind("Tokens per Catalan word", "tokens/word", "lower"),
        "peak_memory_bytes": MetricKind("Memory", "bytes", "lower"),
        "model_bytes": MetricKind("Model size", "bytes", "lower"),
        "regional_bits_per_byte": MetricKind("Bits per byte, regional text", "bits/byte", "lower"),
        "neutral_es_bits_per_byte": MetricKind(
            "Bits per byte, neutral Spanish", "bits/byte", "lower"
        ),
        "neutral_ca_bits_per_byte": MetricKind(
            "Bits per byte, neutral Catalan", "bits/byte", "lower"
        ),
        "marker_density": MetricKind("Marker density", "weight/100 words", "near"),
        "marker_density_error": MetricKind(
            "Marker density, distance from people's", "weight/100 words", "lower"
        ),
        "coverage": MetricKind("Lexicon categories used", "share", "higher"),
        "expected": MetricKind("Prompts answered with what they ask for", "share", "higher"),
        "control_plain": MetricKind("Control prompts left plain", "share", "higher"),
        "anti_density": MetricKind("Marks of other varieties", "marks/100 words", "lower"),
        "code_mixing": MetricKind("Code-mixing index, {matrix}/{contact}", "0..100", "near"),
        "switch_rate": MetricKind("Switch rate, {matrix}/{contact}", "share", "near"),
        "catalan_drift": MetricKind("Answers in contact language, {contact}", "share", "lower"),
        "distinct_1": MetricKind("Distinct words", "share", "near"),
        "distinct_2": MetricKind("Distinct word pairs", "share", "near"),
        "repetition": MetricKind("Repeated 4-grams", "share", "lower"),
        "loops": MetricKind("Answers that end in a loop", "share", "lower"),
        "prompt_overlap": MetricKind("Words taken from the prompt", "share", "lower"),
        "truncated": MetricKind("Answers cut off", "share", "lower"),
        "overlap_13gram": MetricKind("13-grams from the training data", "share", "lower"),
        "words_per_answer": MetricKind("Words per answer", "words", "near"),
    }
)
"""All figures, in the order in which they are shown; the first of them are the guide's table."""
