"""Soft actor-critic against exact cases: densities, a bandit, a tabular soft MDP, the temperature's step."""

from __future__ import annotations

import math

import gymnasium
import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting, Unsupported
from palaestra.core.method import make_method
from palaestra.nets.distributions import SquashedGaussian
from palaestra.objectives.policy import entropy_regularised, log_temperature, temperature
from palaestra.objectives.value import soft_value, td_target

from .tiny import SMALL, Unbounded, bind, noise, pendulum_batch


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-1.0, 0.3), (0.5, 3.0), (5.0, 0.05), (-9.0, 0.5)])
def test_the_density_of_squashed_actions_integrates_to_one(mean, std):
    u = torch.linspace(mean - 9 * std, mean + 9 * std, 200_001, dtype=torch.float64)
    one = torch.ones(len(u), 1, dtype=torch.float64)
    density = SquashedGaussian(mean * one, std * one).logp_unsquashed(u.unsqueeze(1)).exp()
    assert float(torch.trapezoid(density, torch.tanh(u))) == pytest.approx(1.0, abs=1e-6)


def test_a_sample_carries_the_density_that_scoring_it_finds():
    dist = SquashedGaussian(torch.tensor([[0.3, -4.0]]), torch.tensor([[0.5, 2.0]]))
    action, logp, u = dist.rsample_unsquashed(torch.tensor([[1.0, -0.5]]))
    torch.testing.assert_close(action, torch.tanh(u))
    torch.testing.assert_close(logp, dist.logp_unsquashed(u))


def test_the_gradients_of_a_sample_are_those_of_plain_autograd():
    eps = torch.tensor([[0.7, -1.3]], dtype=torch.float64)
    mean = torch.tensor([[0.3, -2.0]], dtype=torch.float64, requires_grad=True)
    std = torch.tensor([[0.5, 1.5]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, s: SquashedGaussian(m, s).rsample(eps), (mean, std))


def test_the_actor_loss_finds_the_best_policy_of_a_bandit():
    """One state, Q(a) = -(a - 0.3)^2 / 0.02, fixed alpha: as good as the best of a fine grid over (mean, std)."""
    alpha = torch.tensor(0.2, dtype=torch.float64)
    levels = (torch.arange(1001, dtype=torch.float64) + 0.5) / 1001
    eps = (math.sqrt(2) * torch.erfinv(2 * levels - 1)).unsqueeze(1)

    def loss(mean, log_std):
        dist = SquashedGaussian(mean.expand_as(eps), log_std.exp().expand_as(eps))
        action, logp = dist.rsample(eps)
        return entropy_regularised(logp, -(action[:, 0] - 0.3).square() / 0.02, alpha)

    mean, log_std = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (-1.0, 0.0))
    optimiser = torch.optim.Adam([mean, log_std], 0.03)
    for _ in range(600):
        optimiser.zero_grad()
        loss(mean, log_std).backward()
        optimiser.step()
    with torch.no_grad():
        best = min(
            float(loss(m, s))
            for m in torch.linspace(0.2, 0.45, 26, dtype=torch.float64)
            for s in torch.linspace(-4.0, -2.0, 41, dtype=torch.float64)
        )
        assert float(loss(mean, log_std)) <= best + 1e-3


def test_the_soft_backup_agrees_with_soft_value_iteration_on_a_table():
    """Two states, two actions, exact expectations: the library's backup against r + gamma P alpha logsumexp(Q/alpha)."""
    reward = torch.tensor([[1.0, -0.5], [0.2, 2.0]], dtype=torch.float64)
    chances = torch.tensor([[[0.9, 0.1], [0.3, 0.7]], [[0.5, 0.5], [0.0, 1.0]]], dtype=torch.float64)  # P[s, a, s']
    alpha, gamma = 0.4, 0.95
    ours, exact = torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    for _ in range(1000):
        logp = (ours / alpha).log_softmax(-1)
        value = (logp.exp() * soft_value(ours, logp, alpha)).sum(-1)
        ours = td_target(reward, chances @ value, torch.zeros_like(reward), gamma)
        exact = reward + gamma * chances @ (alpha * (exact / alpha).logsumexp(-1))
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-10)


