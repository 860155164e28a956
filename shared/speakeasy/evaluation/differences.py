"""Pairs of models, figure by figure: how far apart, how sure, and which side is the better.

Both models have scored the same texts and answered the same prompts, so these are drawn together
(``intervals.paired_difference``): what makes a text hard for both cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

from speakeasy.evaluation.intervals import Difference, Statistic, paired_difference, ratio
from speakeasy.evaluation.measures import AnswerTable, differences
from speakeasy.evaluation.metric_kinds import METRICS
from speakeasy.evaluation.result import Evaluation, Score
from speakeasy.training.run import Record

UNDECIDED = "not distinguishable"
UNCOMPARABLE = "not comparable"
NO_SIDE = "no better side"
"""For figures of which neither more nor less is better by itself."""

_SETS = {
    "eval_bits_per_byte": "conversations",
    "regional_bits_per_byte": "regional",
    "neutral_es_bits_per_byte": "neutral_es",
    "neutral_ca_bits_per_byte": "neutral_ca",
}


def _bits_per_byte(scores: Sequence[Score]) -> Statistic:
    return ratio([score.nats / math.log(2) for score in scores], [score.bytes for score in scores])


def _loss(scores: Sequence[Score]) -> Statistic:
    return ratio([score.nats for score in scores], [score.tokens for score in scores])


def answer_table(evaluation: Evaluation) -> AnswerTable:
    """The measures of an evaluation's answers, to be drawn from."""
    answers = evaluation.record["answers"]
    return AnswerTable(
        evaluation.answers,
        categories=answers["categories"],
        human_density=answers["human"]["marker_density"],
    )


def pairs(named: Sequence[tuple[str, Evaluation]]) -> Iterator[Record]:
    """Every pair of models and every figure that is sampled, as ``comparison.json`` has them.

    ``difference`` is ``a`` less ``b``.

    Args:
        named: evaluations with the names that the comparison has for them.
    """
    tables = {name: answer_table(found) for name, found in named}
    for (a, one), (b, other) in combinations(named, 2):
        found = dict(_of_texts(one, other))
        if _asked_the_same(one, other):
            found |= differences(tables[a], tables[b])
        else:
            found |= dict.fromkeys(tables[a].values())
        for metric, difference in found.items():
            yield _pair(a, b, metric, difference)


def _of_texts(one: Evaluation, other: Evaluation) -> Iterator[tuple[str, Difference | None]]:
    for metric, name in _SETS.items():
        yield metric, _paired(one, other, name, _bits_per_byte)
    same = one.record["model"]["tokenizer_fingerprint"]
    comparable = same == other.record["model"]["tokenizer_fingerprint"]
    yield "eval_loss", _paired(one, other, "conversations", _loss) if comparable else None


def _paired(
    one: Evaluation, other: Evaluation, name: str, statistic: Callable[[Sequence[Score]], Statistic]
) -> Difference | None:
    """Over the texts that both have scored; None where their sets are not the same."""
    if one.sets[name]["fingerprint"] != other.sets[name]["fingerprint"]:
        return None
    mine, yours = one.scores_of(name), other.scores_of(name)
    shared = sorted(mine.keys() & yours.keys())
    a, b = ([scores[item] for item in shared] for scores in (mine, yours))
    return paired_difference(statistic(a), statistic(b), len(shared)) if shared else None


def _asked_the_same(one: Evaluation, other: Evaluation) -> bool:
    keys = ("prompts_fingerprint", "lexicon_fingerprint")
    mine, yours = one.record["answers"], other.record["answers"]
    return all(mine[key] == yours[key] for key in keys)


def _pair(a: str, b: str, metric: str, difference: Difference | None) -> Record:
    return {
        "a": a,
        "b": b,
        "metric": metric,
        "difference": None if difference is None else difference.value,
        "interval": None if difference is None else difference.interval,
        "verdict": _verdict(metric, difference),
    }


def _verdict(metric: str, difference: Difference | None) -> str:
    if difference is None:
        return UNCOMPARABLE
    if METRICS[metric].better not in ("lower", "higher"):
        return NO_SIDE
    if not difference.distinguishable:
        return UNDECIDED
    return "a" if (difference.value < 0) == (METRICS[metric].better == "lower") else "b"
