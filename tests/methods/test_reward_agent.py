"""The reward-model agent: which pairs are asked about, what the model is fitted to by hand, and what the agent sees."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from palaestra.core.errors import BadSetting
from palaestra.core.experience import Experience
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.envs.judged import JudgedTask
from palaestra.methods.preference.reward_agent import RewardAgent, RewardAgentSAC

from ..environments import Spaces

SMALL: dict[str, Any] = {"network": (8, 8), "num_envs": 4, "rollout_steps": 20, "minibatch": 40, "epochs": 2}
SMALL_SAC: dict[str, Any] = {"network": (8, 8), "batch_size": 4, "buffer_size": 400, "warmup_steps": 60}
FITS: dict[str, Any] = {"comparisons": 3, "memory": 10, "refit_every": 8, "refit_updates": 2}


def bound(method: Any, steps: int = 400, **task: Any) -> Any:
    return method.bind(as_task("judged", **task), 0, Budget(steps=steps))


def test_each_new_trajectory_is_compared_as_often_as_asked_for_and_never_with_itself():
    method = bound(RewardAgent(**SMALL, **FITS))
    method.step()
    checks = 3 * 4
    assert method.counters.judge_calls == 4 * 3 + checks and len(method.answers) == 12
    assert bool((method.first != method.second).all())
    assert sorted(method.first.tolist()) == sorted([*range(4)] * 3)


def test_answers_are_about_the_trajectories_that_they_name():
    method = bound(RewardAgent(**SMALL, **FITS))
    for _ in range(4):
        method.step()
        held, oldest = method.remembered.held, method.remembered.oldest
        returns = held.reward.sum(0)
        first, second = returns[method.first - oldest], returns[method.second - oldest]
        torch.testing.assert_close(method.answers, (1 + (first - second).sign()) / 2)


def test_what_is_forgotten_is_no_longer_learnt_from():
    method = bound(RewardAgent(**SMALL, **FITS))
    for _ in range(5):
        method.step()
    assert len(method.remembered) == 10 and method.remembered.oldest == 10
    assert int(torch.minimum(method.first, method.second).min()) >= 10 and len(method.answers) < 60


def test_the_model_is_fitted_at_the_start_and_after_every_few_trajectories():
    method = bound(RewardAgent(**SMALL, **FITS))
    fits = []
    for _ in range(5):
        method.step()
        fits.append(method.fits)
    assert fits == [1, 1, 2, 2, 3]


def test_the_loss_is_bradley_and_terrys_of_sums_over_trajectories():
    method = bound(RewardAgent(**{**SMALL, "network": ()}, **FITS))
    with torch.no_grad():
        method.model.net.weights[0].copy_(torch.tensor([[1.0], [0.0], [0.0], [0.0], [2.0], [0.0]]))
        method.model.net.biases[0].fill_(0.5)
    action = torch.tensor([0.25, 0.0]).expand(2, 1, 2)
    first = Experience(obs=torch.tensor([3.0, 0, 0, 0]).expand(2, 1, 4), action=action, mask=torch.ones(2, 1))
    second = first.replace(obs=first.obs / 3, mask=torch.tensor([[1.0], [0.0]]))
    loss, said = method.model_loss(first, second, torch.tensor([0.8]))
    gap = torch.tensor(2 * (3 + 0.5 + 0.5) - (1 + 0.5 + 0.5))
    torch.testing.assert_close(loss, torch.nn.functional.binary_cross_entropy_with_logits(gap, torch.tensor(0.8)))
    assert float(said["agreement"]) == 1.0


def test_the_agent_sees_the_models_rewards_and_nothing_else():
    method = bound(RewardAgent(**SMALL, **FITS))
    steps = method.rollout.collect(method.behaviour(), 20)
    taken = steps.action.clamp(-1, 1)
    expected = method.model(steps.obs.flatten(0, 1), taken.flatten(0, 1)).view(20, 4)
    torch.testing.assert_close(steps.reward, expected.detach())


def test_soft_actor_critic_asks_the_model_anew_at_every_update():
    method = bound(RewardAgentSAC(**SMALL_SAC, **FITS))
    for _ in range(70):
        method.step()
    batch = method.minibatch()
    torch.testing.assert_close(batch.reward, method.model(batch.obs, batch.action).detach())
    method.model.net.biases[-1].data += 1.0
    again = method.minibatch()
    torch.testing.assert_close(again.reward, method.model(again.obs, again.action).detach())


@pytest.mark.parametrize(("seen", "done"), [("dict", "discrete"), ("image", "box"), ("discrete", "multi_discrete")])
def test_observations_and_actions_may_be_of_any_kind(seen, done):
    task = JudgedTask(functools.partial(Spaces, seen, done), horizon=30)
    method = RewardAgent(**SMALL, **FITS).bind(task, 0, Budget(steps=400))
    for _ in range(3):
        metrics = method.step()
    assert bool(torch.isfinite(metrics["loss/reward_model"])) and method.counters.judge_calls > 0


@pytest.mark.parametrize("name", ["memory", "comparisons", "refit_every", "refit_updates"])
def test_settings_out_of_range_are_refused(name):
    with pytest.raises(BadSetting, match=name):
        bound(RewardAgent(**{name: 0}))


def test_it_comes_to_agree_with_the_judge_and_earns_more():
    settings: dict[str, Any] = {"num_envs": 32, "rollout_steps": 20, "minibatch": 160, "gamma": 1.0, "lr": 3e-3}
    method = bound(RewardAgent(**settings, network=(32, 32), refit_every=32, refit_updates=20), steps=9_600)
    first = float(method.step()["rollout/return"])
    while method.budget.spent(method.counters) < 1:
        metrics = method.step()
    assert float(metrics["preference/agreement"]) > 0.8 and float(metrics["rollout/return"]) > first + 8