def test_one_step_of_the_temperature_moves_log_alpha_by_lr_alpha_c():
    """With log pi + H = c everywhere; alpha rises where entropy is below its target (c > 0)."""
    log_alpha, c, lr = torch.tensor(0.7, requires_grad=True), 0.3, 0.1
    (slope,) = torch.autograd.grad(temperature(log_alpha, torch.full((5,), 1.0 + c), -1.0), log_alpha)
    assert float(-lr * slope) == pytest.approx(lr * math.exp(0.7) * c)
    (slope,) = torch.autograd.grad(log_temperature(log_alpha, torch.full((5,), 1.0 + c), -1.0), log_alpha)
    assert float(-lr * slope) == pytest.approx(lr * c)


def test_the_temperature_does_not_train_the_policy():
    logp = torch.zeros(3, requires_grad=True)
    assert not torch.autograd.grad(
        temperature(torch.tensor(0.0, requires_grad=True), logp, -1.0), logp, allow_unused=True
    )[0]


def first_critic_loss(method, **fields) -> float:
    return float(bind(method).update(pendulum_batch(**fields), noise())["loss/critic"])


def test_a_time_limit_does_not_stop_the_bootstrap_but_an_end_does():
    plain = first_critic_loss(pal.SAC(**SMALL))
    assert first_critic_loss(pal.SAC(**SMALL), truncated=torch.ones(4)) == plain
    assert first_critic_loss(pal.SAC(**SMALL), terminated=torch.ones(4)) != plain


def test_after_an_end_the_target_is_the_scaled_reward():
    sac = bind(pal.SAC(**SMALL, reward_scale=3.0))
    batch = pendulum_batch(terminated=torch.ones(4))
    with torch.no_grad():
        expected = 0.5 * (sac.critics.q(batch.obs, batch.action) - 3 * batch.reward).square().mean(1).sum()
    assert float(sac.update(sac.scaled(batch), noise())["loss/critic"]) == pytest.approx(float(expected), rel=1e-5)


def test_a_fixed_temperature_stays_where_it_is():
    sac = bind(pal.SAC(**SMALL, alpha=0.2))
    sac.update(pendulum_batch(), noise())
    assert float(sac.log_alpha.detach().exp()) == pytest.approx(0.2)


def test_the_target_entropy_is_minus_the_number_of_actions_unless_given():
    assert bind(pal.SAC(**SMALL)).entropy_goal == -1.0
    assert bind(pal.SAC(**SMALL, target_entropy=-0.3)).entropy_goal == -0.3


def test_targets_move_by_tau():
    sac = bind(pal.SAC(**SMALL, tau=0.25))
    before = [p.clone() for p in sac.targets.parameters()]
    sac.update(pendulum_batch(), noise())
    for old, new, online in zip(before, sac.targets.parameters(), sac.critics.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * online)


def test_the_mean_of_the_critics_is_an_option_for_the_actor():
    losses = [
        float(bind(pal.SAC(**SMALL, actor_q=which)).update(pendulum_batch(), noise())["loss/actor"])
        for which in ("min", "mean")
    ]
    assert losses[0] > losses[1]  # alpha log pi - Q: the smaller Q gives the larger loss


@pytest.mark.parametrize("name", ["sac", "dsac-t", "dsac-v1", "td3", "ddpg"])
def test_discrete_actions_are_refused_and_methods_that_fit_are_named(name):
    with pytest.raises(Unsupported, match=rf"{name} needs box actions.*CartPole-v1.*Discrete\(2\).*dqn"):
        bind(make_method(name, SMALL), "CartPole-v1")


@pytest.mark.parametrize("name", ["sac", "dsac-t", "td3"])
def test_unbounded_actions_are_refused_with_the_remedy(name):
    with pytest.raises(Unsupported, match=r"unbounded.*RescaleAction"):
        bind(make_method(name, SMALL), Unbounded)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 1.1}, r"gamma must be between 0 and 1"),
        ({"tau": 0.0}, r"tau must be in \(0, 1\]"),
        ({"alpha": -1.0}, "alpha must not be negative"),
        ({"batch_size": 300, "buffer_size": 200}, r"buffer_size \(200\) must hold a batch \(300\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(BadSetting, match=message):
        bind(pal.SAC(**settings))


def test_it_learns_from_images():
    class Pixels(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 255, (12, 12, 3), dtype="uint8")
        action_space = gymnasium.spaces.Box(-1, 1, (2,))

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.observation_space.low, {}

        def step(self, action):
            return self.observation_space.high, 0.0, False, False, {}

    sac = bind(pal.SAC(**SMALL), Pixels)
    for _ in range(12):
        metrics = sac.step()
    assert torch.isfinite(metrics["loss/critic"])
