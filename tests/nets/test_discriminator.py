"""The discriminator: what it looks at, where its output ends, and that its gradient can be differentiated."""

from __future__ import annotations

import gymnasium
import pytest
import torch

from palaestra.nets.discriminator import Discriminator

OBS = gymnasium.spaces.Box(-9, 9, (3,))


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(5, 3, generator=g), torch.rand(5, 2, generator=g) * 2 - 1


def test_an_action_on_the_bounds_is_not_told_from_one_near_them():
    net, (obs, _) = Discriminator(OBS, 2, (8,)), pairs()
    torch.testing.assert_close(net(obs, torch.ones(5, 2)), net(obs, torch.full((5, 2), 0.9995)))
    assert not torch.equal(net(obs, torch.ones(5, 2)), net(obs, torch.full((5, 2), 0.99)))


def test_bounded_it_stays_within_one_and_is_the_tanh_of_the_unbounded():
    torch.manual_seed(0)
    net, (obs, action) = Discriminator(OBS, 2, (8,)), pairs()
    plain = net(100 * obs, action)
    net.bounded = True
    torch.testing.assert_close(net(100 * obs, action), plain.tanh())
    assert plain.abs().max().item() > 1


def test_the_absorbing_state_is_the_same_wherever_an_episode_ended():
    net, (obs, action) = Discriminator(OBS, 2, (8,), absorbing=True), pairs()
    features = net.features(obs, action, torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0]))
    assert features[1].tolist() == [0, 0, 0, 0, 0, 1]
    torch.testing.assert_close(net.judge(features)[[1, 3, 4]], net.at_absorbing().expand(3))
    torch.testing.assert_close(net.judge(features)[[0, 2]], net(obs, action)[[0, 2]])


@pytest.mark.parametrize(
    "network", [(8, 8), lambda n, m: torch.nn.Sequential(torch.nn.Linear(n, 4), torch.nn.Tanh(), torch.nn.Linear(4, m))]
)
@pytest.mark.parametrize("bounded", [False, True])
def test_twice_differentiable_it_is_the_same_function(network, bounded):
    net, (obs, action) = Discriminator(OBS, 2, network, bounded=bounded).double(), pairs()
    x = net.features(obs, action).double()
    torch.testing.assert_close(net.judge(x, twice=True), net.judge(x))
    assert torch.autograd.gradgradcheck(lambda x: net.judge(x, twice=True), x.detach().requires_grad_())
