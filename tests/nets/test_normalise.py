"""Running statistics: the same whatever the pieces, and saved whole."""

from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from palaestra.nets.normalise import ReturnScale, RunningNorm


@settings(max_examples=30)
@given(st.integers(0, 2**20), st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_mean_and_variance_are_those_of_all_data_whatever_the_pieces(seed, sizes):
    data = 3 + 2 * torch.randn(sum(sizes), 2, generator=torch.Generator().manual_seed(seed))
    norm = RunningNorm(2)
    for piece in data.split(sizes):
        norm.update(piece)
    # The prior, mean 0 and variance 1, counts as 1e-4 of a sample.
    torch.testing.assert_close(norm.mean, data.mean(0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(norm.var, data.var(0, unbiased=False), rtol=1e-2, atol=1e-2)


def test_it_standardises_and_clips():
    norm = RunningNorm(1, clip=2.0)
    assert norm(torch.tensor([[0.5], [9.0]])).tolist() == [[0.5], [2.0]]  # nothing seen yet: unchanged but for the clip
    norm.update(torch.tensor([[8.0], [12.0]]).repeat(1000, 1))
    torch.testing.assert_close(norm(torch.tensor([[12.0], [-1e6]])), torch.tensor([[1.0], [-2.0]]), atol=1e-3, rtol=0)


def test_its_state_makes_an_equal_one():
    norm, other = RunningNorm(3), RunningNorm(3)
    norm.update(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)))
    other.load_state_dict(norm.state_dict())
    x = torch.randn(4, 3)
    assert torch.equal(norm(x), other(x))


def test_rewards_are_divided_by_the_deviation_of_the_discounted_return_by_hand():
    scale = ReturnScale(envs=1, gamma=0.5)
    reward, done = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[0.0], [1.0], [0.0]])
    # Returns so far: 1, 0.5 + 2 = 2.5, and 4 after the reset.
    deviation = torch.tensor([1.0, 2.5, 4.0]).std(unbiased=False)
    torch.testing.assert_close(scale(reward, done), reward / deviation, rtol=1e-3, atol=1e-3)
