"""Studies of which the truth is known: for planning, and for testing the statistics."""

from __future__ import annotations

from functools import cache

import numpy as np

from speakeasy.rating.ballots import Ballot

_GRID = 401


def simulate(
    *,
    raters: int,
    prompts: int,
    preference: float = 0.5,
    pairs: int | None = None,
    rater_sd: float = 0.5,
    prompt_sd: float = 0.5,
    ties: float = 0.2,
    left_bias: float = 0.0,
    seed: int = 0,
) -> list[Ballot]:
    """The ballots of a study of two systems.

    Args:
        preference: share of decided votes for system 0, over all raters and prompts.
        pairs: that each rater judges, of so many prompts; None for all.
        rater_sd, prompt_sd: how much raters, and prompts, differ in their preference: standard
            deviation in log-odds.
        ties: share of votes for neither.
        left_bias: log-odds that being on the left adds.
    """
    generator = np.random.default_rng(seed)
    middle = _middle(preference, round(float(np.hypot(rater_sd, prompt_sd)), 6))
    of_raters = generator.normal(0, rater_sd, raters)
    of_prompts = generator.normal(0, prompt_sd, prompts)
    ballots = []
    for rater in range(raters):
        chosen = generator.permutation(prompts)[: pairs or prompts]
        lefts = generator.permutation(np.arange(len(chosen)) % 2)
        for position, (prompt, left) in enumerate(zip(chosen, lefts, strict=True)):
            lean = left_bias if left == 0 else -left_bias
            odds = middle + of_raters[rater] + of_prompts[prompt] + lean
            first_wins = generator.random() < 1 / (1 + np.exp(-odds))
            choice = "left" if first_wins == (left == 0) else "right"
            if generator.random() < ties:
                choice = "both_good" if generator.random() < 0.5 else "both_bad"
            ballots.append(
                Ballot(rater, position, int(prompt), f"{prompt}", int(left), 1 - int(left), choice)
            )
    return ballots


@cache
def _middle(preference: float, spread: float) -> float:
    """The log-odds around which effects must lie for the mean share to be ``preference``."""
    from scipy.optimize import brentq

    points = np.linspace(-6, 6, _GRID)
    weights = np.exp(-(points**2) / 2)
    weights /= weights.sum()

    def off(middle: float) -> float:
        return float(weights @ (1 / (1 + np.exp(-(middle + spread * points))))) - preference

    return float(brentq(off, -50, 50))
