"""Quantile-regression DQN: its target, and the degenerate case of a single quantile."""

from __future__ import annotations

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting

from .tiny import SMALL_DATA, bind_offline, cartpole_batch


def bound(**settings):
    return bind_offline(pal.QRDQN(**SMALL_DATA, **settings), "CartPole-v1")


def test_the_loss_of_one_quantile_is_half_of_double_dqns():
    quantile, dqn = bound(quantiles=1), bind_offline(pal.DQNOffline(**SMALL_DATA), "CartPole-v1")
    batch = cartpole_batch(terminated=torch.tensor([0.0, 1.0, 0.0, 0.0]))
    torch.testing.assert_close(quantile.loss(batch)[0], 0.5 * dqn.loss(batch)[0])


def test_the_target_is_the_whole_distribution_of_the_action_with_the_best_mean():
    method = bound(quantiles=2, gamma=0.5)
    method.q.forward = lambda obs: torch.tensor([[0.0, 1.0]]).expand(4, -1)
    # per quantile the values of the two actions: action 1 has quantiles 2 and 6
    method.target.each = lambda obs: torch.tensor([[[100.0, 2.0], [100.0, 6.0]]]).expand(4, 2, 2)
    y = method.goal(cartpole_batch(terminated=torch.tensor([0.0, 1.0, 0.0, 0.0])))
    assert y.tolist() == [[2.0, 4.0], [1.0, 1.0], [2.0, 4.0], [2.0, 4.0]]


@pytest.mark.parametrize("released", [False, True])
def test_it_learns_the_quantiles_of_a_random_return_unless_in_the_released_form(released):
    method = bound(quantiles=4, released=released, gamma=0.0, lr=1e-2, huber=0.01)
    # one state and action, rewards 0, 1, 2, 3 in equal shares: the quantiles at 1/8, 3/8, 5/8, 7/8
    batch = cartpole_batch(
        obs=torch.ones(4, 4),
        action=torch.zeros(4, dtype=torch.int64),
        reward=torch.arange(4.0),
        next_obs=torch.ones(4, 4),
    )
    for _ in range(500):
        method.learn(batch)
    found = method.q.each(batch.obs)[0, :, 0].detach()
    if released:
        assert float(found.max() - found.min()) < 0.3
    else:
        torch.testing.assert_close(found, torch.arange(4.0), atol=0.15, rtol=0)


def test_there_must_be_a_quantile():
    with pytest.raises(BadSetting, match="quantiles must be at least 1"):
        bound(quantiles=0)
