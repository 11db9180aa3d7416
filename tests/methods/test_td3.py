"""TD3 and DDPG: targets, delays, exploration, and what separates the two."""

from __future__ import annotations

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting

from .tiny import SMALL, bind, noise, pendulum_batch


def test_the_target_takes_the_smaller_critic_at_the_smoothed_target_action():
    method = bind(pal.TD3(**SMALL, gamma=0.5))
    batch = pendulum_batch()
    with torch.no_grad():
        drawn = method.actor.normal_noise(batch, noise())
        next_action = method.target_actor.smoothed(batch.next_obs, drawn, 0.2, 0.5)
        y = batch.reward + 0.5 * method.target_critics.q(batch.next_obs, next_action).amin(0)
        expected = 0.5 * (method.critics.q(batch.obs, batch.action) - y).square().mean(1).sum()
    torch.testing.assert_close(method.update(batch, noise())["loss/critic"], expected)


def test_smoothing_noise_is_clipped_and_so_is_the_action():
    actor = bind(pal.TD3(**SMALL)).actor
    batch = pendulum_batch()
    drawn = actor.normal_noise(batch, noise())
    with torch.no_grad():
        plain = actor(batch.obs)
        shaken = actor.smoothed(batch.obs, drawn, 100.0, 0.1)
        pinned = actor.smoothed(batch.obs, drawn, 100.0, 9.0)
    torch.testing.assert_close((shaken - plain).abs(), torch.full((4, 1), 0.1))
    assert pinned.abs().tolist() == [[1.0]] * 4


def test_without_noise_the_smoothed_action_is_the_action():
    actor = bind(pal.TD3(**SMALL)).actor
    batch = pendulum_batch()
    drawn = actor.normal_noise(batch, noise())
    torch.testing.assert_close(actor.smoothed(batch.obs, drawn, 0.0, 0.5), actor(batch.obs))


def test_a_time_limit_does_not_stop_the_bootstrap_but_an_end_does():
    def loss(**fields):
        return float(bind(pal.TD3(**SMALL)).update(pendulum_batch(**fields), noise())["loss/critic"])

    assert loss(truncated=torch.ones(4)) == loss()
    assert loss(terminated=torch.ones(4)) != loss()


def test_actor_and_targets_wait_for_the_policy_delay():
    method = bind(pal.TD3(**SMALL, policy_delay=3))
    slow = [*method.actor.parameters(), *method.target_actor.parameters(), *method.target_critics.parameters()]
    moved = []
    for method.counters.updates in range(6):
        before = [p.clone() for p in slow]
        method.update(pendulum_batch(), noise())
        moved.append(not all(torch.equal(a, b) for a, b in zip(before, slow, strict=True)))
    assert moved == [False, False, True, False, False, True]


def test_the_actor_climbs_the_first_critic():
    method = bind(pal.TD3(**SMALL, policy_delay=1, lr=1e-2))
    batch = pendulum_batch()
    with torch.no_grad():
        action = method.actor(batch.obs)
    found = method.update(batch, noise())["loss/actor"]
    with torch.no_grad():
        torch.testing.assert_close(found, -method.critics.q(batch.obs, action)[0].mean())
    losses = [method.actor_optimiser.descend(method.actor_loss, batch.obs)["loss/actor"] for _ in range(20)]
    assert losses[-1] < losses[0]


def test_exploration_noise_is_added_while_collecting_and_never_by_the_greedy_policy():
    actor = bind(pal.TD3(**SMALL, exploration_noise=0.3)).actor
    obs = torch.zeros(4000, 3)
    with torch.no_grad():
        plain = actor.act(obs, greedy=True).action
        explored = actor.act(obs, generator=noise()).action
    torch.testing.assert_close(plain, actor(obs))
    assert float((explored - plain).std()) == pytest.approx(0.3, rel=0.1)
    assert float(explored.abs().max()) <= 1.0


def test_a_saved_policy_explores_as_before():
    actor = bind(pal.TD3(**SMALL, exploration_noise=0.3)).actor
    loaded = pal.load_policy(actor.save("policy"))
    obs = pendulum_batch().obs
    torch.testing.assert_close(loaded.act(obs, generator=noise()).action, actor.act(obs, generator=noise()).action)


def test_ddpg_has_one_critic_no_smoothing_and_no_delay():
    method = bind(pal.DDPG(**SMALL))
    batch = pendulum_batch()
    with torch.no_grad():
        y = batch.reward + 0.99 * method.target_critics.q(batch.next_obs, method.target_actor(batch.next_obs))[0]
        expected = 0.5 * (method.critics.q(batch.obs, batch.action)[0] - y).square().mean()
    metrics = method.update(batch, noise())
    torch.testing.assert_close(metrics["loss/critic"], expected)
    assert "loss/actor" in metrics


def test_td3_without_its_three_changes_is_ddpg():
    bare = bind(pal.TD3(**SMALL, critics_count=1, target_noise=0.0, policy_delay=1))
    torch.testing.assert_close(
        bare.update(pendulum_batch(), noise()), bind(pal.DDPG(**SMALL)).update(pendulum_batch(), noise())
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy_delay": 0}, "policy_delay must be at least 1"),
        ({"critics_count": 0}, "critics_count must be at least 1"),
        ({"exploration_noise": -0.1}, "exploration_noise must not be negative"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(BadSetting, match=message):
        bind(pal.TD3(**settings))
