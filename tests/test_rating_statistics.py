"""The study's statistics, against other implementations, published cases and known truths."""

from __future__ import annotations

import warnings
from itertools import combinations

import choix
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its optional parts are none of our business
    import evalica

from speakeasy.rating.ballots import Ballot
from speakeasy.rating.power import power, raters_for
from speakeasy.rating.simulate import simulate
from speakeasy.rating.statistics.agreement import Metric, agreement, of_choices
from speakeasy.rating.statistics.bradley_terry import bradley_terry, design, fit
from speakeasy.rating.statistics.correlation import over_items, over_systems
from speakeasy.rating.statistics.crossed import crossed_mean, holm
from speakeasy.rating.statistics.preference import preferences
from speakeasy.rating.statistics.quality import Share, by_rater, excluded, quality
from speakeasy.rating.statistics.ratings import differences, spreads
from speakeasy.rating.study import DIMENSIONS, Exclusions

STUDIES = 500
CANONICAL = (
    (1, 1, None, 1), (2, 2, 3, 2), (3, 3, 3, 3), (3, 3, 3, 3), (2, 2, 2, 2), (1, 2, 3, 4),
    (4, 4, 4, 4), (1, 1, 2, 1), (2, 2, 2, 2), (None, 5, 5, 5), (None, None, 1, 1),
    (None, None, 3, None),
)  # fmt: skip
"""Krippendorff 2011, section C: four observers, twelve units."""


def ballot(rater: int, prompt: int, left: int, right: int, choice: str, **more: object) -> Ballot:
    return Ballot(rater, prompt, prompt, f"p{prompt}", left, right, choice, **more)  # type: ignore[arg-type]


def tournament(seed: int, systems: int = 4, count: int = 400) -> list[Ballot]:
    generator = np.random.default_rng(seed)
    strength = np.linspace(-1, 1, systems)
    found = []
    for number in range(count):
        left, right = (int(n) for n in generator.permutation(systems)[:2])
        wins = generator.random() < 1 / (1 + np.exp(strength[right] - strength[left]))
        choice = "both_good" if generator.random() < 0.2 else ("left" if wins else "right")
        lengths = tuple(int(n) for n in generator.integers(50, 200, 2))
        found.append(ballot(number % 8, number % 25, left, right, choice, lengths=lengths))
    return found


# Preference.


@pytest.mark.parametrize(
    "null",
    [
        {},
        {"rater_sd": 1.0},
        {"prompt_sd": 1.0},
        {"rater_sd": 0.0, "prompt_sd": 0.0},
        {"ties": 0.6, "left_bias": 1.0},
    ],
    ids=str,
)
def test_no_difference_is_seldom_claimed(null: dict[str, float]) -> None:
    claimed = sum(
        preferences(
            simulate(raters=12, prompts=20, seed=seed, **null), 2, draws=50, flips=999
        )[0].differs
        for seed in range(STUDIES)
    )  # fmt: skip
    assert claimed / STUDIES <= 0.06


def test_a_true_preference_is_mostly_found() -> None:
    found = [
        preferences(
            simulate(raters=12, prompts=20, preference=0.65, seed=seed), 2, draws=50, flips=999
        )[0]
        for seed in range(STUDIES)
    ]
    assert sum(each.differs for each in found) / STUDIES >= 0.75
    assert all(each.score > 0.5 for each in found if each.differs and each.score)


def test_intervals_hold_the_truth() -> None:
    """Of the mean score, 0.5 + 0.8 x 0.15: ties count half."""
    held = 0
    for seed in range(200):
        study = simulate(raters=12, prompts=20, preference=0.65, seed=seed)
        ends = preferences(study, 2, draws=200, flips=99)[0].interval
        assert ends is not None
        held += ends[0] <= 0.62 <= ends[1]
    assert held / 200 >= 0.92  # 95%, less three standard errors


def test_scores_by_hand() -> None:
    votes = [
        ballot(0, 0, 0, 1, "left"),
        ballot(1, 0, 1, 0, "left"),
        ballot(2, 1, 0, 1, "both_good"),
        ballot(2, 2, 1, 0, "right"),
        ballot(2, 3, 0, 1, "left", gold="right"),
        ballot(2, 4, 0, 1, "right", repeats=0),
    ]
    (found,) = preferences(votes, 2)
    assert (found.wins, found.losses, found.both_good, found.both_bad) == (2, 1, 1, 0)
    assert found.score == pytest.approx(2.5 / 4)


