"""DSAC-T and DSACv1: targets, the adaptive bound and scale, the delayed actor, and each refinement on its own."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting
from palaestra.methods.online import dsac_t
from palaestra.methods.online.dsac_t import gaussian
from palaestra.objectives.distributional import bounded_target, gaussian_return

from .tiny import SMALL, bind, noise, pendulum_batch

REWARD_ONLY = {"terminated": torch.ones(4)}


def fixed_critics(monkeypatch, q, std):
    """Make every critic answer `q` and `std`, `(P, B)`, whatever its parameters are."""

    def answer(critics, obs, action):
        zero = 0 * sum(p.sum() for p in critics.parameters())
        return torch.tensor(q) + zero, torch.tensor(std) + zero

    monkeypatch.setattr(dsac_t, "gaussian", answer)


def draws(critics: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Standard normal noise for the actions of `pendulum_batch` and for `critics` samples of each return."""
    g = noise()
    return torch.randn(4, 1, generator=g), torch.randn(critics, 4, generator=g)


def test_the_defaults_are_the_released_ones():
    method = pal.DSACT()
    assert (method.steps_per_round, method.delay_update, method.xi, method.epsilon) == (20, 2, 3.0, 0.1)
    actor = bind(pal.DSACT(**SMALL)).actor
    mean, raw = torch.zeros(1), torch.tensor([9.0])
    actor.net.forward = lambda x: torch.stack([mean, raw], -1)
    assert float(actor.distribution(torch.zeros(1, 3)).std) == pytest.approx(math.exp(0.5))


def test_alpha_starts_at_e():
    assert float(bind(pal.DSACT(**SMALL)).log_alpha.detach()) == pytest.approx(1.0)


def test_the_smaller_mean_gives_both_targets_even_where_its_sample_is_larger(monkeypatch):
    method = bind(pal.DSACT(**SMALL, gamma=1.0, alpha=0.0))
    # The second critic has the smaller mean everywhere and a deviation that throws its samples far to either side.
    fixed_critics(monkeypatch, q=[[1.0] * 4, [0.5] * 4], std=[[0.0] * 4, [100.0] * 4])
    batch = pendulum_batch(reward=torch.zeros(4))
    mean_target, std_target = method.targets(batch, torch.tensor(0.0), *draws())
    torch.testing.assert_close(mean_target, torch.full((4,), 0.5))
    assert (std_target > 1.0).any()


def test_samples_are_cut_off_at_three_deviations(monkeypatch):
    method = bind(pal.DSACT(**SMALL, gamma=1.0, alpha=0.0, twin=False))
    fixed_critics(monkeypatch, q=[[0.0] * 4], std=[[1.0] * 4])
    actions, _ = draws()
    returns = torch.tensor([[50.0, -50.0, 2.5, -3.5]])
    _, sampled = method.targets(pendulum_batch(reward=torch.zeros(4)), torch.tensor(0.0), actions, returns)
    assert sampled.tolist() == [3.0, -3.0, 2.5, -3.0]


def test_entropy_is_part_of_both_targets(monkeypatch):
    method = bind(pal.DSACT(**SMALL, gamma=0.5))
    fixed_critics(monkeypatch, q=[[2.0] * 4] * 2, std=[[0.0] * 4] * 2)
    batch = pendulum_batch(reward=torch.ones(4))
    actions, returns = draws()
    _, logp = method.target_actor.sample(batch.next_obs, actions)
    for target in method.targets(batch, torch.tensor(0.3), actions, returns):
        torch.testing.assert_close(target, 1 + 0.5 * (2 - 0.3 * logp))


def test_after_an_end_both_targets_are_the_scaled_reward():
    method = bind(pal.DSACT(**SMALL, reward_scale=3.0))
    batch = pendulum_batch(**REWARD_ONLY)
    for target in method.targets(method.scaled(batch), torch.tensor(1.0), *draws()):
        torch.testing.assert_close(target, 3 * batch.reward)


def test_a_time_limit_does_not_stop_the_bootstrap():
    method = bind(pal.DSACT(**SMALL))
    plain, cut = (
        method.targets(pendulum_batch(truncated=torch.full((4,), t)), torch.tensor(1.0), *draws()) for t in (0.0, 1.0)
    )
    torch.testing.assert_close(plain, cut)


@pytest.fixture
def adapt(monkeypatch):
    """The scale and the bound of each critic after one more update of a method, whose critics' deviations are `std`."""

    def adapt(method, std):
        fixed_critics(monkeypatch, q=[[0.0] * 4] * 2, std=std)
        method.update(pendulum_batch(), noise())
        return method.scale_and_bound(method.mean_std, method.mean_variance)

    return adapt


def test_bound_and_scale_start_at_the_first_batch_and_then_follow_at_tau(adapt):
    method = bind(pal.DSACT(**SMALL, tau=0.5))
    scale, bound = adapt(method, [[1.0, 3.0, 3.0, 1.0], [2.0] * 4])
    assert bound.flatten().tolist() == [6.0, 6.0]  # xi E[sigma]
    assert scale.flatten().tolist() == [5.0, 4.0]  # E[sigma^2]
    method.counters.updates = 1
    scale, bound = adapt(method, [[4.0] * 4, [2.0] * 4])
    assert bound.flatten().tolist() == [9.0, 6.0]
    assert scale.flatten().tolist() == [10.5, 4.0]


def test_the_released_form_scales_by_the_square_of_the_mean_deviation(adapt):
    scale, _ = adapt(bind(pal.DSACT(**SMALL, loss="released")), [[1.0, 3.0, 3.0, 1.0], [2.0] * 4])
    assert scale.flatten().tolist() == [4.0, 4.0]


