"""Policy losses: each branch by hand, and the identities between them."""

from __future__ import annotations

import pytest
import torch

from palaestra.objectives.policy import (
    entropy_regularised,
    mirror_descent,
    mirror_descent_off_policy,
    policy_gradient,
    ppo_clip,
    ratio_metrics,
    surrogate,
)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.1, 2.0, -2.2, -2.2),  # inside the clip: the plain ratio
        (1.5, 2.0, -2.4, 0.0),  # too likely already: clipped at 1.2, no gradient
        (0.5, 2.0, -1.0, -1.0),  # a good action made unlikely: not clipped, pulled back
        (1.5, -2.0, 3.0, 3.0),  # a bad action made likely: not clipped, pushed down
        (0.5, -2.0, 1.6, 0.0),  # a bad action unlikely enough: clipped at 0.8, no gradient
    ],
)
def test_ppo_clips_only_where_the_step_has_gone_far_enough(ratio, advantage, loss, slope):
    logp = torch.tensor([ratio]).log().requires_grad_()
    value, _ = ppo_clip(logp, torch.zeros(1), torch.tensor([advantage]), clip=0.2)
    value.backward()
    assert value.item() == pytest.approx(loss)
    assert logp.grad.item() == pytest.approx(slope)


@pytest.mark.parametrize(
    ("advantage", "high", "slope"),
    [
        (1.0, 0.2, 0.0),  # a good action, likely enough
        (1.0, 0.28, -1.25),  # not yet
        (-1.0, 0.2, 1.25),  # a bad action is pushed down, however far up the clip reaches
        (-1.0, 0.28, 1.25),
    ],
)
def test_a_wider_clip_upwards_lets_good_actions_grow_and_changes_nothing_for_bad_ones(advantage, high, slope):
    logp = torch.tensor([1.25]).log().requires_grad_()
    loss, _ = ppo_clip(logp, torch.zeros(1), torch.tensor([advantage]), (0.2, high))
    loss.backward()
    assert logp.grad.item() == pytest.approx(slope)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (2.0, -1.0, 2.0, 2.0),  # below the cap
        (10.0, -1.0, 3.0, 0.0),  # a bad action that became so likely is no longer followed
        (10.0, 1.0, -1.2, 0.0),  # good actions are not its business
        (0.5, -1.0, 0.8, 0.0),
    ],
)
def test_a_dual_clip_caps_the_loss_of_bad_actions_alone(ratio, advantage, loss, slope):
    logp = torch.tensor([ratio]).log().requires_grad_()
    value, _ = ppo_clip(logp, torch.zeros(1), torch.tensor([advantage]), 0.2, cap=3.0)
    value.backward()
    assert value.item() == pytest.approx(loss)
    assert logp.grad.item() == pytest.approx(slope, rel=1e-5)


def test_weights_in_place_of_a_mean_give_a_weighted_sum():
    logp, old, advantage = 0.1 * torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([1.0, 0, 1, 1, 0, 1])
    torch.testing.assert_close(
        ppo_clip(logp, old, advantage, 0.2, weight=mask / 4)[0], ppo_clip(logp, old, advantage, 0.2, mask)[0]
    )
    doubled, _ = ppo_clip(logp, old, advantage, 0.2, weight=2 * torch.ones(6))
    torch.testing.assert_close(doubled, 12 * ppo_clip(logp, old, advantage, 0.2)[0])


def test_ppo_reports_the_share_of_clipped_steps_and_an_estimate_of_kl():
    logp = torch.tensor([0.0, 1.0, -0.1, 0.1])
    _, ratio = ppo_clip(logp, torch.zeros(4), torch.ones(4), clip=0.2)
    metrics = ratio_metrics(ratio, clip=0.2)
    assert metrics["policy/clipped"].item() == 0.25
    assert metrics["policy/kl"].item() == pytest.approx((logp.exp() - 1 - logp).mean().item())


@pytest.mark.parametrize("loss", [lambda *a: ppo_clip(*a, clip=0.2)[0], surrogate])
def test_at_ratio_1_the_gradient_is_the_policy_gradient(loss):
    old, advantage = torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
    logp = old.clone().requires_grad_()
    (expected,) = torch.autograd.grad(policy_gradient(logp, advantage), logp)
    (gradient,) = torch.autograd.grad(loss(logp, old, advantage), logp)
    torch.testing.assert_close(gradient, expected)


def test_masked_steps_change_neither_loss_nor_metrics():
    generator = torch.Generator().manual_seed(0)
    logp, old, advantage, divergence = torch.randn(4, 6, generator=generator)
    mask = torch.tensor([1.0, 0, 1, 1, 0, 1])
    kept = [x[mask.bool()] for x in (logp, old, advantage, divergence)]
    torch.testing.assert_close(policy_gradient(logp, advantage, mask), policy_gradient(kept[0], kept[2]))
    torch.testing.assert_close(surrogate(logp, old, advantage, mask), surrogate(*kept[:3]))
    torch.testing.assert_close(
        mirror_descent(logp, old, advantage, divergence, 0.5, mask), mirror_descent(*kept, step_size=0.5)
    )
    masked, ratio = ppo_clip(logp, old, advantage, 0.2, mask)
    plain, fewer = ppo_clip(*kept[:3], clip=0.2)
    torch.testing.assert_close(masked, plain)
    torch.testing.assert_close(ratio_metrics(ratio, 0.2, mask), ratio_metrics(fewer, 0.2))


def test_masked_steps_receive_no_gradient_from_ppo():
    logp, old, advantage = 0.1 * torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([1.0, 0, 1, 1, 0, 1])
    logp.requires_grad_()
    kept = [x[mask.bool()] for x in (logp, old, advantage)]
    (gradient,) = torch.autograd.grad(ppo_clip(logp, old, advantage, 0.2, mask)[0], logp)
    (expected,) = torch.autograd.grad(ppo_clip(*kept, clip=0.2)[0], logp)
    torch.testing.assert_close(gradient, expected)


def test_the_mirror_descent_loss_by_hand():
    logp, old = torch.tensor([2.0, 0.5]).log(), torch.zeros(2)
    loss = mirror_descent(logp, old, torch.tensor([1.0, -4.0]), torch.tensor([0.2, 0.6]), step_size=0.5)
    assert loss.item() == pytest.approx(-(2 - 2) / 2 + 0.4 / 0.5)


def test_the_off_policy_mirror_descent_loss_by_hand():
    new, old, q = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0]), torch.tensor([5.0, 7.0])
    # c = 1/t = 4, q = 1.5: 4 * 2 + 1.5 * (1 - 4) * 3 - 6
    loss = mirror_descent_off_policy(new, old, q, step_size=0.25, alpha=1.0, index=1.5)
    assert loss.item() == pytest.approx(8 - 13.5 - 6)


def test_with_step_size_1_over_alpha_the_off_policy_loss_is_soft_actor_critics():
    logp, previous, q = torch.randn(3, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha = 0.2
    ours = mirror_descent_off_policy(logp, previous, q, step_size=1 / alpha, alpha=alpha)
    torch.testing.assert_close(
        ours, entropy_regularised(logp, q, torch.tensor(alpha, dtype=torch.float64)), rtol=0, atol=1e-12
    )
