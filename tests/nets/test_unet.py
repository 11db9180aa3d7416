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


@pytest.mark.parametrize("step_norm", [True, False])
def test_by_step_norms_the_far_end_of_a_trajectory_does_not_matter(step_norm):
    torch.manual_seed(0)
    net, x = TemporalUNet(3, (16,), step_norm), torch.randn(1, 12, 3)
    other = x.clone()
    other[0, 11] += 1.0
    before, after = (net(y, torch.zeros(1))[0, 0] for y in (x, other))
    assert torch.allclose(before, after) == step_norm


def test_a_step_norm_by_hand():
    norm = TemporalUNet(3, (16,), step_norm=True).inward[0].first.norm
    x = torch.randn(2, 16, 5)
    pair = x[1, 2:4, 3]  # two channels make a group
    expected = (pair - pair.mean()) / (pair.var(unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(norm(x)[1, 2:4, 3], expected)


def test_every_parameter_is_used():
    net = TemporalUNet(3, (16, 16, 16))
    net(torch.randn(2, 8, 3), torch.randn(2)).square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in net.parameters())


@pytest.mark.parametrize("channels", [(), (24, 24), (16, 12), (0,)])
def test_channels_that_cannot_be_divided_are_refused(channels):
    with pytest.raises(BadSetting, match="channels must be multiples of 8, the first of 16"):
        TemporalUNet(3, channels)
