"""Tsallis logarithms and divergences against their definitions."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from palaestra.objectives.divergences import log_q, tsallis_bregman, tsallis_difference

QS = st.floats(0.5, 2.5).filter(lambda q: abs(q - 1) > 1e-3)


@st.composite
def pairs(draw):
    """Two distributions over the same few actions."""
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    return torch.randn(2, draw(st.integers(2, 6)), generator=g, dtype=torch.float64).log_softmax(-1)


def test_log_q_by_hand():
    assert log_q(torch.tensor([4.0]).log(), 2.0).item() == pytest.approx(3.0)
    assert log_q(torch.tensor([4.0]).log(), 1.5).item() == pytest.approx(2.0)


@settings(max_examples=50)
@given(st.floats(-4, 4))
def test_log_q_tends_to_the_logarithm_as_q_tends_to_1(logp):
    x = torch.tensor(logp, dtype=torch.float64)
    assert log_q(x, 1.0) is x
    assert abs(float(log_q(x, 1 + 1e-5) - x)) < 1e-4


def test_log_q_of_huge_densities_is_finite_with_a_finite_gradient():
    logp = torch.tensor([-1e4, -50.0, 0.0, 50.0, 1e4], requires_grad=True)
    log_q(logp, 2.0).sum().backward()
    assert bool(torch.isfinite(logp.grad).all())
    assert bool(torch.isfinite(log_q(logp, 2.0)).all())


@settings(max_examples=100)
@given(pairs(), QS)
def test_the_mean_over_old_actions_is_the_bregman_divergence_of_tsallis_entropy(pair, q):
    new, old = pair
    p, r = new.exp(), old.exp()

    def negative_entropy(x):
        return ((x**q).sum() - 1) / (q - 1)

    slope = (q * r ** (q - 1)) / (q - 1)  # the gradient of negative entropy at the old policy, up to a constant
    exact = negative_entropy(p) - negative_entropy(r) - slope @ (p - r)
    torch.testing.assert_close((r * tsallis_bregman(new, old, q)).sum(), exact, rtol=1e-6, atol=1e-9)


@settings(max_examples=50)
@given(pairs(), st.floats(0.5, 2.5))
def test_every_estimate_is_non_negative_and_zero_with_zero_gradient_where_the_policies_agree(pair, q):
    new, old = pair
    assert bool((tsallis_bregman(new, old, q) >= -1e-9).all())
    same = old.clone().requires_grad_()
    estimate = tsallis_bregman(same, old, q)
    (gradient,) = torch.autograd.grad(estimate.sum(), same)
    torch.testing.assert_close(estimate, torch.zeros_like(old))
    torch.testing.assert_close(gradient, torch.zeros_like(old))


@settings(max_examples=50)
@given(pairs())
def test_with_q_1_the_divergence_is_kl_of_new_from_old(pair):
    new, old = pair
    kl = (new.exp() * (new - old)).sum()
    torch.testing.assert_close((old.exp() * tsallis_bregman(new, old, 1.0)).sum(), kl)


@settings(max_examples=50)
@given(pairs())
def test_the_released_codes_difference_is_minus_kl_of_old_from_new_at_q_1(pair):
    new, old = pair
    kl = (old.exp() * (old - new)).sum()
    torch.testing.assert_close((old.exp() * tsallis_difference(new, old, 1.0)).sum(), -kl)
