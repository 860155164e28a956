"""Bootstrap and jackknife intervals: by hand where that can be, by coverage where it cannot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasy.evaluation.intervals import (
    Difference,
    Floats,
    jackknife_interval,
    paired_difference,
    percentile_interval,
    ratio,
    value_of,
)


def test_a_ratio_is_pooled_and_not_a_mean_of_ratios() -> None:
    # (1 + 9) / (10 + 10) × 100 = 50; the mean of 1/10 and 9/10 would be the same, so unequal ones:
    assert value_of(ratio([1, 9], [10, 30], 100), 2) == pytest.approx(25)  # not (10 + 30) / 2
    assert value_of(ratio([1, 9], [0, 0]), 2) is None
    weights = np.array([[2.0, 0.0], [0.0, 2.0]])
    assert ratio([1, 9], [10, 30])(weights) == pytest.approx([0.1, 0.3])


def test_two_groups_can_be_drawn_in_four_ways() -> None:
    # Means of draws from {0, 1}: 0 (a quarter of the time), 0.5 (half), 1 (a quarter).
    # 2.5% of the draws lie below 0 + and 97.5% at or below 1, so the interval is all of it.
    assert percentile_interval(ratio([0, 1], [1, 1]), 2) == (0, 1)


def test_equal_groups_have_no_width_and_one_group_no_interval() -> None:
    assert percentile_interval(ratio([3, 3, 3], [4, 4, 4]), 3) == (0.75, 0.75)
    assert percentile_interval(ratio([3], [4]), 1) is None
    assert percentile_interval(ratio([], []), 0) is None
    assert percentile_interval(ratio([1, 1], [0, 0]), 2) is None


def test_the_same_seed_gives_the_same_interval() -> None:
    statistic = ratio(np.arange(20.0), np.ones(20))
    first = percentile_interval(statistic, 20, seed=3)
    assert first == percentile_interval(statistic, 20, seed=3)
    assert first != percentile_interval(statistic, 20, seed=4)


def mean(values: Floats) -> tuple[float, float]:
    interval = percentile_interval(ratio(values, np.ones(len(values))), len(values), draws=400)
    assert interval is not None
    return interval


def test_95_of_100_intervals_hold_the_truth() -> None:
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        low, high = mean(generator.exponential(1.0, 80))
        held += low <= 1.0 <= high
    # 95% of 300 is 285, standard deviation 3.8. A percentile bootstrap of 80 skewed values holds
    # a little less.
    assert 270 <= held <= 296


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=20))
def test_an_interval_lies_within_the_values(values: list[float]) -> None:
    low, high = mean(np.array(values))
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_what_is_hard_for_both_cancels_in_a_pair() -> None:
    generator = np.random.default_rng(1)
    hard = generator.uniform(1, 9, 60)  # texts differ much, models by 0.1 ± 0.05
    a, b = hard, hard - 0.1 + generator.normal(0, 0.05, 60)
    ones = np.ones(60)
    difference = paired_difference(ratio(a, ones), ratio(b, ones), 60)
    assert difference is not None
    assert difference.interval is not None
    low, high = difference.interval
    assert difference.value == pytest.approx(float((a - b).mean()))
    assert 0.05 < low < difference.value < high < 0.15
    assert difference.distinguishable
    alone = mean(a)
    assert alone[1] - alone[0] > 10 * (high - low)


def test_a_difference_of_nothing_is_not_distinguishable() -> None:
    values = ratio([1, 2, 3], [1, 1, 1])
    same = paired_difference(values, values, 3)
    assert same == Difference(0, (0, 0))
    assert not same.distinguishable
    assert not Difference(1, None).distinguishable
    assert not Difference(1, (0, 2)).distinguishable
    assert Difference(-1, (-2, -0.1)).distinguishable
    assert paired_difference(values, ratio([1, 1, 1], [0, 0, 0]), 3) is None
    assert paired_difference(values, values, 0) is None
    assert paired_difference(ratio([3], [1]), ratio([1], [1]), 1) == Difference(2, None)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    # Values 1, 2, 3, 6: mean 3; without each: 11/3, 10/3, 3, 2. The jackknife's standard error of
    # a mean is the usual one: s / √n, s² = (4 + 1 + 0 + 9) / 3 = 14/3, so √(14/12) = 1.0801.
    interval = jackknife_interval(3.0, np.array([11 / 3, 10 / 3, 3, 2]))
    assert interval == pytest.approx((3 - 1.959964 * 1.080123, 3 + 1.959964 * 1.080123))
    assert jackknife_interval(None, np.array([1.0, 2.0])) is None
    assert jackknife_interval(1.0, np.array([1.0])) is None
    assert jackknife_interval(1.0, np.array([1.0, np.nan])) is None
