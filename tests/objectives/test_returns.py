"""Advantages and returns: by hand on small rollouts, and identities that hold on any."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from palaestra.objectives.returns import discounted_returns, gae, rewards_to_go, standardise


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(-1)


NONE = column(0, 0, 0)


def test_gae_of_three_steps_by_hand():
    # delta = [1 + .5*20 - 10, 2 + .5*30 - 20, 3 + .5*40 - 30] = [1, -3, -7]; gamma lam = 0.25
    advantage = gae(column(1, 2, 3), column(10, 20, 30), column(20, 30, 40), NONE, NONE, gamma=0.5, lam=0.5)
    assert advantage.flatten().tolist() == [1 + 0.25 * (-3 + 0.25 * -7), -3 + 0.25 * -7, -7]


def test_gae_neither_bootstraps_nor_carries_over_a_terminal_state():
    ended = column(0, 1, 0)
    advantage = gae(column(1, 2, 3), column(10, 20, 30), column(20, 99, 40), ended, NONE, gamma=0.5, lam=0.5)
    # delta_1 = 2 - 20 whatever the value of the state after it, and nothing of step 2 reaches it
    assert advantage.flatten().tolist() == [1 + 0.25 * -18, -18, -7]


def test_gae_bootstraps_through_a_time_limit_from_the_true_next_observation():
    cut = column(0, 1, 0)
    # The value after the time limit is 60, that of the last state of the episode, not 30, that of the next row.
    advantage = gae(column(1, 2, 3), column(10, 20, 30), column(20, 60, 40), NONE, cut, gamma=0.5, lam=0.5)
    assert advantage.flatten().tolist() == [1 + 0.25 * 12, 2 + 0.5 * 60 - 20, -7]


def test_discounted_returns_stop_at_a_terminal_state_and_bootstrap_where_they_are_cut():
    reward, next_value = column(1, 2, 4, 8), column(100, 100, 100, 16)
    ended, cut = column(0, 1, 0, 0), column(0, 0, 0, 0)
    returns = discounted_returns(reward, next_value, ended, cut, gamma=0.5)
    assert returns.flatten().tolist() == [2.0, 2.0, 4 + 0.5 * 16, 16.0]
    limited = discounted_returns(reward, next_value, column(0, 0, 0, 0), column(0, 1, 0, 0), gamma=0.5)
    assert limited.flatten().tolist() == [1 + 0.5 * 52, 52.0, 12.0, 16.0]


@st.composite
def rollouts(draw):
    seed, steps, envs = draw(st.integers(0, 2**20)), draw(st.integers(1, 8)), draw(st.integers(1, 3))
    g = torch.Generator().manual_seed(seed)
    reward, value, next_value = torch.randn(3, steps, envs, generator=g, dtype=torch.float64)
    chance = torch.rand(steps, envs, generator=g)
    terminated, truncated = (chance < 0.2).double(), ((chance > 0.2) & (chance < 0.4)).double()
    # The next value is that of the next row, except where an episode ended.
    going_on = ((terminated + truncated) == 0)[:-1]
    next_value[:-1] = torch.where(going_on, value[1:], next_value[:-1])
    return reward, value, next_value, terminated, truncated


@settings(max_examples=50)
@given(rollouts(), st.floats(0, 1))
def test_with_lambda_0_the_advantage_is_the_one_step_temporal_difference(rollout, gamma):
    reward, value, next_value, terminated, _ = rollout
    expected = reward + gamma * (1 - terminated) * next_value - value
    torch.testing.assert_close(gae(*rollout, gamma, 0.0), expected)


@settings(max_examples=50)
@given(rollouts(), st.floats(0, 1))
def test_with_lambda_1_advantage_plus_value_is_the_discounted_return(rollout, gamma):
    reward, value, next_value, terminated, truncated = rollout
    returns = discounted_returns(reward, next_value, terminated, truncated, gamma)
    torch.testing.assert_close(gae(*rollout, gamma, 1.0) + value, returns)


@settings(max_examples=30)
@given(rollouts(), st.floats(0, 1), st.floats(0, 1))
def test_environments_do_not_mix(rollout, gamma, lam):
    alone = torch.cat([gae(*(x[:, i : i + 1] for x in rollout), gamma, lam) for i in range(rollout[0].shape[1])], 1)
    torch.testing.assert_close(gae(*rollout, gamma, lam), alone)


def test_standardised_numbers_have_mean_0_and_deviation_1_and_a_lone_number_is_0():
    x = standardise(torch.tensor([1.0, 2.0, 6.0]))
    torch.testing.assert_close((x.mean(), x.std()), (torch.tensor(0.0), torch.tensor(1.0)), atol=1e-6, rtol=0)
    assert standardise(torch.tensor([3.0])).tolist() == [0.0]


@pytest.mark.parametrize("count", [3, 7, 10, 1000])
def test_equal_numbers_are_0_standardised_however_their_mean_is_rounded(count):
    x = torch.stack([torch.full((count,), 0.7), torch.arange(float(count))])
    found = standardise(x)
    assert (found[0] == 0).all()
    torch.testing.assert_close(found[1].std(), torch.tensor(1.0))


def test_rewards_to_go_by_hand():
    assert rewards_to_go(torch.ones(3), torch.tensor([0]), 0.5).tolist() == [1.75, 1.5, 1.0]


def test_rewards_to_go_stay_within_their_episode_and_leave_the_rewards_alone():
    reward = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    total = rewards_to_go(reward, torch.tensor([0, 1, 4]), 0.5)
    assert total.tolist() == [1.0, 2.0 + 2.0 + 2.0, 4.0 + 4.0, 8.0, 16.0 + 16.0, 32.0]
    assert reward.tolist() == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.floats(0, 1))
def test_rewards_to_go_are_the_returns_of_each_episode_alone(lengths, gamma):
    starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    reward = torch.linspace(-1, 2, sum(lengths), dtype=torch.float64)
    none, end = torch.zeros(sum(lengths), dtype=torch.float64), torch.zeros(sum(lengths), dtype=torch.float64)
    end[starts + torch.tensor(lengths) - 1] = 1.0
    expected = discounted_returns(*(x.unsqueeze(1) for x in (reward, none, end, none)), gamma)
    torch.testing.assert_close(rewards_to_go(reward, starts, gamma), expected.squeeze(1))
