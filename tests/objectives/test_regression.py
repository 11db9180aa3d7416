"""Regression within groups: exact at the optimum, finite at the start, and the same whatever the scale."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from palaestra.objectives.regression import normalised, rebel, reg_grpo
from palaestra.objectives.segments import group_advantages, has_spread

ONE = torch.zeros(8, dtype=torch.int64)
REWARDS = torch.tensor([0.0, 1.0, 0.25, 0.5, 0.0, 0.9, 0.1, 0.7], dtype=torch.float64)

scale = st.floats(0.01, 100.0)
shift = st.floats(-10.0, 10.0)


def gradient(loss, ratio: Tensor) -> Tensor:
    ratio = ratio.clone().requires_grad_()
    return torch.autograd.grad(loss(ratio), ratio)[0]


@given(scale, shift)
def test_log_ratios_on_a_straight_line_of_the_rewards_have_no_loss(temperature, offset):
    ratio = REWARDS / temperature + offset
    assert float(reg_grpo(ratio, REWARDS, ONE, epsilon=1e-6)) < 1e-6


@given(scale, shift)
def test_neither_scale_nor_origin_of_the_log_ratios_matters_and_a_flip_is_a_flip(a, b):
    ratio = torch.tensor([0.3, -1.0, 0.2, 0.0, 2.0, -0.4, 0.9, 0.1], dtype=torch.float64)
    before, after = (normalised(x, ONE, 1e-9) for x in (ratio, a * ratio + b))
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(normalised(-a * ratio + b, ONE, 1e-9), -before, atol=1e-5, rtol=1e-5)


def test_a_perfect_fit_turned_around_costs_four_times_the_variance():
    assert float(reg_grpo(REWARDS, REWARDS, ONE, 1e-9)) < 1e-12
    assert float(reg_grpo(-REWARDS, REWARDS, ONE, 1e-9)) == pytest.approx(4 * 7 / 8)


@pytest.mark.parametrize(("correction", "loss"), [(1, 0.875), (0, 1.0)])
def test_where_nothing_has_moved_the_loss_is_the_variance_of_the_targets(correction, loss):
    assert float(reg_grpo(torch.zeros(8), REWARDS.float(), ONE, 1e-2, correction=correction)) == pytest.approx(loss)


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("epsilon", [1e-4, 1e-2, 1.0])
def test_where_nothing_has_moved_the_gradient_is_grpo_s_times_two_over_epsilon(epsilon, detach):
    found = gradient(lambda r: reg_grpo(r, REWARDS, ONE, epsilon, detach=detach), torch.zeros(8, dtype=torch.float64))
    advantage = group_advantages(REWARDS, ONE, epsilon=0.0)
    torch.testing.assert_close(found, -2 / (8 * epsilon) * advantage)


def test_without_an_epsilon_the_first_step_would_be_no_number():
    assert gradient(lambda r: reg_grpo(r, REWARDS, ONE, 0.0), torch.zeros(8, dtype=torch.float64)).isnan().all()


def test_three_answers_by_hand():
    # Rewards 0, 1, 2 are -1, 0, 1, and ratios 0, 2, 1 are y = (-1, 1, 0): two are off, by d = (0, -1, 1). Of the slope
    # -2/3 d, what merely stretches the ratios is taken off unless the deviation is held: its part along y, where |y|^2 = 2
    # and d y = -1.
    ratio, reward, group = torch.tensor([0.0, 2.0, 1.0]), torch.tensor([0.0, 1.0, 2.0]), torch.zeros(3)
    assert float(reg_grpo(ratio, reward, group, 1e-6)) == pytest.approx(2 / 3)
    held = gradient(lambda r: reg_grpo(r, reward, group, 1e-6, detach=True), ratio)
    torch.testing.assert_close(held, torch.tensor([0.0, 2 / 3, -2 / 3]))
    free = gradient(lambda r: reg_grpo(r, reward, group, 1e-6), ratio)
    torch.testing.assert_close(free, torch.tensor([1 / 3, 1 / 3, -2 / 3]), atol=1e-5, rtol=1e-5)


@given(st.lists(st.floats(-3, 3), min_size=8, max_size=8))
def test_stretching_the_log_ratios_changes_nothing_so_the_gradient_is_at_right_angles_to_them(values):
    ratio = torch.tensor(values, dtype=torch.float64)
    if float(ratio.std()) < 0.1:
        return
    found = gradient(lambda r: reg_grpo(r, REWARDS, ONE, 1e-9), ratio)
    assert float((found * (ratio - ratio.mean())).sum()) == pytest.approx(0, abs=1e-8)
    assert float(found.sum()) == pytest.approx(0, abs=1e-8)


def test_a_group_whose_rewards_are_alike_is_left_out_not_pulled_together():
    group = torch.tensor([0, 0, 0, 1, 1, 1])
    reward = torch.tensor([5.3, 5.3, 5.3, 0.0, 1.0, 0.5])
    ratio = torch.tensor([0.3, -0.2, 0.1, 0.1, -0.4, 0.2])
    found = gradient(lambda r: reg_grpo(r, reward, group, 1e-2), ratio)
    alone = gradient(lambda r: reg_grpo(r, reward[3:], group[3:], 1e-2), ratio[3:])
    torch.testing.assert_close(found, torch.cat([torch.zeros(3), alone]))
    nothing = gradient(lambda r: reg_grpo(r, reward[:3], group[:3], 1e-2), ratio[:3])
    torch.testing.assert_close(nothing, torch.zeros(3))


def test_two_answers_always_fit_and_teach_nothing():
    group, reward = torch.zeros(2), torch.tensor([0.0, 1.0])
    assert gradient(lambda r: reg_grpo(r, reward, group, 1e-2), torch.tensor([0.4, 0.1])).tolist() == [0.0, 0.0]


def test_the_groups_of_a_batch_do_not_see_each_other():
    group = torch.tensor([7, 3, 7, 3, 7, 3])
    reward, ratio = torch.tensor([0.0, 9.0, 1.0, 7.0, 0.5, 0.0]), torch.tensor([0.1, 0.2, -0.3, 0.4, 0.2, 0.7])
    whole = reg_grpo(ratio, reward, group, 1e-2)
    apart = [reg_grpo(ratio[group == g], reward[group == g], group[group == g], 1e-2) for g in (3, 7)]
    torch.testing.assert_close(whole, torch.stack(apart).mean())


def test_pairs_by_hand():
    # Gaps of rewards 1, 2, 1 and of log-ratios over eta = 1/2: 2, 0, -2; errors 1, -2, -3.
    ratio, reward, group = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 2.0]), torch.zeros(3)
    assert float(rebel(ratio, reward, group, eta=0.5)) == pytest.approx((1 + 4 + 9) / 3)


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=2, max_size=6), st.floats(0.1, 10))
def test_pairs_are_all_ordered_pairs_of_a_group(answers, eta):
    ratio, reward = (torch.tensor(x, dtype=torch.float64) for x in zip(*answers, strict=True))
    gap = (ratio.unsqueeze(0) - ratio.unsqueeze(1)) / eta - (reward.unsqueeze(0) - reward.unsqueeze(1))
    expected = gap.square().sum() / (len(answers) * (len(answers) - 1))
    torch.testing.assert_close(rebel(ratio, reward, torch.zeros(len(answers)), eta), expected)


@given(shift)
def test_rebel_is_without_loss_where_ratios_are_eta_times_the_rewards_and_nowhere_else_on_that_line(offset):
    assert float(rebel(0.5 * REWARDS + offset, REWARDS, ONE, 0.5)) == pytest.approx(0, abs=1e-12)
    assert float(rebel(0.7 * REWARDS + offset, REWARDS, ONE, 0.5)) > 0.01


def test_rebel_pulls_answers_of_equal_reward_together_and_leaves_single_ones_alone():
    ratio, reward, group = torch.tensor([0.5, 0.0, 3.0]), torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0, 0, 1])
    assert gradient(lambda r: rebel(r, reward, group), ratio).tolist() == [1.0, -1.0, 0.0]
    assert gradient(lambda r: rebel(r, reward[2:], group[2:]), ratio[2:]).tolist() == [0.0]


def test_a_group_has_a_spread_or_not_as_a_whole():
    group = torch.tensor([0, 1, 0, 1, 0, 1, 1, 1, 1, 1])
    reward = torch.tensor([0.0, 5.3, 0.5, 5.3, 1.0, 5.3, 5.3, 5.3, 5.3, 5.3])
    assert has_spread(reward, group).tolist() == (group == 0).tolist()  # also the answer at the mean; and no rounding
