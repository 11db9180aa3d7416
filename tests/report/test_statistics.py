"""Statistics over seeds, against cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from palaestra.report.statistics import bootstrap, iqm, mean_curve, performance_profile, probability_of_improvement

scores = arrays(np.float64, st.integers(1, 12), elements=st.floats(-1e6, 1e6, width=32))
several = arrays(np.float64, st.integers(2, 12), elements=st.floats(-1e6, 1e6, width=32))
quick = settings(max_examples=50)


def test_the_iqm_of_eight_scores_is_the_mean_of_the_middle_four():
    assert iqm(np.array([100.0, 1, 2, 3, 4, 5, 6, -100])) == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_the_iqm_of_five_scores_leaves_out_one_on_each_side():
    assert iqm(np.array([10.0, 1, 2, 3, 1000])) == pytest.approx(5)


def test_the_iqm_of_three_scores_is_their_mean():
    assert iqm(np.array([1.0, 2, 6])) == pytest.approx(3)


def test_the_iqm_works_along_the_last_axis():
    rows = np.array([[1.0, 2, 3, 100], [4, 4, 4, 4]])
    np.testing.assert_allclose(iqm(rows), [2.5, 4])


@quick
@given(scores)
def test_the_iqm_lies_between_the_extremes_and_ignores_order(values):
    middle = float(iqm(values))
    slack = 1e-6 * (1 + abs(middle))
    assert values.min() - slack <= middle <= values.max() + slack
    assert middle == float(iqm(values[::-1]))


@quick
@given(several, st.floats(-100, 100), st.floats(0.1, 10))
def test_the_interval_moves_and_stretches_with_the_scores(values, shift, factor):
    plain = bootstrap([values], resamples=200)
    moved = bootstrap([factor * values + shift], resamples=200)
    np.testing.assert_allclose(moved, factor * np.array(plain) + shift, rtol=1e-6, atol=1e-3)


@quick
@given(several)
def test_the_interval_stays_within_the_scores(values):
    estimate = bootstrap([values], resamples=200)
    slack = 1e-6 * (1 + np.abs(values).max())
    assert values.min() - slack <= estimate.low <= estimate.high <= values.max() + slack


def test_the_interval_of_two_scores_spans_both_and_its_middle_is_their_mean():
    # Of the four equally likely samples one is (0, 0), one (1, 1): both tails are far heavier than 2.5%.
    assert bootstrap([np.array([0.0, 1.0])]) == (0.5, 0.0, 1.0)


def test_the_mean_of_many_scores_has_the_interval_of_the_central_limit_theorem():
    values = np.random.default_rng(0).normal(size=400)
    estimate = bootstrap([values], lambda x: x.mean(-1), resamples=4000)
    half = 1.96 * values.std() / 20
    np.testing.assert_allclose(estimate, [values.mean(), values.mean() - half, values.mean() + half], atol=0.01)


def test_a_bootstrap_sample_keeps_every_task_at_its_share():
    # Tasks whose seeds agree leave nothing to chance, however far apart the tasks are.
    estimate = bootstrap([np.zeros(5), np.full(5, 100.0)], lambda x: x.mean(-1))
    assert estimate == (50.0, 50.0, 50.0)


def test_one_seed_has_no_interval():
    estimate = bootstrap([np.array([3.0])])
    assert estimate.value == 3 and np.isnan(estimate.low) and np.isnan(estimate.high)


def test_the_same_seed_gives_the_same_interval():
    values = [np.random.default_rng(1).normal(size=7)]
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3) != bootstrap(values, seed=4)


def test_the_probability_of_improvement_counts_pairs_and_halves_ties():
    # Pairs: 1>0 yes, 1>1 tie, 1>5 no; 2>0 yes, 2>1 yes, 2>5 no. (1 + 0.5 + 0 + 1 + 1 + 0) / 6.
    better = probability_of_improvement([np.array([1.0, 2])], [np.array([0.0, 1, 5])])
    assert better.value == pytest.approx(3.5 / 6)
    assert 0 <= better.low <= better.value <= better.high <= 1


def test_the_probability_of_improvement_is_averaged_over_tasks():
    wins, loses = np.array([1.0, 1]), np.array([0.0, 0])
    assert probability_of_improvement([wins, loses], [loses, wins]).value == pytest.approx(0.5)


@quick
@given(several, several)
def test_the_probabilities_of_improvement_of_both_directions_sum_to_one(x, y):
    there = probability_of_improvement([x], [y], resamples=50).value
    back = probability_of_improvement([y], [x], resamples=50).value
    assert there + back == pytest.approx(1)


def test_the_performance_profile_is_the_share_strictly_above():
    profile = performance_profile([np.array([1.0, 2, 3, 4])], np.array([0.0, 1, 2.5, 4]))
    np.testing.assert_allclose(profile.value, [1, 0.75, 0.5, 0])


@quick
@given(several)
def test_the_performance_profile_falls_from_one_to_zero_inside_its_band(values):
    thresholds = np.linspace(values.min() - 1, values.max(), 20)
    profile = performance_profile([values], thresholds, resamples=100)
    assert profile.value[0] == 1 and profile.value[-1] == 0
    assert (np.diff(profile.value) <= 0).all()
    assert (profile.low <= profile.high).all()


def test_the_mean_curve_of_shared_steps_keeps_them():
    x = np.array([10.0, 20, 30])
    band = mean_curve([(x, np.array([1.0, 2, 3])), (x, np.array([3.0, 2, 5]))])
    np.testing.assert_allclose(band.x, x)
    np.testing.assert_allclose(band.value, [2, 2, 4])
    np.testing.assert_allclose(band.low, [1, 2, 3])
    np.testing.assert_allclose(band.high, [3, 2, 5])


def test_the_mean_curve_is_drawn_only_where_every_seed_is_known():
    line = (np.array([0.0, 10]), np.array([0.0, 10]))
    short = (np.array([2.0, 6]), np.array([2.0, 6]))
    band = mean_curve([line, short], points=5)
    np.testing.assert_allclose(band.x, [2, 3, 4, 5, 6])
    np.testing.assert_allclose(band.value, band.x)


def test_the_mean_curve_of_one_seed_has_no_band():
    band = mean_curve([(np.array([1.0, 2]), np.array([5.0, 6]))])
    np.testing.assert_allclose(band.value, [5, 6])
    assert np.isnan(band.low).all() and np.isnan(band.high).all()