def test_a_naive_test_would_claim_far_too_much() -> None:
    """So that the first test above is no accident."""
    claimed = 0
    for seed in range(STUDIES):
        study = simulate(raters=12, prompts=20, rater_sd=1.0, ties=0, seed=seed)
        wins = sum((vote.choice == "left") == (vote.left == 0) for vote in study)
        claimed += abs(wins - 120) > 1.96 * np.sqrt(60)
    assert claimed / STUDIES > 0.15


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.booleans()), min_size=1))
@settings(max_examples=30, deadline=None)
def test_swapping_the_models_swaps_the_score(votes: list[tuple[int, int, bool]]) -> None:
    one = [ballot(r, p, 0, 1, "left" if first else "right") for r, p, first in votes]
    other = [ballot(r, p, 1, 0, "left" if first else "right") for r, p, first in votes]
    a, b = (preferences(each, 2, draws=50, flips=99)[0] for each in (one, other))
    assert a.score == pytest.approx(1 - (b.score or 0))
    assert a.p == pytest.approx(b.p)


def test_exact_flips_by_hand() -> None:
    """Four prompts, all for one model: 2 of 16 ways are as extreme."""
    found = crossed_mean([1, 1, 1, 1], [0, 1, 2, 3], [0, 1, 2, 3])
    assert found.p == pytest.approx(2 / 16)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert holm([]) == []


def test_nobody_voted() -> None:
    (found,) = preferences([], 2)
    assert (found.score, found.interval, found.differs) == (None, None, False)


# Power.


@pytest.mark.parametrize(("preference", "raters"), [(0.6, 12), (0.65, 12), (0.65, 6), (0.7, 8)])
def test_the_power_formula_agrees_with_simulated_studies(preference: float, raters: int) -> None:
    found = [
        preferences(
            simulate(raters=raters, prompts=20, preference=preference, seed=seed),
            2, draws=20, flips=499,
        )[0].differs
        for seed in range(300)
    ]  # fmt: skip
    # Three standard errors of 300 studies, and what the formula leaves out.
    assert power(preference, raters, 20, 20) == pytest.approx(np.mean(found), abs=0.1)


def test_more_raters_find_more() -> None:
    chances = [power(0.6, raters, 20, 20) for raters in (4, 8, 16, 32)]
    assert chances == sorted(chances)
    needed = raters_for(0.65, 20, 20)
    assert needed is not None
    assert power(0.65, needed, 20, 20) >= 0.8 > power(0.65, needed - 1, 20, 20)


def test_the_simulated_preference_is_what_was_asked_for() -> None:
    votes = simulate(
        raters=400,
        prompts=400,
        pairs=100,
        preference=0.65,
        rater_sd=1,
        prompt_sd=1,
        ties=0.3,
        seed=1,
    )
    decided = [vote for vote in votes if vote.choice in ("left", "right")]
    wins = sum((vote.choice == "left") == (vote.left == 0) for vote in decided)
    # Standard error of 400 raters' and 400 prompts' means: about 0.012 each.
    assert wins / len(decided) == pytest.approx(0.65, abs=0.05)


# Bradley-Terry.


@pytest.mark.parametrize("ridge", [0.02, 1.0])
def test_scores_are_those_of_choix(ridge: float) -> None:
    votes = [vote for vote in tournament(1) if vote.choice in ("left", "right")]
    features, results = design(votes, 4)
    ours = fit(features[:, :4], results, np.ones(len(votes)), ridge)
    wins = [
        (vote.left, vote.right) if vote.choice == "left" else (vote.right, vote.left)
        for vote in votes
    ]
    assert ours == pytest.approx(choix.opt_pairwise(4, wins, alpha=ridge / 2), abs=1e-4)


def test_without_a_ridge_scores_are_those_of_evalica() -> None:
    votes = tournament(2)
    features, results = design(votes, 4)
    ours = fit(features[:, :4], results, np.ones(len(votes)), 1e-9)
    kinds = {"left": evalica.Winner.X, "right": evalica.Winner.Y}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = evalica.bradley_terry(
            [f"{vote.left}" for vote in votes],
            [f"{vote.right}" for vote in votes],
            [kinds.get(vote.choice, evalica.Winner.Draw) for vote in votes],
            tolerance=1e-12, limit=10_000,
        ).scores  # fmt: skip
    logs = np.log([theirs[f"{system}"] for system in range(4)])
    assert ours == pytest.approx(logs - logs.mean(), abs=1e-3)


