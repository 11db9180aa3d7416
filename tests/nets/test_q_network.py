"""The Q-network where it has several estimates, or a model of the data's actions."""

from __future__ import annotations

import gymnasium
import pytest
import torch

import palaestra as pal
from palaestra.nets.q_network import QNetwork

OBS = gymnasium.spaces.Box(-1, 1, (4,))
ACTIONS = gymnasium.spaces.Discrete(3)


def network(**settings) -> QNetwork:
    torch.manual_seed(0)
    return QNetwork(OBS, ACTIONS, (8,), **settings)


@pytest.mark.parametrize("dueling", [False, True])
def test_the_value_is_the_mean_of_the_estimates(dueling):
    net = network(estimates=5, dueling=dueling)
    obs = torch.randn(6, 4)
    assert net.each(obs).shape == (6, 5, 3)
    torch.testing.assert_close(net(obs), net.each(obs).mean(1))
    torch.testing.assert_close(net.act(obs, greedy=True).action, net.each(obs).mean(1).argmax(-1))


@pytest.mark.parametrize(
    "settings", [{}, {"dueling": True}, {"network": lambda inputs, outputs: torch.nn.Linear(inputs, outputs)}]
)
def test_a_mixture_of_the_estimates_is_that_of_their_values(settings):
    torch.manual_seed(0)
    net = QNetwork(OBS, ACTIONS, **{"network": (8,), "estimates": 5, **settings})
    obs, mix = torch.randn(6, 4), torch.tensor([0.1, 0.4, 0.0, 0.2, 0.3])
    ours, plain = net.mixed(obs, mix), (mix[:, None] * net.each(obs)).sum(1)
    torch.testing.assert_close(ours, plain)
    for a, b in zip(
        *(torch.autograd.grad(out.square().sum(), [*net.parameters()]) for out in (ours, plain)), strict=True
    ):
        torch.testing.assert_close(a, b)


def filtered(probabilities: list[float], values: list[float], threshold: float = 0.3) -> QNetwork:
    """A network that answers the same everywhere."""
    net = network(threshold=threshold)
    net.forward = lambda obs: torch.tensor([values]).expand(len(obs), -1)
    net.behaviour = lambda obs: torch.tensor([probabilities]).log().expand(len(obs), -1)
    return net


def test_an_action_that_the_data_hardly_have_is_not_preferred_however_high_its_value():
    act = filtered([0.7, 0.2, 0.1], [0.0, 9.0, 8.0]).act(torch.zeros(2, 4), greedy=True)
    assert act.action.tolist() == [0, 0]
    act = filtered([0.6, 0.2, 0.2], [0.0, 9.0, 8.0]).act(torch.zeros(2, 4), greedy=True)
    assert act.action.tolist() == [1, 1]


def test_how_likely_is_judged_among_the_allowed_actions():
    net = filtered([0.9, 0.06, 0.04], [9.0, 0.0, 1.0])
    mask = torch.tensor([[False, True, True]])
    assert net.act(torch.zeros(1, 4), greedy=True, action_mask=mask).action.tolist() == [2]


@pytest.mark.parametrize("settings", [{"estimates": 4}, {"threshold": 0.3}, {"standardise": True}])
def test_saved_and_loaded_it_acts_alike(settings):
    net = network(**settings)
    net.encoder.fit(torch.randn(50, 4) * 3 + 1)
    net.epsilon.zero_()
    loaded = pal.load_policy(net.save("policy"))
    obs = torch.randn(20, 4)
    torch.testing.assert_close(loaded.preferences(obs), net.preferences(obs))