def test_a_batchs_own_deviations_are_in_its_scale_and_bound():
    method, batch, alpha, samples = bind(pal.DSACT(**SMALL)), pendulum_batch(), torch.tensor(0.2), draws()
    before = torch.rand(2, 1, generator=noise()), torch.rand(2, 1, generator=noise())
    loss, found = method.critic_loss(batch, alpha, *samples, before, 0.25)
    q, std = gaussian(method.critics, batch.obs, batch.action)
    torch.testing.assert_close(found["mean_std"], 0.75 * before[0] + 0.25 * std.mean(1, keepdim=True))
    mean_target, sampled = method.targets(batch, alpha, *samples)
    scale, bound = method.scale_and_bound(found["mean_std"], found["mean_variance"])
    expected = gaussian_return(q, std, mean_target, bounded_target(sampled, q, bound), scale, method.epsilon)
    torch.testing.assert_close(loss, expected)


def test_actor_temperature_and_targets_move_at_every_second_update_only():
    method = bind(pal.DSACT(**SMALL))
    slow = [*method.actor.parameters(), *method.target_actor.parameters(), *method.target_critics.parameters()]
    slow.append(method.log_alpha)
    moved = []
    for method.counters.updates in range(4):
        before, critics = [p.clone() for p in slow], [p.clone() for p in method.critics.parameters()]
        method.update(pendulum_batch(), noise())
        same = [torch.equal(a, b) for a, b in zip(before, slow, strict=True)]
        moved.append(not any(same))
        assert all(same) or not any(same)
        assert not any(torch.equal(a, b) for a, b in zip(critics, method.critics.parameters(), strict=True))
    assert moved == [True, False, True, False]


def test_the_actor_sees_the_critics_before_their_own_step():
    method = bind(pal.DSACT(**SMALL, alpha=0.5))
    batch = pendulum_batch()
    with torch.no_grad():
        action, logp = method.actor.sample(batch.obs, method.actor.normal_noise(batch, noise()))
        expected = (0.5 * logp - method.critics.q(batch.obs, action).amin(0)).mean()
    torch.testing.assert_close(method.update(batch, noise())["loss/actor"], expected)


def test_without_refinement_one_the_mean_regresses_on_the_sample():
    method = bind(pal.DSACT(**SMALL, expected_target=False))
    mean_target, std_target = method.targets(pendulum_batch(), torch.tensor(1.0), *draws())
    assert mean_target is std_target


def test_without_refinement_two_there_is_one_critic():
    method = bind(pal.DSACT(**SMALL, twin=False))
    q, std = gaussian(method.critics, pendulum_batch().obs, pendulum_batch().action)
    assert q.shape == std.shape == (1, 4)
    assert (std > 0).all()


def test_without_refinement_three_bound_and_scale_are_constants():
    method = bind(pal.DSACT(**SMALL, td_bound=7.0))
    assert method.scale_and_bound(torch.ones(2, 1), torch.ones(2, 1)) == (1.0, 7.0)


def test_dsac_v1_is_dsac_t_without_its_refinements():
    batch = pendulum_batch()
    first = bind(pal.DSACV1(**SMALL))
    bare = bind(pal.DSACT(**SMALL, expected_target=False, twin=False, td_bound=1.0))
    torch.testing.assert_close(first.update(batch, noise()), bare.update(batch, noise()))
    assert first.critics.net.copies == 1


def test_in_other_units_of_return_the_critics_learn_in_proportion(monkeypatch):
    """Rewards, alpha, means and deviations times c: with epsilon 0 the critics' slopes are c times as large."""
    raw_q, raw_std = torch.randn(2, 4, generator=noise()), 0.5 + torch.rand(2, 4, generator=noise())

    def slopes(c):
        method = bind(pal.DSACT(**SMALL, epsilon=0.0, reward_scale=c, alpha=0.2 * c))
        q, std = (c * raw_q).requires_grad_(), (c * raw_std).requires_grad_()
        monkeypatch.setattr(dsac_t, "gaussian", lambda critics, obs, action: (q, std))
        batch, alpha = method.scaled(pendulum_batch()), method.log_alpha.detach().exp()
        loss, _ = method.critic_loss(batch, alpha, *draws(), (method.mean_std, method.mean_variance), 1.0)
        return torch.cat(torch.autograd.grad(loss, (q, std)))

    assert (slopes(1.0) != 0).all()
    torch.testing.assert_close(slopes(100.0), 100 * slopes(1.0), rtol=1e-4, atol=1e-4)


def test_it_warns_when_epsilon_swamps_the_variance():
    method = bind(pal.DSACT(**SMALL))
    method.mean_std.fill_(0.01)
    method.counters.updates = dsac_t.LOOK_EVERY - 1
    with pytest.warns(UserWarning, match=r"variance .* below epsilon \(0.1\).*plain SAC.*reward_scale"):
        method.warn_of_epsilon()


@pytest.mark.parametrize(("std", "updates"), [(1.0, dsac_t.LOOK_EVERY - 1), (0.01, 5)])
def test_it_does_not_warn_of_a_wide_critic_nor_look_at_every_update(std, updates):
    method = bind(pal.DSACT(**SMALL))
    method.mean_std.fill_(std)
    method.counters.updates = updates
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method.warn_of_epsilon()


def test_the_warm_up_acts_with_the_untrained_policy(monkeypatch):
    method = bind(pal.DSACT(**SMALL))
    monkeypatch.setattr(method.actor, "random_action", None)
    method.step()
    assert len(method.replay) == 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"delay_update": 0}, "delay_update must be at least 1"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"loss": "huber"}, "loss must be one of paper, released"),
        ({"td_bound": 0.0}, "td_bound must be positive"),
        ({"xi": -1.0}, "xi must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(BadSetting, match=message):
        bind(pal.DSACT(**settings))