def test_a_sweep_gives_finite_scores() -> None:
    votes = [
        ballot(n % 5, n, n % 2, 1 - n % 2, "left" if n % 2 == 0 else "right") for n in range(10)
    ]
    found = bradley_terry(votes, 2)
    assert found is not None
    (first, ends), (second, _) = found.scores
    assert np.isfinite(first)
    assert first > 1
    assert first == pytest.approx(-second)
    assert ends is not None
    assert all(map(np.isfinite, ends))
    (preference,) = preferences(votes, 2)
    assert preference.score == 1.0


def test_the_side_and_length_are_told_from_the_models() -> None:
    """Whoever always takes the left, or the longer, likes no model."""
    left = [ballot(n % 7, n % 20, n % 2, 1 - n % 2, "left") for n in range(140)]
    found = bradley_terry(left, 2, draws=50)
    assert found is not None
    assert abs(found.scores[0][0]) < 0.05
    assert found.side[0] > 2
    longer = [
        ballot(n % 7, n % 20, n % 2, 1 - n % 2, "left" if n % 3 else "right",
               lengths=(200, 100) if n % 3 else (100, 200))
        for n in range(140)
    ]  # fmt: skip
    found = bradley_terry(longer, 2, draws=50)
    assert found is not None
    assert abs(found.scores[0][0]) < 0.3
    assert found.length[0] > 2


def test_scores_come_in_the_true_order() -> None:
    found = bradley_terry(tournament(3), 4, draws=50)
    assert found is not None
    values = [score for score, _ in found.scores]
    assert values == sorted(values)
    assert sum(values) == pytest.approx(0, abs=1e-6)


# Agreement.


