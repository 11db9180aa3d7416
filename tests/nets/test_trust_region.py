"""The trust region's linear algebra, and that the steps of many policies are those of each."""

from __future__ import annotations

import copy

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from palaestra.nets.distributions import DiagGaussian
from palaestra.nets.mlp import MLP
from palaestra.nets.trust_region import Stepped, TrustRegion, conjugate_gradient, step


@settings(max_examples=30)
@given(st.integers(0, 2**20), st.integers(1, 12))
def test_conjugate_gradient_solves_a_positive_definite_system_in_as_many_steps_as_it_has_rows(seed, n):
    g = torch.Generator().manual_seed(seed)
    root, b = torch.randn(n, n, generator=g, dtype=torch.float64), torch.randn(n, generator=g, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(n, dtype=torch.float64)
    x = conjugate_gradient(lambda v: matrix @ v, b, steps=n + 2, tolerance=1e-24)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b), rtol=1e-6, atol=1e-8)


def test_conjugate_gradient_of_nothing_is_nothing():
    assert conjugate_gradient(lambda v: 2 * v, torch.zeros(3), steps=5).tolist() == [0.0, 0.0, 0.0]


REGION = TrustRegion(0.01, cg_steps=8, cg_damping=0.1, search_steps=10, search_shrink=0.5, least_gain=0.1)


def problem(seed: int) -> tuple[MLP, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three Gaussian policies, and 40 observations, actions and advantages of each."""
    g = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    net = MLP(3, (4,), 2, activation="tanh", copies=3).double()
    obs = torch.randn(3, 40, 3, generator=g, dtype=torch.float64)
    action = torch.randn(3, 40, 2, generator=g, dtype=torch.float64)
    return net, obs, action, torch.randn(3, 40, generator=g, dtype=torch.float64)


def stepped(net: MLP, obs: torch.Tensor, *batch: torch.Tensor, region: TrustRegion = REGION, weight=None) -> Stepped:
    log_std = torch.zeros(2, dtype=torch.float64)
    policy = lambda: DiagGaussian(net.twice_differentiable(obs), log_std)  # noqa: E731
    return step(list(net.parameters()), policy, *batch, region, weight)


@settings(max_examples=10)
@given(st.integers(0, 2**20))
def test_the_step_of_many_policies_is_that_of_each(seed):
    net, *batch = problem(seed)
    members = [copy.deepcopy(net) for _ in range(3)]
    together = stepped(net, *batch)
    for i, member in enumerate(members):
        alone = MLP(3, (4,), 2, activation="tanh").double()
        for own, whole in zip(alone.parameters(), member.parameters(), strict=True):
            own.data.copy_(whole[i].view_as(own))
        taken = stepped(alone, *(x[i] for x in batch))
        for own, whole in zip(alone.parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(own, whole[i].view_as(own), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(taken.loss, together.loss[i])
        torch.testing.assert_close(taken.kl, together.kl[i])


def test_a_policy_with_nothing_to_gain_stays_while_the_others_move():
    net, obs, action, advantage = problem(0)
    before = [p.detach().clone() for p in net.parameters()]
    advantage[1] = 0
    taken = stepped(net, obs, action, advantage)
    assert taken.kl[1] == 0 and (taken.kl[[0, 2]] > 1e-3).all()
    for old, new in zip(before, net.parameters(), strict=True):
        assert torch.equal(old[1], new[1]) and not torch.equal(old[0], new[0])


def test_a_weight_of_two_is_a_row_twice():
    net, obs, action, advantage = problem(1)
    other = copy.deepcopy(net)
    stepped(net, obs, action, advantage, weight=torch.cat([torch.full((3, 20), 2.0), torch.ones(3, 20)], 1))
    twice = torch.cat([torch.arange(20), torch.arange(40)])
    stepped(other, obs[:, twice], action[:, twice], advantage[:, twice])
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_an_improvement_must_be_the_share_that_the_gradient_promises():
    net, *batch = problem(2)
    greedy = stepped(copy.deepcopy(net), *batch)
    assert (greedy.kl > 0).all()
    refused = stepped(net, *batch, region=REGION._replace(least_gain=5.0))
    assert (refused.kl == 0).all()
