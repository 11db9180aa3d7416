"""The paper's theory form on enumerable processes, where every statement can be checked exactly."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from palaestra.core.errors import BadSetting
from palaestra.nets.trust_region import conjugate_gradient
from palaestra.objectives.hybrid import (
    Mixture,
    evaluated,
    hybrid_actor_critic,
    hybrid_squared_error,
    multiplied,
    natural_direction,
)
from palaestra.objectives.mdp import MDP

from .test_mdp import D, random_mdp

SEEDS = st.integers(0, 2**20)
FITS = (120, 121)  # enough for the Bellman operator, which contracts by 0.8, to have reached its fixed point


def one_hot(mdp: MDP) -> torch.Tensor:
    return torch.eye(mdp.reward.numel(), dtype=D).view(*mdp.reward.shape, -1)


def uniform(mdp: MDP) -> torch.Tensor:
    return torch.full_like(mdp.reward, 1 / mdp.reward.numel())


def test_the_regression_worked_by_hand():
    # Logged errors 1 and 3, fresh errors 2 and 0: half of (1 + 9) / 2, and half of (4 + 0) / 2.
    loss, offline, online = hybrid_squared_error(
        torch.tensor([1.0, 3.0]), torch.zeros(2), torch.tensor([2.0, 1.0]), torch.tensor([0.0, 1.0]), 3.0
    )
    assert (loss.item(), offline.item(), online.item()) == (5.5, 2.5, 1.0)


@settings(max_examples=10)
@given(SEEDS, st.sampled_from([0.0, 0.3, 1.0, 50.0, math.inf]))
def test_logged_data_everywhere_lead_to_the_policys_values_for_any_lambda(seed, weight):
    mdp, policy = random_mdp(seed)
    f = evaluated(mdp, policy, one_hot(mdp), Mixture(uniform(mdp), weight), *FITS)
    torch.testing.assert_close(f, mdp.values(policy), rtol=0, atol=1e-9)


@settings(max_examples=10)
@given(SEEDS, st.sampled_from([0.5, 5.0]))
def test_where_the_policy_goes_the_fit_is_exact_even_if_nobody_logged_it(seed, weight):
    mdp, policy = random_mdp(seed)
    policy = torch.nn.functional.one_hot(policy.argmax(-1), policy.shape[-1]).to(D)
    visited = mdp.occupancy(policy) > 0
    logged = torch.where(visited, 0.0, uniform(mdp))
    f = evaluated(mdp, policy, one_hot(mdp), Mixture(logged, weight), *FITS)
    torch.testing.assert_close(f[visited], mdp.values(policy)[visited], rtol=0, atol=1e-9)
    # Bellman targets of logged pairs alone lead astray: the values of the pairs visited are never learnt.
    alone = evaluated(mdp, policy, one_hot(mdp), Mixture(logged, 0.0), *FITS)
    assert float((alone - mdp.values(policy))[visited].abs().max()) > 0.01


@settings(max_examples=10)
@given(SEEDS)
def test_the_two_ends_of_lambda_are_fitted_q_evaluation_and_monte_carlo(seed):
    mdp, policy = random_mdp(seed)
    features = torch.randn(*mdp.reward.shape, 5, generator=torch.Generator().manual_seed(seed), dtype=D)
    logged, f0 = uniform(mdp), torch.ones_like(mdp.reward)
    flat, occupancy = features.flatten(0, 1), mdp.occupancy(policy).flatten().sqrt().unsqueeze(1)
    monte_carlo = torch.linalg.lstsq(flat * occupancy, mdp.values(policy).flatten().unsqueeze(1) * occupancy).solution
    for weight in (math.inf, 1e9):
        f = evaluated(mdp, policy, features, Mixture(logged, weight), 0, 1, f0)
        torch.testing.assert_close(f, (features @ monte_carlo).squeeze(-1), rtol=0, atol=1e-5)
    target = mdp.reward + mdp.gamma * mdp.transition @ torch.ones(len(mdp.start), dtype=D)  # f_0 is 1 everywhere
    fitted = torch.linalg.lstsq(flat, target.flatten().unsqueeze(1)).solution
    f = evaluated(mdp, policy, features, Mixture(logged, 0.0), 0, 1, f0)
    torch.testing.assert_close(f, (features @ fitted).squeeze(-1), rtol=0, atol=1e-9)


@settings(max_examples=10)
@given(SEEDS)
def test_with_functions_too_poor_the_hybrid_errs_no_more_than_the_returns_allow(seed):
    """Functions that are constant in the action: no fixed point is right, and what the fresh returns add is a bound."""
    mdp, policy = random_mdp(seed)
    weight, logged = 20.0, uniform(mdp)
    features = torch.eye(len(mdp.start), dtype=D).unsqueeze(1).expand(-1, mdp.reward.shape[1], -1)
    fits = {lam: evaluated(mdp, policy, features, Mixture(logged, lam), *FITS) for lam in (0.0, weight, math.inf)}
    error = {lam: (mdp.occupancy(policy) * (f - mdp.values(policy)).square()).sum() for lam, f in fits.items()}
    assert float((fits[0.0] - fits[math.inf]).abs().max()) > 1e-3
    onward = mdp.reward + mdp.gamma * mdp.transition @ (policy * fits[weight]).sum(-1)
    bellman = (logged * (fits[math.inf] - onward).square()).sum()
    assert float(error[math.inf]) <= float(error[weight]) <= float(error[math.inf] + bellman / weight) + 1e-12
    assert float(error[weight]) <= float(error[0.0])


def test_the_average_is_over_the_fits_after_the_first():
    mdp, policy = random_mdp(0)
    mixture = Mixture(uniform(mdp), 1.0)
    third, fourth = (evaluated(mdp, policy, one_hot(mdp), mixture, k, k + 1) for k in (2, 3))
    torch.testing.assert_close(evaluated(mdp, policy, one_hot(mdp), mixture, 2, 4), (third + fourth) / 2)


@pytest.mark.parametrize(("first", "last", "weight"), [(2, 2, 1.0), (-1, 2, 1.0), (0, 1, -0.5)])
def test_impossible_numbers_are_refused(first, last, weight):
    mdp, policy = random_mdp(0)
    with pytest.raises(BadSetting):
        evaluated(mdp, policy, one_hot(mdp), Mixture(uniform(mdp), weight), first, last)


@settings(max_examples=10)
@given(SEEDS, st.integers(1, 8))
def test_conjugate_gradients_find_the_weighted_least_squares(seed, size):
    g = torch.Generator().manual_seed(seed)
    scores, advantage = torch.randn(60, size, generator=g, dtype=D), torch.randn(60, generator=g, dtype=D)
    weight = torch.rand(60, generator=g, dtype=D) + 0.1
    rows, target = scores * weight.sqrt().unsqueeze(1), (advantage * weight.sqrt()).unsqueeze(1)
    closed = torch.linalg.lstsq(rows, target).solution.squeeze(1)
    solved = conjugate_gradient(
        lambda v: scores.T @ (weight * (scores @ v)), scores.T @ (weight * advantage), size + 4, tolerance=1e-24
    )
    torch.testing.assert_close(solved, closed, rtol=0, atol=1e-6)
    torch.testing.assert_close(natural_direction(scores, advantage, weight), closed, rtol=0, atol=1e-9)


@settings(max_examples=10)
@given(SEEDS, st.floats(0.01, 2.0))
def test_a_softmax_table_takes_the_multiplicative_step(seed, eta):
    mdp, policy = random_mdp(seed)
    f = torch.randn(policy.shape, generator=torch.Generator().manual_seed(seed), dtype=D)
    states, actions = policy.shape
    own = torch.eye(states * actions, dtype=D).view(states, actions, states, actions)
    scores = own - torch.einsum("sb,sbij->sij", policy, own).unsqueeze(1)  # gradient of log softmax(theta)(a|s)
    advantage = f - (policy * f).sum(-1, keepdim=True)
    weight = uniform(mdp) + 0.5 * mdp.occupancy(policy)
    w = natural_direction(scores.flatten(0, 1).flatten(1), advantage.flatten(), weight.flatten())
    stepped = (policy.log() + eta * w.view(states, actions)).softmax(-1)
    torch.testing.assert_close(stepped, multiplied(policy, f, eta), rtol=0, atol=1e-8)


def test_nothing_to_prefer_leaves_the_policy_alone():
    _, policy = random_mdp(3)
    torch.testing.assert_close(multiplied(policy, torch.ones_like(policy), 0.7), policy)


def test_the_actor_critic_comes_to_the_best_policy():
    mdp, _ = random_mdp(5, gamma=0.3)
    policies = hybrid_actor_critic(mdp, one_hot(mdp), Mixture(uniform(mdp), 1.0), iterations=400, first=8, last=10)
    best = policies[-1]
    for _ in range(20):  # policy iteration
        best = torch.nn.functional.one_hot(mdp.values(best).argmax(-1), best.shape[-1]).to(D)
    values = [mdp.start @ (pi * mdp.values(pi)).sum(-1) for pi in (policies[0], policies[-1], best)]
    assert float(values[0]) < float(values[1])
    assert float(values[2] - values[1]) < 0.05 * float(values[2] - values[0])