@pytest.mark.parametrize(
    ("metric", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_is_the_published_one(metric: Metric, published: float) -> None:
    units = [[float(value) for value in unit if value is not None] for unit in CANONICAL]
    assert agreement(units, metric).alpha == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("metric", ["nominal", "ordinal", "interval"])
def test_alpha_is_that_of_evalica(metric: Metric) -> None:
    generator = np.random.default_rng(5)
    table = generator.integers(1, 6, (6, 30)).astype(float)
    table[1] = table[0]
    table[generator.random(table.shape) < 0.3] = np.nan
    units = [[v for v in column if not np.isnan(v)] for column in table.T]
    theirs = evalica.alpha(pd.DataFrame(table), metric).alpha
    assert agreement(units, metric).alpha == pytest.approx(theirs, abs=1e-9)


def test_alpha_needs_two_who_judged_and_something_that_varies() -> None:
    assert agreement([[1.0], [2.0]], "nominal").alpha is None
    assert agreement([[1.0, 1.0], [1.0, 1.0]], "nominal").alpha is None
    assert agreement([[1.0, 1.0], [2.0, 2.0]], "nominal").alpha == 1.0


def test_choices_agree_on_models_and_not_on_sides() -> None:
    votes = [
        ballot(
            rater, item, rater % 2, 1 - rater % 2, "left" if (rater + item) % 2 == 0 else "right"
        )
        for rater in range(4)
        for item in range(6)
    ]
    assert of_choices(votes).alpha == pytest.approx(1.0)


# Ratings.


def rated(rater: int, prompt: int, left: int | None, right: int | None, swap: bool) -> Ballot:
    sides = (dict.fromkeys(DIMENSIONS, left), dict.fromkeys(DIMENSIONS, right))
    return ballot(rater, prompt, int(swap), int(not swap), "left", ratings=sides)


def test_ratings_by_hand() -> None:
    votes = [rated(0, 0, 5, 3, False), rated(1, 1, 2, 4, True), rated(2, 2, None, 1, False)]
    first, second = spreads(votes, 2)[:2]
    assert (first.counts, first.cannot) == ((0, 0, 0, 1, 1), 1)
    assert (first.median, second.counts) == (4.5, (1, 1, 1, 0, 0))
    (mean, *_) = (each.mean for each in differences(votes, 2))
    assert (mean.value, mean.count) == (2.0, 2)


def test_a_clear_difference_of_ratings_is_found_and_noise_is_not() -> None:
    generator = np.random.default_rng(0)
    clear, noise = [], []
    for rater, prompt in ((r, p) for r in range(8) for p in range(15)):
        a, b, swap = *(int(n) for n in generator.integers(2, 5, 2)), bool(generator.integers(2))
        noise.append(rated(rater, prompt, a, b, swap))
        clear.append(rated(rater, prompt, *((a, b + 1) if swap else (a + 1, b)), swap))
    assert all(each.adjusted is not None and each.adjusted < 0.05 for each in differences(clear, 2))
    assert all(each.adjusted is not None and each.adjusted > 0.05 for each in differences(noise, 2))


# Care.


def test_care_by_hand() -> None:
    votes = [
        ballot(0, 0, 0, 1, "left", seconds=10.0),
        ballot(0, 1, 1, 0, "both_bad", seconds=20.0),
        Ballot(0, 2, 0, "p0", 1, 0, "right", repeats=0, seconds=3.0),
        Ballot(0, 3, 1, "p1", 0, 1, "left", repeats=1, seconds=3.0),
        Ballot(0, 4, 9, "g", None, None, "left", gold="left"),
        Ballot(0, 5, 8, "g", None, None, "both_good", gold="left"),
    ]
    found = quality(votes)
    assert (found.ballots, found.gold, found.repeats) == (2, Share(1, 2), Share(1, 2))
    assert (found.left, found.ties, found.seconds) == (Share(1, 1), Share(1, 2), 6.5)


def test_wilsons_interval_is_the_published_one() -> None:
    """Newcombe 1998, table I, method 3: 81 of 263, and 0 of 20."""
    assert Share(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert Share(0, 20).interval == pytest.approx((0, 0.1611), abs=1e-4)


def test_the_rules_leave_out_whom_they_name() -> None:
    gold = [Ballot(1, 20 + n, 90, "g", None, None, "right", gold="left") for n in range(2)]
    hasty = [ballot(2, n, 0, 1, "left" if n % 2 else "right", seconds=1.0) for n in range(10)]
    leftist = [ballot(3, n, n % 2, 1 - n % 2, "left", seconds=9.0) for n in range(10)]
    good = [ballot(4, n, 0, 1, "left" if n % 2 else "right", seconds=9.0) for n in range(10)]
    votes = [*gold, *hasty, *leftist, *good]
    assert excluded(votes, Exclusions()) == {1: ["gold"], 2: ["seconds"], 3: ["one_sided"]}
    assert list(by_rater(votes)) == [1, 2, 3, 4]


# Correlation.


def test_a_figure_that_people_follow_is_found() -> None:
    generator = np.random.default_rng(0)
    measures, votes = {}, []
    for item in range(30):
        first, second = generator.normal(size=2)
        measures[item] = (
            {"good": first, "noise": generator.normal()},
            {"good": second, "noise": 0.0},
        )
        swap = bool(generator.integers(2))
        better = "left" if (first > second) != swap else "right"
        votes += [ballot(r, item, int(swap), int(not swap), better) for r in range(3)]
    owners = [(0, 1)] * 30
    good, noise = over_items(votes, owners, measures)
    assert good.rho is not None
    assert good.rho > 0.8
    assert noise.rho is not None
    assert abs(noise.rho) < 0.4
    people = [1.0 if measures[n][0]["good"] > measures[n][1]["good"] else -1.0 for n in range(30)]
    gaps = [measures[n][0]["good"] - measures[n][1]["good"] for n in range(30)]
    assert good.rho == pytest.approx(spearmanr(people, gaps).statistic)


def test_three_models_have_no_rank_correlation() -> None:
    (found,) = over_systems([0.1, 0.2, 0.3], [{"a": 1.0}, {"a": 2.0}, {"a": 3.0}])
    assert found.rho is None
    (found,) = over_systems([1, 2, 3, 4], [{"a": float(n)} for n in (1, 2, 3, 4)])
    assert found.rho == pytest.approx(1)


def test_three_models_are_compared_pair_by_pair() -> None:
    votes = tournament(4, systems=3)
    found = preferences(votes, 3)
    assert [(each.first, each.second) for each in found] == list(combinations(range(3), 2))
    for each in found:
        assert each.p is not None
        assert each.adjusted is not None
        assert each.adjusted >= each.p
