"""Monte Carlo estimation: its targets are the returns in the data."""

from __future__ import annotations

import torch

import palaestra as pal

from .tiny import SMALL_DATA, bind_offline


def test_the_target_of_three_rewards_of_one():
    method = bind_offline(pal.MCE(**SMALL_DATA, gamma=0.5), "CartPole-v1")  # which gives 1 a step
    steps = method.data.dataset.steps
    for stop in method.data.dataset.stops.tolist():
        assert steps.target[stop - 3 : stop].tolist() == [1.75, 1.5, 1.0]
    assert method.goal(steps[:3]) is not None
    assert torch.equal(method.goal(steps), steps.target)


def test_rewards_count_as_they_are_scaled():
    plain, scaled = (
        bind_offline(pal.MCE(**SMALL_DATA, reward_scale=s, reward_shift=b), "CartPole-v1").data.dataset.steps.target
        for s, b in ((1.0, 0.0), (2.0, 1.0))
    )
    torch.testing.assert_close(scaled, 3 * plain)


def test_an_update_moves_the_values_towards_the_returns():
    method = bind_offline(pal.MCE(network=(32,), lr=3e-3, batch_size=64), "CartPole-v1")
    steps = method.data.dataset.steps
    before = float(method.loss(steps)[1]["loss/critic"].detach())
    for _ in range(100):
        method.step()
    assert float(method.loss(steps)[1]["loss/critic"].detach()) < 0.5 * before
