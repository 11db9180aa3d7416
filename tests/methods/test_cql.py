"""Conservative Q-learning: proposals and their densities, the penalty, its factor, and what it does to values."""

from __future__ import annotations

import math

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting
from palaestra.nets.actors import Critic
from palaestra.nets.distributions import SquashedGaussian

from ..environments import OBSERVATIONS
from .tiny import SMALL_DATA, bind_offline, noise, pendulum_batch


def draw(count: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Uniform actions and the noise of the policy's, for four states."""
    generator = noise()
    uniform = torch.rand(4, count, 1, generator=generator) * 2 - 1
    return uniform, torch.randn(4, 2 * count + 1, 1, generator=generator)


def test_proposals_are_uniform_then_of_the_policy_at_the_next_state_then_here_each_with_its_density():
    method = bind_offline(pal.CQL(**SMALL_DATA, proposals=3))
    batch = pendulum_batch()
    uniform, normal = draw(3)
    next_action, proposed, log_density = method.propose(batch, uniform, normal)
    assert next_action.shape == (4, 1)
    assert proposed.shape == (4, 9, 1)
    assert torch.equal(proposed[:, :3], uniform)
    assert log_density[:, :3].tolist() == [[pytest.approx(-math.log(2))] * 3] * 4
    with torch.no_grad():
        for obs, columns in ((batch.next_obs, slice(3, 6)), (batch.obs, slice(6, 9))):
            dist = method.actor.distribution(obs)
            for k in range(9)[columns]:
                expected = SquashedGaussian(dist.mean, dist.std).logp_unsquashed(torch.atanh(proposed[:, k]))
                torch.testing.assert_close(log_density[:, k], expected, rtol=1e-3, atol=1e-3)


def test_values_of_many_actions_are_those_of_each():
    torch.manual_seed(0)
    for name in ("vector", "dict", "image"):
        critic = Critic(OBSERVATIONS[name], 2, (8,))
        obs = {k: torch.zeros(5, *v) for k, v in {"pos.x": (2,)}.items()} | {"items": torch.arange(5) % 3}
        obs = {
            "vector": torch.randn(5, 3),
            "dict": obs,
            "image": torch.randint(256, (5, 12, 12, 3), dtype=torch.uint8),
        }[name]
        actions = torch.randn(5, 4, 2)
        expected = torch.stack([critic.q(obs, actions[:, k]) for k in range(4)], -1)
        torch.testing.assert_close(critic.q_each(obs, actions), expected)


def test_the_critic_loss_is_the_squared_error_plus_the_weighted_gap_of_each_critic():
    method = bind_offline(pal.CQL(**SMALL_DATA, conservative_weight=2.0, gamma=0.5))
    batch = pendulum_batch(terminated=torch.tensor([0.0, 1.0, 0.0, 0.0]))
    given = draw()
    with torch.no_grad():
        next_action, proposed, log_density = method.propose(batch, *given)
        next_q = method.targets.q(batch.next_obs, next_action).amin(0)
        y = batch.reward + 0.5 * torch.tensor([1.0, 0.0, 1.0, 1.0]) * next_q
        expected = torch.tensor(0.0)
        for q, each in zip(method.critics.q(batch.obs, batch.action), method.critics.q_each(batch.obs, proposed)):
            soft = (each - log_density).exp().sum(-1).log()
            expected += (q - y).square().mean() + 2.0 * (soft - q).mean()
        loss, _ = method.critic_loss(batch, *given)
    torch.testing.assert_close(loss, expected)


def test_without_weight_only_the_bellman_error_is_left():
    method = bind_offline(pal.CQL(**SMALL_DATA, conservative_weight=0.0))
    batch = pendulum_batch()
    loss, metrics = method.critic_loss(batch, *draw())
    assert float(loss.detach()) == float(metrics["loss/critic"])


def test_critics_step_first_then_the_actor_and_the_targets_follow():
    method, reference = (bind_offline(pal.CQL(**SMALL_DATA)) for _ in range(2))
    batch = pendulum_batch()
    method.update(batch, noise())
    generator = noise()
    uniform = torch.rand(4, 10, 1, generator=generator) * 2 - 1
    normal = torch.randn(4, 21, 1, generator=generator)
    targets = [p.clone() for p in reference.targets.parameters()]
    reference.critic_optimiser.descend(reference.critic_loss, batch, uniform, normal)
    drawn = reference.actor.normal_noise(batch, generator)
    reference.actor_optimiser.descend(reference.actor_loss, batch.obs, torch.tensor(1.0), drawn)
    moved = [torch.lerp(old, new, 0.005) for old, new in zip(targets, reference.critics.parameters(), strict=True)]
    for ours, theirs in ((method.critics, reference.critics), (method.actor, reference.actor)):
        torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()))
    torch.testing.assert_close(list(method.targets.parameters()), moved)


@pytest.mark.parametrize(("gap", "grows"), [(-100.0, True), (100.0, False)])
def test_the_factor_grows_while_the_gap_is_too_large_and_scales_the_penalty(gap, grows):
    method = bind_offline(pal.CQL(**SMALL_DATA, gap=gap, conservative_weight=2.0))
    batch = pendulum_batch()
    given = draw()
    plain = bind_offline(pal.CQL(**SMALL_DATA, conservative_weight=2.0 * math.e))
    ours = torch.autograd.grad(method.critic_loss(batch, *given)[0], list(method.critics.parameters()))
    theirs = torch.autograd.grad(plain.critic_loss(batch, *given)[0], list(plain.critics.parameters()))
    torch.testing.assert_close(ours, theirs)  # the factor starts at e
    method.update(batch, noise())
    assert (float(method.log_factor) > 1.0) == grows


def test_it_values_recorded_actions_above_others_where_rewards_say_nothing():
    method = bind_offline(pal.CQL(network=(32,), lr=3e-3, gamma=0.0))
    batch = pendulum_batch(reward=torch.zeros(4), action=torch.full((4, 1), 0.5))
    for method.counters.updates in range(300):
        method.update(batch, noise())
    with torch.no_grad():
        recorded, other = (method.critics.q(batch.obs, torch.full((4, 1), a)).mean() for a in (0.5, -0.5))
    assert float(recorded - other) > 1.0


def test_a_fixed_temperature_stays():
    method = bind_offline(pal.CQL(**SMALL_DATA, alpha=0.25))
    assert float(method.update(pendulum_batch(), noise())["policy/alpha"]) == 0.25
    assert float(method.log_alpha.exp()) == 0.25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"proposals": 0}, "proposals must be at least 1"),
        ({"conservative_weight": -1.0}, "conservative_weight must not be negative"),
        ({"alpha": -1.0}, "alpha must not be negative"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(BadSetting, match=message):
        pal.CQL(**settings).check()
