"""The metrics of ``evaluation.json``: every figure of ``METRICS`` with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from speakeasy.evaluation.intervals import Interval, percentile_interval, ratio
from speakeasy.evaluation.measures import AnswerTable
from speakeasy.evaluation.metric_kinds import METRICS
from speakeasy.evaluation.result import Score
from speakeasy.evaluation.scoring import total
from speakeasy.training.run import Record

_BITS_PER_BYTE = {
    "eval_bits_per_byte": "conversations",
    "regional_bits_per_byte": "regional",
    "neutral_es_bits_per_byte": "neutral_es",
    "neutral_ca_bits_per_byte": "neutral_ca",
}
_FERTILITY = {
    "tokens_per_regional_word": "regional",
    "tokens_per_word_es": "es",
    "tokens_per_word_ca": "ca",
}

Figure = tuple[float | None, Interval | None, int]
"""Value, interval, and how many samples it rests on."""


def metrics(
    lineage: Sequence[Record],
    model_bytes: int,
    scores: Mapping[str, Sequence[Score]],
    fertility: Mapping[str, Record],
    answers: AnswerTable,
) -> dict[str, dict[str, Any]]:
    """Every figure of ``METRICS``, in that order.

    Args:
        lineage: ``lineage.run_record`` of each run behind the model; of none, what training took
            is unknown.
        model_bytes: weights on disk.
        scores: by set, one a text.
        fertility: of ``fertility.fertility``: of regional words, and of running es and ca.
        answers: with their measures.
    """
    found: dict[str, Figure] = {
        "training_seconds": (_sum_of(lineage, "seconds"), None, len(lineage)),
        "peak_memory_bytes": (_most_of(lineage, "peak_memory_bytes"), None, len(lineage)),
        "model_bytes": (model_bytes, None, 1),
        "eval_loss": eval_loss(scores["conversations"]),
        "word_perplexity": word_perplexity(scores["conversations"]),
    }
    for name, key in _BITS_PER_BYTE.items():
        found[name] = bits_per_byte(scores[key])
    for name, key in _FERTILITY.items():
        found[name] = (fertility[key]["tokens_per_word"], None, fertility[key]["words"])
    values, intervals, samples = answers.values(), answers.intervals(), answers.samples()
    for name, value in values.items():
        found[name] = (value, intervals[name], samples[name])
    return {name: _entry(name, *found[name]) for name in METRICS}


def _entry(name: str, value: float | None, interval: Interval | None, samples: int) -> Record:
    kind = METRICS[name]
    return {
        "value": value,
        "interval": None if value is None or interval is None else list(interval),
        "better": kind.better,
        "unit": kind.unit,
        "samples": samples,
    }


def _sum_of(lineage: Sequence[Record], key: str) -> float | None:
    return sum(record[key] for record in lineage) if lineage else None


def _most_of(lineage: Sequence[Record], key: str) -> float | None:
    return max((record[key] for record in lineage), default=None)


def bits_per_byte(scores: Sequence[Score]) -> Figure:
    """Bits a UTF-8 byte of all texts together (``HeldOutLoss.bits_per_byte``)."""
    bits = [score.nats / math.log(2) for score in scores]
    statistic = ratio(bits, [score.bytes for score in scores])
    interval = percentile_interval(statistic, len(scores))
    return total(scores).bits_per_byte, interval, len(scores)


def eval_loss(scores: Sequence[Score]) -> Figure:
    """Nats a target token: not comparable between tokenizers."""
    statistic = ratio([score.nats for score in scores], [score.tokens for score in scores])
    return total(scores).loss, percentile_interval(statistic, len(scores)), len(scores)


def word_perplexity(scores: Sequence[Score]) -> Figure:
    """exp(nats a word); None where it is too large for a number, as of a model that knows nothing.

    The exponential keeps order, so the interval is that of the nats a word, exponentiated.
    """
    value = total(scores).word_perplexity
    if not math.isfinite(value):
        return None, None, len(scores)
    statistic = ratio([score.nats for score in scores], [score.words for score in scores])
    interval = percentile_interval(statistic, len(scores))
    if interval is None or interval[1] > _LARGEST_EXPONENT:
        return value, None, len(scores)
    return value, (math.exp(interval[0]), math.exp(interval[1])), len(scores)


_LARGEST_EXPONENT = 700.0
"""exp of more than about 709.78 is no float64 any more."""
