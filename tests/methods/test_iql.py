"""Implicit Q-learning: its three losses by hand, their order, and the optimum on a problem that can be solved."""

from __future__ import annotations

import math

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting
from palaestra.nets.actors import GaussianActor

from .tiny import SMALL_DATA, bind_offline, noise, pendulum_batch


def answers(method, q: list[list[float]], value: float) -> None:
    """Make the target critics answer `q` `(2, 4)` and the value network `value`."""
    method.target_critics.q = lambda obs, action: torch.tensor(q)
    method.value.forward = lambda obs: torch.full((4,), value, requires_grad=True)


def test_values_regress_on_the_smaller_target_critic_by_the_expectile():
    method = bind_offline(pal.IQL(**SMALL_DATA, expectile=0.75))
    answers(method, [[3.0, 5.0, 1.0, 1.0], [9.0, 3.0, -1.0, 1.0]], value=1.0)
    batch = pendulum_batch()
    loss, outputs = method.value_loss(batch.obs, batch.action)
    loss = loss.detach()
    assert outputs["q"].tolist() == [3.0, 3.0, -1.0, 1.0]
    # errors 2, 2, -2, 0
    assert float(loss) == (0.75 * 4 + 0.75 * 4 + 0.25 * 4) / 4


def test_the_actor_regresses_on_recorded_actions_by_their_limited_advantage():
    method = bind_offline(pal.IQL(**SMALL_DATA, beta=2.0, weight_limit=10.0))
    answers(method, [], value=1.0)
    batch = pendulum_batch()
    with torch.no_grad():
        mean, std = torch.tanh(method.actor.net(batch.obs)), method.actor.log_std.exp()
        logp = (-0.5 * ((batch.action - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
    loss, metrics = method.actor_loss(batch.obs, batch.action, torch.tensor([1.0, 1.5, 9.0, 0.0]))
    weight = torch.tensor([1.0, math.e, 10.0, math.exp(-2.0)])
    torch.testing.assert_close(loss, -(weight * logp).mean())
    torch.testing.assert_close(metrics["policy/weight"], weight.mean())


def test_critics_regress_on_the_reward_and_the_value_of_the_next_state():
    method = bind_offline(pal.IQL(**SMALL_DATA, gamma=0.5))
    batch = pendulum_batch(terminated=torch.tensor([0.0, 1.0, 0.0, 0.0]), truncated=torch.tensor([0.0, 0.0, 1.0, 0.0]))
    with torch.no_grad():
        y = batch.reward + 0.5 * torch.tensor([1.0, 0.0, 1.0, 1.0]) * method.value(batch.next_obs)
        expected = 0.5 * (method.critics.q(batch.obs, batch.action) - y).square().mean(1).sum()
    torch.testing.assert_close(method.critic_loss(batch)[0], expected)


def test_values_move_first_then_actor_and_critics_by_the_new_values_then_the_targets():
    method, reference = (bind_offline(pal.IQL(**SMALL_DATA, actor_cosine=False)) for _ in range(2))
    batch = pendulum_batch()
    method.update(batch, noise())
    q = reference.value_optimiser.descend(reference.value_loss, batch.obs, batch.action)["q"]
    reference.actor_optimiser.descend(reference.actor_loss, batch.obs, batch.action, q)
    reference.critic_optimiser.descend(reference.critic_loss, batch)
    expected = [
        0.995 * old + 0.005 * new
        for old, new in zip(reference.target_critics.parameters(), reference.critics.parameters(), strict=True)
    ]
    for ours, theirs in (
        (method.value, reference.value),
        (method.actor, reference.actor),
        (method.critics, reference.critics),
    ):
        torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()))
    torch.testing.assert_close(list(method.target_critics.parameters()), expected)


def test_no_action_outside_the_data_is_ever_valued():
    method = bind_offline(pal.IQL(**SMALL_DATA))
    batch = pendulum_batch()
    seen = []
    for critics in (method.critics, method.target_critics):
        valued = critics.q
        critics.q = lambda obs, action, valued=valued: (seen.append(action), valued(obs, action))[1]
    method.update(batch, noise())
    assert len(seen) == 2
    assert all(torch.equal(action, batch.action) for action in seen)


def test_the_actors_learning_rate_falls_along_a_cosine_to_nothing():
    method = bind_offline(pal.IQL(**SMALL_DATA, lr=1.0), updates=100)
    rates = []
    for method.counters.updates in (0, 50, 100):
        method.update(pendulum_batch(), noise())
        rates.append(method.actor_optimiser.lr)
    assert rates == pytest.approx([1.0, 0.5, 0.0])
    assert method.critic_optimiser.lr == 1.0


def test_without_temperature_and_in_the_middle_expectile_it_evaluates_and_clones_behaviour():
    """One state, actions ±1 with rewards 1 and 0: V is their mean, and the policy's mean the mean action."""
    method = bind_offline(
        pal.IQL(network=(8,), lr=2e-2, beta=0.0, expectile=0.5, gamma=0.0, tau=0.1, actor_cosine=False)
    )
    batch = two_actions()
    for _ in range(500):
        metrics = method.update(batch, noise())
    assert float(metrics["value/v"]) == pytest.approx(0.5, abs=0.05)
    assert float(method.policy().act(batch.obs[:1], greedy=True).action.detach()) == pytest.approx(0.0, abs=0.1)


def test_with_temperature_and_an_upper_expectile_it_prefers_the_better_action():
    method = bind_offline(
        pal.IQL(network=(8,), lr=2e-2, beta=5.0, expectile=0.9, gamma=0.0, tau=0.1, actor_cosine=False)
    )
    batch = two_actions()
    for _ in range(500):
        metrics = method.update(batch, noise())
    # 0.9 (1 - v) = 0.1 v
    assert float(metrics["value/v"]) == pytest.approx(0.9, abs=0.05)
    assert float(method.policy().act(batch.obs[:1], greedy=True).action.detach()) > 0.8


def two_actions():
    action = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    zeros = torch.zeros(4, 3)
    return pendulum_batch(obs=zeros, next_obs=zeros, action=action, reward=torch.tensor([1.0, 0.0, 1.0, 0.0]))


def test_the_gaussian_policy_acts_by_its_mean_or_samples_inside_the_box():
    method = bind_offline(pal.IQL(**SMALL_DATA))
    actor = method.policy()
    obs = torch.zeros(4000, 3)
    torch.testing.assert_close(actor.act(obs, greedy=True).action, torch.tanh(actor.net(obs)))
    drawn = actor.act(obs, generator=noise()).action
    assert float(drawn.abs().max()) == 1.0
    assert 0.1 < float((drawn.abs() == 1).float().mean()) < 0.6


def test_deviations_stay_within_bounds():
    method = bind_offline(pal.IQL(**SMALL_DATA))
    assert isinstance(method.actor, GaussianActor)
    with torch.no_grad():
        method.actor.log_std.fill_(-9.0)
    assert method.actor.distribution(torch.zeros(1, 3)).log_std.tolist() == [-5.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"expectile": 1.0}, r"expectile must be in \(0, 1\)"),
        ({"beta": -1.0}, "beta must not be negative"),
        ({"weight_limit": 0.0}, "weight_limit must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(BadSetting, match=message):
        pal.IQL(**settings).check()
