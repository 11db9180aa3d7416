"""The trust-region step: its linear algebra, its bound, and its improvement."""

from __future__ import annotations

import pytest
import torch

import palaestra as pal
from palaestra.core.method import Budget
from palaestra.methods.online.trpo import TRPO
from palaestra.nets.trust_region import flat
from palaestra.objectives.policy import surrogate
from palaestra.objectives.returns import standardise

from ..environments import ACTIONS, Spaces


def bound(actions: str = "discrete", **changes) -> tuple[TRPO, pal.Experience]:
    """A method after its first rollout, and the batch it has not learnt from yet."""
    config = TRPO(**{"network": (8,), "num_envs": 4, "rollout_steps": 32, **changes})
    method = config.bind(pal.EnvTask(Spaces, {"actions": actions}), seed=0, budget=Budget(steps=1000))
    return method, method.with_advantages(method.rollout.collect(method.policy(), method.rollout_steps))


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("max_kl", [1e-3, 0.01, 0.1])
def test_a_step_stays_within_the_trust_region_comes_near_its_border_and_improves_the_surrogate(actions, max_kl):
    method, batch = bound(actions, max_kl=max_kl)
    old = method.distribution(batch).detach()
    method.improve(batch)
    new = method.distribution(batch)
    kl = old.kl(new).mean().item()
    assert 0.2 * max_kl < kl <= max_kl
    advantage = standardise(batch.advantage)
    before = surrogate(old.logp(batch.action), old.logp(batch.action), advantage)
    assert surrogate(new.logp(batch.action), old.logp(batch.action), advantage) < before


@pytest.mark.parametrize("actions", ACTIONS)
def test_the_direction_is_the_natural_gradient(actions):
    """Against the Fisher matrix written out as the mean outer product of the scores of all steps' distributions."""
    method, batch = bound(actions, cg_steps=500, cg_damping=1e-3, network=(3,))
    policy, params = method.policy(), method.policy().policy_parameters()
    start = flat([p.detach().clone() for p in params])
    advantage = standardise(batch.advantage)
    dist = method.distribution(batch)
    old = dist.detach()
    loss = surrogate(dist.logp(batch.action), old.logp(batch.action), advantage)
    descent = -flat(torch.autograd.grad(loss, params, retain_graph=True)).double()
    gradient = flat(torch.autograd.grad(old.kl(dist).mean(), params, create_graph=True))
    rows = [flat(torch.autograd.grad(g, params, retain_graph=True)) for g in gradient]
    fisher = torch.stack(rows).double() + 1e-3 * torch.eye(len(rows), dtype=torch.float64)
    natural = torch.linalg.solve(fisher, descent)
    method.improve(batch)
    step = flat([p.detach() for p in params]).double() - start
    assert torch.nn.functional.cosine_similarity(step, natural, 0) > 0.999
    assert policy.actor is method.policy().actor


def test_a_step_that_cannot_improve_is_not_taken():
    method, batch = bound()
    before = [p.clone() for p in method.policy().policy_parameters()]
    flat_advantage = batch.replace(advantage=torch.zeros_like(batch.advantage))
    metrics = method.improve(flat_advantage)
    assert metrics["policy/kl"].item() == 0
    assert all(torch.equal(a, b) for a, b in zip(before, method.policy().policy_parameters(), strict=True))


def test_fitting_the_values_leaves_the_policy_alone_even_with_a_shared_image_encoder():
    method = TRPO(network=(8,), num_envs=2, rollout_steps=8).bind(
        pal.EnvTask(Spaces, {"observations": "image"}), seed=0, budget=Budget(steps=100)
    )
    batch = method.with_advantages(method.rollout.collect(method.policy(), 8))
    method.improve(batch)
    before = [p.clone() for p in method.policy().policy_parameters()]
    method.learn(batch.replace(advantage=torch.zeros_like(batch.advantage)))
    assert all(torch.equal(a, b) for a, b in zip(before, method.policy().policy_parameters(), strict=True))
