"""Double DQN on logged data: its target, its target network, its policy."""

from __future__ import annotations

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting, Unsupported

from .tiny import SMALL_DATA, answering, bind_offline, cartpole_batch, noise


def bound(**settings):
    return bind_offline(pal.DQNOffline(**SMALL_DATA, **settings), "CartPole-v1")


def test_the_online_network_chooses_and_the_target_network_prices():
    method = bound(gamma=0.5)
    answering(method.target, [4.0, 2.0])
    answering(method.q, [0.0, 1.0])
    ends = torch.tensor([0.0, 0.0, 1.0, 0.0])
    assert method.goal(cartpole_batch(terminated=ends)).tolist() == [2.0, 2.0, 1.0, 2.0]
    assert method.goal(cartpole_batch(truncated=ends)).tolist() == [2.0, 2.0, 2.0, 2.0]


def test_errors_beyond_the_corner_cost_linearly():
    method = bound(gamma=0.0)
    answering(method.q, [4.0, 1.5])
    # errors 3, 1/2, 1/2, 3
    loss, metrics = method.loss(cartpole_batch())
    assert float(loss) == pytest.approx((2.5 + 0.125 + 0.125 + 2.5) / 4)
    assert metrics["loss/critic"] == loss


def test_the_target_network_is_copied_at_every_so_many_updates():
    method = bound(target_every=2)
    same = []
    for method.counters.updates in range(4):
        method.update(cartpole_batch(), noise())
        pairs = zip(method.target.parameters(), method.q.parameters(), strict=True)
        same.append(all(torch.equal(a, b) for a, b in pairs))
    assert same == [False, True, False, True]


def test_the_policy_acts_greedily_also_when_it_might_explore():
    method = bound()
    obs = torch.randn(50, 4)
    greedy = method.q(obs).argmax(-1)
    assert torch.equal(method.policy().act(obs, generator=noise()).action, greedy)


def test_continuous_actions_are_refused():
    with pytest.raises(Unsupported, match="dqn-offline needs discrete actions"):
        bind_offline(pal.DQNOffline(**SMALL_DATA))


@pytest.mark.parametrize("setting", ["target_every", "huber"])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(BadSetting, match=setting):
        bound(**{setting: 0})
