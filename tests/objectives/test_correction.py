"""Weights of steps that something else than the trained policy has drawn."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palaestra.objectives.correction import mismatch, truncated_ratio
from palaestra.objectives.policy import ppo_clip


def log(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def test_a_weight_is_the_ratio_up_to_its_bound():
    weight = truncated_ratio(log(0.3, 0.1, 0.9), log(0.2, 0.2, 0.3), 2.0)
    torch.testing.assert_close(weight, torch.tensor([1.5, 0.5, 2.0]))


def test_where_both_agree_nothing_is_weighed():
    logp = torch.randn(20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(truncated_ratio(logp, logp.clone(), 2.0), torch.ones(20))


def test_a_step_that_the_policy_would_never_take_weighs_nothing():
    assert truncated_ratio(torch.tensor([-math.inf]), log(0.5), 2.0).tolist() == [0.0]


def test_weights_have_no_gradient():
    logp = log(0.3, 0.4).requires_grad_()
    assert not truncated_ratio(logp, log(0.2, 0.5), 2.0).requires_grad


@given(st.integers(0, 1000), st.floats(1.0, 50.0))
def test_a_mean_under_the_sampler_becomes_one_under_the_policy_less_what_the_bound_takes(seed, bound):
    """Over four actions, exactly: sum mu w f = sum min(pi, c mu) f."""
    g = torch.Generator().manual_seed(seed)
    pi, mu = (torch.randn(4, generator=g, dtype=torch.float64).softmax(-1) for _ in range(2))
    value = torch.rand(4, generator=g, dtype=torch.float64)
    found = (mu * truncated_ratio(pi.log(), mu.log(), bound) * value).sum()
    torch.testing.assert_close(found, (torch.minimum(pi, bound * mu) * value).sum())


def test_a_cut_distribution_s_weight_is_the_probability_that_the_cut_left():
    """Top-p kept 0.6 and 0.3 of 1; drawn from 2/3 and 1/3, both weigh 0.9."""
    torch.testing.assert_close(truncated_ratio(log(0.6, 0.3), log(2 / 3, 1 / 3), 2.0), torch.tensor([0.9, 0.9]))


def test_a_weighed_surrogate_has_the_weighed_gradient():
    """At the old policy a step's gradient is -w A / n: advantages 1 and -1 with weights 1.5 and 0.5 of two steps."""
    old = log(0.3, 0.1)
    logp = old.clone().requires_grad_()
    weight = truncated_ratio(old, log(0.2, 0.2), 2.0) / 2
    ppo_clip(logp, old, torch.tensor([1.0, -1.0]), 0.2, weight=weight)[0].backward()
    torch.testing.assert_close(logp.grad, torch.tensor([-0.75, 0.25]))


def test_the_mismatch_is_measured_over_chosen_steps():
    """Log-ratios 0, log 4 and -log 2, the last of which does not count."""
    found = mismatch(log(0.5, 0.8, 0.2), log(0.5, 0.2, 0.4), 2.0, torch.tensor([1.0, 1.0, 0.0]))
    assert found["sampler/difference"].item() == pytest.approx(math.log(4) / 2)
    assert found["sampler/truncated"].item() == pytest.approx(0.5)


def test_a_ratio_at_its_bound_is_not_called_truncated():
    assert mismatch(log(0.5), log(0.5), 1.0)["sampler/truncated"].item() == 0
