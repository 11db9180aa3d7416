"""Conservative Q-learning of discrete actions: the penalty by hand, and what it does to values."""

from __future__ import annotations

import math

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting

from .tiny import SMALL_DATA, answering, bind_offline, cartpole_batch


def bound(**settings):
    return bind_offline(pal.CQLDiscrete(**SMALL_DATA, **settings), "CartPole-v1")


def test_with_equal_values_the_penalty_is_alpha_log_n():
    method = bound(gamma=0.0, alpha=0.3)
    answering(method.q, [1.0, 1.0])
    loss, metrics = method.loss(cartpole_batch())
    assert float(metrics["loss/critic"]) == 0.0
    assert float(loss) == pytest.approx(0.3 * math.log(2))


def test_without_its_penalty_it_is_double_dqn():
    cql, dqn = bound(alpha=0.0), bind_offline(pal.DQNOffline(**SMALL_DATA), "CartPole-v1")
    for _ in range(3):
        cql.step(), dqn.step()
    for ours, theirs in zip(cql.q.parameters(), dqn.q.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_penalty_lowers_actions_that_the_data_lack_below_the_recorded_ones():
    method = bound(alpha=1.0, gamma=0.0, lr=1e-2)
    batch = cartpole_batch(action=torch.zeros(4, dtype=torch.int64))
    for _ in range(100):
        method.learn(batch)
    values = method.q(batch.obs)
    assert bool((values[:, 0] > values[:, 1] + 1).all())


def test_a_negative_weight_is_refused():
    with pytest.raises(BadSetting, match="alpha must not be negative"):
        bound(alpha=-0.1)
