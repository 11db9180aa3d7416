"""The U-Net over time: shapes at any length, what depends on what, and channels that cannot be."""

from __future__ import annotations

import pytest
import torch

from palaestra.core.errors import BadSetting
from palaestra.nets.unet import TemporalUNet


@pytest.mark.parametrize("channels", [(16,), (16, 32), (16, 16, 24)])
@pytest.mark.parametrize("length", [4, 7, 33])
def test_trajectories_keep_their_shape_whatever_their_length(channels, length):
    net = TemporalUNet(5, channels)
    assert net(torch.randn(3, length, 5), torch.randn(3)).shape == (3, length, 5)


def test_each_trajectory_has_its_own_time_and_depends_on_no_other():
    torch.manual_seed(0)
    net, x = TemporalUNet(3, (16, 16)), torch.randn(2, 8, 3)
    both = net(x, torch.tensor([0.1, 2.0]))
    torch.testing.assert_close(both[:1], net(x[:1], torch.tensor([0.1])))
    assert not torch.allclose(both[:1], net(x[:1], torch.tensor([2.0])))


def test_every_parameter_is_used():
    net = TemporalUNet(3, (16, 16, 16))
    net(torch.randn(2, 8, 3), torch.randn(2)).square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in net.parameters())


@pytest.mark.parametrize("channels", [(), (24, 24), (16, 12), (0,)])
def test_channels_that_cannot_be_divided_are_refused(channels):
    with pytest.raises(BadSetting, match="channels must be multiples of 8, the first of 16"):
        TemporalUNet(3, channels)
