"""Which automatic figures go with what people say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from speakeasy.evaluation.intervals import Floats
from speakeasy.rating.ballots import Ballot

_DRAWS = 500
LEAST_ITEMS = 5
LEAST_SYSTEMS = 4
"""With fewer models a rank correlation over them says nothing."""

Measures = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman's rank correlation of a figure with people's preference.

    Attributes:
        rho: -1 to 1; None where it cannot be had.
        interval: 95%, prompts drawn again; None likewise, and over systems.
        count: items, or systems.
    """

    name: str
    rho: float | None
    interval: tuple[float, float] | None
    count: int


def over_items(
    ballots: Sequence[Ballot],
    owners: Sequence[tuple[int | None, int | None]],
    measures: Mapping[int, tuple[Measures, Measures]],
    *,
    seed: int = 0,
) -> list[Correlation]:
    """Does the answer of a pair that measures higher win?

    Args:
        owners: whose an item's first and second answer are.
        measures: of an item's first and second answer, by item.
    """
    people: dict[int, list[float]] = {}
    prompt_of: dict[int, str] = {}
    for ballot in ballots:
        if ballot.real and ballot.item in measures:
            first_left = ballot.left == owners[ballot.item][0]
            won = {"left": 1.0, "right": -1.0}.get(ballot.choice, 0.0)
            people.setdefault(ballot.item, []).append(won if first_left else -won)
            prompt_of[ballot.item] = ballot.prompt
    names = dict.fromkeys(name for item in people for name in measures[item][0])
    return [_of_items(name, people, prompt_of, measures, seed) for name in names]


def over_systems(scores: Sequence[float | None], metrics: Sequence[Measures]) -> list[Correlation]:
    """Do models with a higher figure have a higher score? None with fewer than four models."""
    names = dict.fromkeys(name for each in metrics for name in each)
    found = []
    for name in names:
        pairs = [
            (score, value)
            for score, each in zip(scores, metrics, strict=True)
            if score is not None and (value := each.get(name)) is not None
        ]
        rho = None
        if len(pairs) >= LEAST_SYSTEMS:
            rho = _spearman(np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs]))
        found.append(Correlation(name, rho, None, len(pairs)))
    return found


def _of_items(
    name: str,
    people: Mapping[int, Sequence[float]],
    prompt_of: Mapping[int, str],
    measures: Mapping[int, tuple[Measures, Measures]],
    seed: int,
) -> Correlation:
    rows: dict[str, list[tuple[float, float]]] = {}
    for item, votes in people.items():
        first, second = (each.get(name) for each in measures[item])
        if first is not None and second is not None:
            rows.setdefault(prompt_of[item], []).append((float(np.mean(votes)), first - second))
    count = sum(map(len, rows.values()))
    if count < LEAST_ITEMS:
        return Correlation(name, None, None, count)
    groups = [np.array(row) for row in rows.values()]
    rho = _spearman(*np.concatenate(groups).T)
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(_DRAWS if rho is not None else 0):
        chosen = generator.integers(0, len(groups), len(groups))
        found = _spearman(*np.concatenate([groups[n] for n in chosen]).T)
        if found is not None:
            drawn.append(found)
    ends = np.quantile(drawn, [0.025, 0.975]) if len(drawn) > _DRAWS // 2 else None
    interval = None if ends is None else (float(ends[0]), float(ends[1]))
    return Correlation(name, rho, interval, count)


def _spearman(first: Floats, second: Floats) -> float | None:
    from scipy.stats import rankdata

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    ranks = rankdata(first), rankdata(second)
    return float(np.corrcoef(*ranks)[0, 1])
