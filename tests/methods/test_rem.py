"""Random ensemble mixture: one mixture an update, and the degenerate one of a single head."""

from __future__ import annotations

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting

from .tiny import SMALL_DATA, bind_offline, cartpole_batch, noise


def bound(**settings):
    return bind_offline(pal.REM(**SMALL_DATA, **settings), "CartPole-v1")


def test_one_head_is_double_dqn():
    rem, dqn = bound(heads=1), bind_offline(pal.DQNOffline(**SMALL_DATA), "CartPole-v1")
    for _ in range(3):
        rem.step(), dqn.step()
    for ours, theirs in zip(rem.q.parameters(), dqn.q.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_mixtures_are_convex():
    (mix,) = bound(heads=7).draw(noise())
    assert mix.shape == (7,)
    assert float(mix.min()) >= 0
    assert float(mix.sum()) == pytest.approx(1)


def test_the_online_heads_and_the_targets_are_mixed_alike():
    method = bound(heads=2, gamma=0.5)
    heads = torch.tensor([[[1.0, 0.0], [0.0, 5.0]]]).expand(4, 2, 2)  # two heads of two actions
    method.q.mixed = method.target.mixed = lambda obs, mix: torch.einsum("k,bkn->bn", mix, heads)
    for mix, target in (([1.0, 0.0], 1.5), ([0.0, 1.0], 3.5)):
        assert method.goal(cartpole_batch(), torch.tensor(mix)).tolist() == [target] * 4
    _, metrics = method.loss(cartpole_batch(), torch.tensor([1.0, 0.0]))
    assert float(metrics["value/q"]) == 0.5  # actions 0, 1, 1, 0 by the first head


def test_the_mean_of_the_heads_acts():
    method = bound(heads=5)
    obs = torch.randn(20, 4)
    assert torch.equal(method.policy().act(obs, greedy=True).action, method.q.each(obs).mean(1).argmax(-1))


def test_there_must_be_a_head():
    with pytest.raises(BadSetting, match="heads must be at least 1"):
        bound(heads=0)
