"""Value targets and losses against cases worked by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palaestra.objectives.value import (
    clipped_value,
    greedy_value,
    huber_error,
    likely_actions,
    soft_value,
    squared_error,
    taken,
    td_target,
)


def test_a_terminal_step_does_not_bootstrap_and_others_do():
    y = td_target(torch.tensor([1.0, 1.0]), torch.tensor([10.0, 10.0]), torch.tensor([0.0, 1.0]), 0.9)
    assert y.tolist() == pytest.approx([10.0, 1.0])


def test_no_gradient_flows_through_a_target():
    assert not td_target(torch.ones(2), torch.ones(2, requires_grad=True), torch.zeros(2), 0.9).requires_grad


def test_the_soft_value_pays_alpha_for_each_nat_of_log_probability():
    assert float(soft_value(torch.tensor(2.0), torch.tensor(-3.0), 0.5)) == 3.5


def test_squared_error_averages_over_the_batch_and_sums_over_copies():
    prediction = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    target = torch.tensor([0.0, 1.0])
    # copy 0: (1/2 * 1 + 1/2 * 4) / 2 = 1.25; copy 1: (0 + 1/2) / 2 = 0.25
    assert float(squared_error(prediction, target)) == 1.5
    assert float(squared_error(prediction[0], target)) == 1.25


def test_huber_error_is_square_inside_delta_and_linear_outside():
    assert float(huber_error(torch.tensor([0.5]), torch.zeros(1), 1.0)) == 0.125
    assert float(huber_error(torch.tensor([3.0]), torch.zeros(1), 1.0)) == 2.5
    assert float(huber_error(torch.tensor([3.0]), torch.zeros(1), 2.0)) == 4.0


def test_huber_gradients_are_bounded_by_delta_over_the_batch():
    prediction = torch.tensor([1e6, -1e6], requires_grad=True)
    (slope,) = torch.autograd.grad(huber_error(prediction, torch.zeros(2), 1.0), prediction)
    assert slope.tolist() == [0.5, -0.5]


def test_huber_error_of_several_learners_is_one_number_each():
    prediction = torch.tensor([[0.5, 3.0], [0.0, 1.0]])
    assert huber_error(prediction, torch.zeros(2, 2), 1.0).tolist() == [1.3125, 0.25]


def test_the_value_of_an_action_taken_is_picked_from_its_row_whatever_leads():
    values, action = torch.arange(6.0).view(2, 3), torch.tensor([2, 0])
    assert taken(values, action).tolist() == [2.0, 3.0]
    assert taken(values.expand(4, 2, 3), action.expand(4, 2)).tolist() == [[2.0, 3.0]] * 4


def test_an_action_is_likely_if_its_probability_exceeds_a_share_of_the_largest():
    logits = torch.tensor([[0.5, 0.15, 0.149, 0.201]]).log()
    assert likely_actions(logits, 0.299).tolist() == [[True, True, False, True]]


def test_threshold_zero_lets_all_pass_that_are_allowed_and_one_just_below_1_the_likeliest_only():
    logits = torch.tensor([[0.0, -500.0, -torch.inf]])
    assert likely_actions(logits, 0.0).tolist() == [[True, True, False]]
    assert likely_actions(logits, 1 - 1e-6).tolist() == [[True, False, False]]


def test_the_greedy_value_is_the_maximum_where_q_chooses_for_itself():
    q = torch.tensor([[1.0, 5.0, 3.0]])
    assert greedy_value(q, q).tolist() == [5.0]


def test_another_chooser_gives_its_choice_at_our_price():
    q, chooser = torch.tensor([[1.0, 5.0, 3.0]]), torch.tensor([[9.0, 0.0, 0.0]])
    assert greedy_value(q, chooser).tolist() == [1.0]


def test_an_action_that_is_not_allowed_is_never_the_greedy_one():
    q = torch.tensor([[1.0, 5.0, 3.0], [1.0, 5.0, 3.0]])
    mask = torch.tensor([[True, False, True], [True, True, True]])
    assert greedy_value(q, q, mask).tolist() == [3.0, 5.0]


def test_the_greedy_value_stays_finite_where_nothing_is_allowed():
    q = torch.tensor([[1.0, 5.0]])
    assert torch.isfinite(greedy_value(q, q, torch.zeros(1, 2))).all()


@given(st.lists(st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3), min_size=1, max_size=5))
def test_a_double_estimate_never_exceeds_the_maximum(rows):
    q = torch.tensor(rows)
    assert (greedy_value(q, q.flip(-1)) <= greedy_value(q, q)).all()


def test_a_clipped_value_may_not_improve_beyond_the_clip():
    value, old, target = torch.tensor([2.0]), torch.tensor([0.0]), torch.tensor([3.0])
    # limited to 0.5: (0.5 - 3)^2 = 6.25 exceeds (2 - 3)^2 = 1
    assert float(clipped_value(value, old, target, 0.5)) == 3.125
    assert float(clipped_value(value, old, target, 10.0)) == 0.5
