"""Behaviour cloning of continuous and of discrete actions."""

from __future__ import annotations

import math

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting

from .tiny import SMALL_DATA, bind_offline, noise, pendulum_batch


def test_in_a_box_the_loss_is_the_mean_squared_distance():
    method = bind_offline(pal.BC(**SMALL_DATA))
    batch = pendulum_batch()
    with torch.no_grad():
        expected = (method.actor(batch.obs) - batch.action).square().mean()
    torch.testing.assert_close(method.update(batch, noise())["loss/actor"], expected)


def test_of_discrete_actions_the_loss_is_minus_the_log_likelihood():
    method = bind_offline(pal.BC(**SMALL_DATA), "CartPole-v1")
    method.actor.net.forward = lambda x: torch.tensor([[math.log(3.0), 0.0]]).expand(len(x), 2)
    loss, _ = method.loss(torch.zeros(2, 4), torch.tensor([0, 1]))
    assert float(loss) == pytest.approx(-0.5 * (math.log(0.75) + math.log(0.25)))


def test_it_learns_the_recorded_actions_exactly_where_they_are_a_function_of_the_state():
    method = bind_offline(pal.BC(network=(32,), lr=1e-2))
    batch = pendulum_batch()
    for _ in range(400):
        method.update(batch, noise())
    torch.testing.assert_close(method.policy().act(batch.obs, greedy=True).action, batch.action, atol=0.02, rtol=0)


def test_it_learns_the_frequencies_of_discrete_actions_and_samples_by_them_if_told_to():
    method = bind_offline(pal.BC(network=(8,), lr=1e-2, acts="sample"), "CartPole-v1")
    obs, action = torch.zeros(4, 4), torch.tensor([0, 1, 1, 1])
    for _ in range(400):
        method.optimiser.descend(method.loss, obs, action)
    assert method.actor.distribution(obs).logits[0].exp().tolist() == pytest.approx([0.25, 0.75], abs=1e-3)
    evaluated = method.policy().act(torch.zeros(4000, 4), greedy=True, generator=noise()).action
    assert float(evaluated.float().mean()) == pytest.approx(0.75, abs=0.03)


def test_greedily_it_takes_the_more_frequent_action():
    method = bind_offline(pal.BC(network=(8,), lr=1e-2), "CartPole-v1")
    obs, action = torch.zeros(4, 4), torch.tensor([0, 1, 1, 1])
    for _ in range(100):
        method.optimiser.descend(method.loss, obs, action)
    assert set(method.policy().act(torch.zeros(100, 4), greedy=True).action.tolist()) == {1}


def test_it_may_be_shown_the_first_episodes_only():
    method = bind_offline(pal.BC(**SMALL_DATA, demonstrations=1))
    assert len(method.data) == 200
    with pytest.raises(BadSetting, match="demonstrations must be at least 1"):
        bind_offline(pal.BC(**SMALL_DATA, demonstrations=0))


@pytest.mark.parametrize(
    ("acts", "message"), [("boldly", "acts must be greedy or sample"), ("sample", "is for discrete")]
)
def test_a_way_of_acting_that_does_not_exist_or_fit_is_refused(acts, message):
    with pytest.raises(BadSetting, match=message):
        bind_offline(pal.BC(**SMALL_DATA, acts=acts))
