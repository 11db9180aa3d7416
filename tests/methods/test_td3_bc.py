"""TD3 with behaviour cloning: its two losses, what its actor is pulled to, delays, and standardised observations."""

from __future__ import annotations

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadDataset, BadSetting, Unsupported
from palaestra.core.method import Budget
from palaestra.data.task import DatasetTask

from ..datasets import random_dataset
from .tiny import SMALL_DATA, bind_offline, noise, pendulum_batch

PLAIN = {**SMALL_DATA, "normalise_obs": False}


def test_the_actor_loss_is_the_distance_minus_alpha_values_in_units_of_their_size():
    method = bind_offline(pal.TD3BC(**PLAIN, alpha=3.0))
    batch = pendulum_batch()
    with torch.no_grad():
        action = method.actor(batch.obs)
        q = method.critics.q(batch.obs, action)[0]
        distance = ((action - batch.action) ** 2).mean()
        loss, metrics = method.actor_loss(batch.obs, batch.action)
    torch.testing.assert_close(loss, distance - 3.0 / q.abs().mean() * q.mean())
    torch.testing.assert_close(metrics["policy/distance"], distance)


def test_distances_are_averaged_over_the_dimensions_of_an_action():
    method = bind_offline(pal.TD3BC(**PLAIN, alpha=0.0))
    method.actor.forward = lambda obs: torch.zeros(len(obs), 2)
    method.critics.q = lambda obs, action, frozen: torch.ones(1, len(obs))
    loss, _ = method.actor_loss(torch.zeros(3, 3), torch.tensor([[0.5, -1.0]]).expand(3, 2))
    assert float(loss) == (0.25 + 1.0) / 2


def test_the_target_takes_the_smaller_critic_at_the_smoothed_target_action():
    method = bind_offline(pal.TD3BC(**PLAIN, gamma=0.5))
    batch = pendulum_batch(terminated=torch.tensor([1.0, 0.0, 0.0, 0.0]))
    with torch.no_grad():
        drawn = method.actor.normal_noise(batch, noise())
        next_action = (method.target_actor(batch.next_obs) + (0.2 * drawn).clamp(-0.5, 0.5)).clamp(-1, 1)
        next_q = method.target_critics.q(batch.next_obs, next_action).amin(0)
        y = batch.reward + 0.5 * torch.tensor([0.0, 1.0, 1.0, 1.0]) * next_q
        expected = 0.5 * (method.critics.q(batch.obs, batch.action) - y).square().mean(1).sum()
    torch.testing.assert_close(method.update(batch, noise())["loss/critic"], expected)


def test_actor_and_targets_wait_for_the_policy_delay():
    method = bind_offline(pal.TD3BC(**PLAIN))
    slow = [*method.actor.parameters(), *method.target_actor.parameters(), *method.target_critics.parameters()]
    moved = []
    for method.counters.updates in range(4):
        before = [p.clone() for p in slow]
        method.update(pendulum_batch(), noise())
        moved.append(not all(torch.equal(a, b) for a, b in zip(before, slow, strict=True)))
    assert moved == [False, True, False, True]


def test_without_value_the_actor_clones():
    method = bind_offline(pal.TD3BC(**PLAIN, alpha=0.0, policy_delay=1, lr=1e-2))
    batch = pendulum_batch()
    for _ in range(300):
        metrics = method.update(batch, noise())
    assert metrics["policy/distance"] < 1e-2
    torch.testing.assert_close(metrics["policy/distance"], metrics["loss/actor"])


def test_the_goal_of_a_subclass_is_what_its_actor_is_pulled_to():
    class Still(pal.TD3BC):
        def goal(self, batch):
            return torch.zeros_like(batch.action)

    method = bind_offline(Still(**PLAIN, alpha=0.0, policy_delay=1))
    batch = pendulum_batch()
    with torch.no_grad():
        expected = method.actor(batch.obs).square().mean()
    torch.testing.assert_close(method.update(batch, noise())["loss/actor"], expected)


def test_observations_are_standardised_by_the_data_in_every_network_and_in_the_saved_policy():
    method = bind_offline(pal.TD3BC(**SMALL_DATA))
    obs = method.data.dataset.steps.obs
    seen = method.actor.encoder(obs)
    torch.testing.assert_close(seen.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        seen.std(0, unbiased=False), obs.std(0, unbiased=False) / (obs.std(0, unbiased=False) + 1e-3)
    )
    for net in (method.critics, method.target_actor, method.target_critics):
        torch.testing.assert_close(net.encoder(obs), seen)
    loaded = pal.load_policy(method.policy().save("policy"))
    torch.testing.assert_close(loaded(obs), method.actor(obs))


def test_rewards_are_scaled_and_shifted_before_they_are_learnt_from():
    method = bind_offline(pal.TD3BC(**PLAIN, reward_scale=2.0, reward_shift=-1.0))
    batch = pendulum_batch()
    torch.testing.assert_close(method.scaled(batch).reward, 2 * batch.reward - 1)


def test_discrete_data_are_refused():
    with pytest.raises(Unsupported, match="td3-bc needs box actions"):
        bind_offline(pal.TD3BC(**SMALL_DATA), "CartPole-v1")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -1.0}, "alpha must not be negative"),
        ({"policy_delay": 0}, "policy_delay must be at least 1"),
        ({"tau": 0.0}, r"tau must be in \(0, 1\]"),
        ({"sampler": "best"}, "sampler must be"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(BadSetting, match=message):
        pal.TD3BC(**settings).check()


def test_rewards_may_be_scaled_so_that_the_best_and_worst_return_lie_a_thousand_apart():
    method = bind_offline(pal.TD3BC(**PLAIN, reward_scale="returns", reward_shift=-1.0))
    returns = method.data.dataset.returns
    batch = pendulum_batch()
    expected = 1000 / float(returns.max() - returns.min()) * batch.reward - 1
    torch.testing.assert_close(method.scaled(batch).reward, expected)


def test_equal_returns_scale_nothing():
    dataset = random_dataset("Pendulum-v1", 450)
    dataset.steps.reward = torch.zeros(len(dataset))
    with pytest.raises(BadDataset, match="all episodes of random Pendulum-v1 have the same return"):
        pal.TD3BC(**PLAIN, reward_scale="returns").bind(DatasetTask(dataset), 0, Budget(updates=1))
