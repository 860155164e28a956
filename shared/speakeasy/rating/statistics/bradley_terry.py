"""Bradley-Terry scores with a ridge, and with the effects of side and length.

The log-odds that the left answer wins are its model's score less the other's, plus a constant for
the left side, plus a coefficient times the log of the answers' length ratio (Bradley and Terry
1952, https://doi.org/10.2307/2334029; side and length as covariates as in Dubois et al. 2024,
https://arxiv.org/abs/2404.04475). A tie is half a win for each. A ridge, lambda/2 times the sum
of squares, keeps scores finite where one model wins every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from speakeasy.evaluation.intervals import Floats
from speakeasy.rating.ballots import Ballot
from speakeasy.rating.statistics.crossed import numbered, weights_of

RIDGE = 0.1
_DRAWS = 400
_STEPS = 50
_ENOUGH = 1e-9
_LONGEST = 5.0
"""Log-odds by which one Newton step may move; far from the solution it would overshoot."""

Effect = tuple[float, tuple[float, float] | None]
"""A coefficient and its 95% interval."""


@dataclass(frozen=True, slots=True)
class BradleyTerry:
    """Scores of models.

    Attributes:
        scores: log-odds, summing to 0, with intervals, by system.
        side: log-odds that being on the left adds.
        length: log-odds that an answer e times as long as the other gains.
        ridge: lambda.
    """

    scores: tuple[Effect, ...]
    side: Effect
    length: Effect
    ridge: float


def bradley_terry(
    ballots: Sequence[Ballot],
    systems: int,
    *,
    ridge: float = RIDGE,
    draws: int = _DRAWS,
    seed: int = 0,
) -> BradleyTerry | None:
    """Scores of the systems; None without ballots. Gold items and repeats do not count."""
    kept = [ballot for ballot in ballots if ballot.real and ballot.left is not None]
    if not kept:
        return None
    design_NF, result_N = design(kept, systems)
    found_F = fit(design_NF, result_N, np.ones(len(kept)), ridge)
    rater_N = numbered([ballot.rater for ballot in kept])
    prompt_N = numbered([ballot.prompt for ballot in kept])
    weights_DN = weights_of(rater_N, prompt_N, np.random.default_rng(seed), draws)
    drawn = [
        fit(design_NF, result_N, weights_N, ridge, start_F=found_F)
        for weights_N in weights_DN
        if weights_N.any()
    ]
    few = min(rater_N.max(), prompt_N.max()) < 2
    ends_2F = None if few else np.quantile(np.array(drawn), [0.025, 0.975], axis=0)
    effects = [
        (float(value), None if ends_2F is None else (float(ends_2F[0, n]), float(ends_2F[1, n])))
        for n, value in enumerate(found_F)
    ]
    return BradleyTerry(tuple(effects[:systems]), effects[-2], effects[-1], ridge)


def design(ballots: Sequence[Ballot], systems: int) -> tuple[Floats, Floats]:
    """Features_NF (a score each, side, log length ratio) and results_N for the left answer."""
    features_NF = np.zeros((len(ballots), systems + 2))
    results_N = np.empty(len(ballots))
    for row, ballot in enumerate(ballots):
        assert ballot.left is not None
        assert ballot.right is not None
        features_NF[row, ballot.left] += 1
        features_NF[row, ballot.right] -= 1
        features_NF[row, systems] = 1
        left, right = ballot.lengths
        features_NF[row, systems + 1] = np.log((left + 1) / (right + 1))
        results_N[row] = {"left": 1.0, "right": 0.0}.get(ballot.choice, 0.5)
    return features_NF, results_N


def fit(
    features_NF: Floats,
    results_N: Floats,
    weights_N: Floats,
    ridge: float,
    *,
    start_F: Floats | None = None,
) -> Floats:
    """Coefficients_F that maximise the penalised likelihood, by Newton's method."""
    size = features_NF.shape[1]
    coefficients_F = np.zeros(size) if start_F is None else start_F.copy()
    for _ in range(_STEPS):
        chances_N = 1 / (1 + np.exp(-np.clip(features_NF @ coefficients_F, -500, 500)))
        slope_F = features_NF.T @ (weights_N * (results_N - chances_N)) - ridge * coefficients_F
        curve_N = weights_N * chances_N * (1 - chances_N)
        curve_FF = features_NF.T @ (features_NF * curve_N[:, None]) + ridge * np.eye(size)
        step_F = np.linalg.solve(curve_FF, slope_F)
        longest = float(np.abs(step_F).max())
        coefficients_F += step_F * min(1.0, _LONGEST / max(longest, 1e-300))
        if longest < _ENOUGH:
            break
    return coefficients_F
