"""Scores of trajectories as rewards of steps, worked by hand."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from palaestra.objectives.trajectories import at_the_end, spread_evenly


def steps(*lengths: int, horizon: int, ends: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks and ends `(horizon, n)` of trajectories of these lengths."""
    place = torch.arange(horizon).unsqueeze(1)
    length = torch.tensor(lengths)
    return (place < length).float(), ((place == length - 1) & ends).float()


def test_a_queue_reward_of_a_half_over_a_hundred_steps_is_five_thousandths_each():
    mask, ended = steps(100, horizon=100)
    reward = spread_evenly(torch.tensor([0.5]), mask, ended, 100, gamma=0.99)
    torch.testing.assert_close(reward, torch.full((100, 1), 0.005))


def test_the_last_step_of_a_short_life_also_pays_for_those_that_are_missing():
    mask, ended = steps(2, 4, horizon=4)
    reward = spread_evenly(torch.tensor([0.8, 0.8]), mask, ended, 4, gamma=0.5)
    # Missing are two steps of 0.2, half and a quarter of which are 0.15.
    torch.testing.assert_close(reward.T, torch.tensor([[0.2, 0.35, 0.0, 0.0], [0.2, 0.2, 0.2, 0.2]]))


def test_what_the_clock_cut_short_goes_on_and_is_not_paid_in_advance():
    mask, ended = steps(2, horizon=4, ends=False)
    torch.testing.assert_close(
        spread_evenly(torch.tensor([0.8]), mask, ended, 4).T, torch.tensor([[0.2, 0.2, 0.0, 0.0]])
    )


@given(
    st.lists(st.tuples(st.integers(1, 12), st.floats(-1, 1, width=32)), min_size=1, max_size=5),
    st.sampled_from([0.5, 0.9, 1.0]),
)
def test_a_trajectory_that_ended_is_worth_the_same_whatever_its_length(some, gamma):
    mask, ended = steps(*(length for length, _ in some), horizon=12)
    score = torch.tensor([value for _, value in some])
    reward = spread_evenly(score, mask, ended, 12, gamma)
    discounts = gamma ** torch.arange(12.0).unsqueeze(1)
    torch.testing.assert_close((discounts * reward).sum(0), score / 12 * discounts.sum(), atol=1e-5, rtol=1e-4)


def test_at_the_end_all_of_it_comes_with_the_last_step():
    mask, _ = steps(1, 3, horizon=3)
    reward = at_the_end(torch.tensor([0.5, -1.0]), mask)
    assert reward.T.tolist() == [[0.5, 0.0, 0.0], [0.0, 0.0, -1.0]]
