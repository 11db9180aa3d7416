"""REINFORCE: which returns teach, with a baseline and without."""

from __future__ import annotations

import torch

import palaestra as pal
from palaestra.core.method import Budget
from palaestra.objectives.policy import policy_gradient

from ..environments import Spaces


def bound(length: int, **changes) -> pal.REINFORCE:
    config = pal.REINFORCE(**{"network": (8,), "num_envs": 2, "rollout_steps": 8, "gamma": 0.5, **changes})
    return config.bind(pal.EnvTask(Spaces, {"length": length}), seed=0, budget=Budget(steps=1000))


def test_with_a_baseline_the_advantage_is_return_minus_value():
    method = bound(length=4)
    steps = method.rollout.collect(method.policy(), 8)
    batch = method.with_advantages(steps)
    reward = steps.reward[4:, 0]
    value = method.policy().value(steps.obs[4, 0][None])
    expected = reward[0] + 0.5 * reward[1] + 0.25 * reward[2] + 0.125 * reward[3] - value[0]
    torch.testing.assert_close(batch.advantage.view(8, 2)[4, 0], expected.detach())


def test_without_a_baseline_only_steps_of_episodes_that_ended_in_the_rollout_teach():
    method = bound(length=5, baseline=False, standardise_advantage=False, lr=1e-3)
    batch = method.with_advantages(method.rollout.collect(method.policy(), 8))
    assert batch.weight.view(8, 2)[:, 0].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    kept = batch[batch.weight > 0]
    logp = method.policy().score(kept).logp
    assert method.learn(batch)["loss/policy"].item() == policy_gradient(logp, kept.target).item()


def test_without_a_baseline_a_rollout_in_which_no_episode_ended_teaches_nothing():
    method = bound(length=50, baseline=False)
    before = [p.clone() for p in method.policy().parameters()]
    metrics = method.step()
    assert "loss/policy" not in metrics
    assert method.counters.updates == 0
    assert all(torch.equal(a, b) for a, b in zip(before, method.policy().parameters(), strict=True))
