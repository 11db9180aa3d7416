"""Offline losses against cases worked by hand, and at their degenerate ends."""

from __future__ import annotations

import math

import pytest
import torch

from palaestra.objectives.offline import (
    conservative_gap,
    constrained,
    expectile_loss,
    exponential_weights,
    kl_to_standard_normal,
    normalised_value,
    weighted_likelihood,
    where_positive,
)


def test_a_normalised_value_is_in_units_of_its_own_size():
    # mean 1, mean size (1 + 3) / 2
    assert float(normalised_value(torch.tensor([-1.0, 3.0]))) == 0.5
    assert float(normalised_value(torch.tensor([-10.0, 30.0]))) == 0.5


def test_the_size_that_a_value_is_divided_by_has_no_gradient():
    q = torch.tensor([-1.0, 3.0], requires_grad=True)
    (slope,) = torch.autograd.grad(normalised_value(q), q)
    assert slope.tolist() == [0.25, 0.25]


def test_values_of_zero_are_not_divided_by_zero():
    assert float(normalised_value(torch.zeros(3))) == 0.0


def test_the_expectile_weighs_errors_by_their_sign():
    # (0.75 * 4 + 0.25 * 16) / 2
    assert float(expectile_loss(torch.tensor([2.0, -4.0]), 0.75)) == 3.5


def test_the_middle_expectile_is_half_the_squared_error():
    error = torch.tensor([2.0, -4.0, 0.0])
    torch.testing.assert_close(expectile_loss(error, 0.5), 0.5 * error.square().mean())


@pytest.mark.parametrize(("expectile", "value"), [(0.5, 2.0), (0.75, 3.0), (1 - 1e-6, 4.0)])
def test_its_minimiser_is_the_expectile(expectile, value):
    # targets 0 and 4: tau (4 - v) = (1 - tau) v, so v = 4 tau
    at = torch.tensor(value, requires_grad=True)
    (slope,) = torch.autograd.grad(expectile_loss(torch.tensor([0.0, 4.0]) - at, expectile), at)
    assert float(slope) == pytest.approx(0.0, abs=1e-5)


def test_weights_grow_with_the_advantage_up_to_a_limit():
    weight = exponential_weights(torch.tensor([0.0, 0.5, -0.5, 1e4]), 2.0, 100.0)
    assert weight.tolist() == pytest.approx([1.0, math.e, 1 / math.e, 100.0])


def test_without_temperature_all_actions_weigh_alike_and_regression_is_cloning():
    weight = exponential_weights(torch.tensor([-3.0, 5.0]), 0.0, 100.0)
    assert weight.tolist() == [1.0, 1.0]
    assert float(weighted_likelihood(torch.tensor([-1.0, -3.0]), weight)) == 2.0


def test_a_likelihood_is_weighed_and_averaged_over_all_actions():
    assert float(weighted_likelihood(torch.tensor([-1.0, -3.0]), torch.tensor([4.0, 0.0]))) == 2.0


def test_the_conservative_gap_of_equal_values_under_the_uniform_density():
    # K = 3 actions of density 1/2 each: log(3 exp(7) / (1/2)) - 7
    gap = conservative_gap(torch.full((2, 4), 7.0), torch.full((2, 4, 3), 7.0), torch.full((4, 3), math.log(0.5)))
    assert gap.tolist() == pytest.approx([math.log(6)] * 2, rel=1e-5)


def test_the_conservative_gap_by_hand():
    q, proposed = torch.tensor([[1.0]]), torch.tensor([[[math.log(2.0), 0.0]]])
    # densities 1/2 and 1/4: log(2 / (1/2) + 1 / (1/4)) - 1
    density = torch.tensor([[0.5, 0.25]])
    assert conservative_gap(q, proposed, density.log()).tolist() == pytest.approx([math.log(8) - 1])


def test_one_proposal_that_is_the_recorded_action_leaves_its_density_alone():
    q = torch.tensor([[3.0, -2.0]])
    assert conservative_gap(q, q.unsqueeze(-1), torch.zeros(2, 1)).tolist() == [0.0]


def test_the_gap_estimates_the_soft_maximum_over_all_actions():
    # Q(a) = a on [-1, 1]: log of the integral of exp a is log(e - 1/e); the sum over K is larger by log K
    actions = torch.rand(1, 1, 100_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    gap = conservative_gap(torch.zeros(1, 1), actions, torch.full((1, 100_000), -math.log(2)))
    assert float(gap) - math.log(100_000) == pytest.approx(math.log(math.e - 1 / math.e), abs=0.01)


def test_gaps_beyond_floating_points_exponent_are_finite():
    gap = conservative_gap(torch.zeros(1, 1), torch.tensor([[[1e5, 0.0]]]), torch.zeros(1, 2))
    assert float(gap) == pytest.approx(1e5)


def test_a_constraint_pulls_on_both_sides_of_its_factor():
    excess, log_factor = torch.tensor([3.0, 1.0], requires_grad=True), torch.tensor(math.log(2.0), requires_grad=True)
    on_excess, on_factor = torch.autograd.grad(constrained(excess, log_factor), (excess, log_factor))
    assert on_excess.tolist() == [2.0, 2.0]
    assert float(on_factor) == -4.0  # -2 * (3 + 1) / 2: broken constraints raise the factor


def test_a_kept_constraint_lowers_its_factor_and_a_huge_factor_is_limited():
    log_factor = torch.tensor(0.0, requires_grad=True)
    (slope,) = torch.autograd.grad(constrained(torch.tensor([-1.0]), log_factor), log_factor)
    assert float(slope) > 0
    assert float(constrained(torch.tensor([1.0, 1.0]), torch.tensor(99.0))) == 1e6


def test_over_all_discrete_actions_the_gap_of_equal_values_is_the_logarithm_of_their_number():
    values = torch.full((5, 3), 7.0)
    assert float(conservative_gap(values[:, 0], values)) == pytest.approx(math.log(3))


def test_likelihoods_of_several_learners_are_one_number_each():
    assert weighted_likelihood(torch.tensor([[-1.0, -3.0], [-2.0, 0.0]]), torch.ones(2, 2)).tolist() == [2.0, 1.0]


def test_the_divergence_of_a_code_from_the_standard_normal_is_nought_there_and_a_half_one_deviation_off():
    zeros, ones = torch.zeros(3, 2), torch.ones(3, 2)
    assert float(kl_to_standard_normal(zeros, zeros)) == 0.0
    assert float(kl_to_standard_normal(ones, zeros)) == 0.5
    wide = kl_to_standard_normal(zeros, ones * math.log(2.0))  # (4 - 1) / 2 - log 2
    assert float(wide) == pytest.approx(1.5 - math.log(2.0))


def test_the_divergence_is_that_of_torchs_distributions():
    mean, log_std = torch.tensor([[0.3, -1.0]]), torch.tensor([[0.5, -2.0]])
    theirs = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(kl_to_standard_normal(mean, log_std), theirs.mean())


def test_only_distances_with_a_positive_advantage_count_and_only_they_have_a_gradient():
    distance = torch.tensor([[1.0, 3.0], [5.0, 7.0], [2.0, 2.0]], requires_grad=True)
    loss = where_positive(torch.tensor([0.1, -0.1, 0.0]), distance)
    assert float(loss.detach()) == pytest.approx((1.0 + 3.0) / 6)  # the mean is over all rows and both dimensions
    (slope,) = torch.autograd.grad(loss, distance)
    torch.testing.assert_close(slope, torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]) / 6)
