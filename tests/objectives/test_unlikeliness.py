"""Ranks by likelihood and the discount: by hand, ties, and what a discount must never do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palaestra.core.errors import BadSetting, Diverged
from palaestra.objectives.segments import group_advantages
from palaestra.objectives.unlikeliness import likelihood_ranks, unlikeliness_rewards, uplift

R = torch.tensor([1.0, 1.0, 0.0, 1.0])
LOGP = torch.tensor([-1.0, -3.0, -2.0, -0.5])
ONE = torch.zeros(4, dtype=torch.int64)


def test_ranks_by_hand():
    assert likelihood_ranks(LOGP, ONE).tolist() == [2, 0, 1, 3]


def test_equal_answers_share_their_mean_rank():
    assert likelihood_ranks(torch.tensor([-1.0, -2.0, -1.0, -1.0]), ONE).tolist() == [2, 0, 2, 2]


def test_groups_are_ranked_apart_in_any_order():
    logp, group = torch.tensor([-1.0, -9.0, -2.0, -8.0]), torch.tensor([5, 1, 5, 1])
    assert likelihood_ranks(logp, group).tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("discount", "advantages"),
    [
        (0.0, [0.499999, 0.499999, -1.499997, 0.499999]),
        (0.25, [0.446772, 0.721709, -1.477785, 0.309304]),
        (1.0, [0.146385, 1.317462, -1.024693, -0.439154]),
    ],
)
def test_advantages_by_hand(discount, advantages):
    worth = unlikeliness_rewards(R, LOGP, ONE, discount)
    torch.testing.assert_close(group_advantages(worth, ONE), torch.tensor(advantages), atol=2e-6, rtol=0)


def test_without_a_discount_rewards_stay_bit_for_bit():
    assert torch.equal(unlikeliness_rewards(R, LOGP, ONE, 0.0), R)


def test_the_papers_form_takes_off_a_constant_more():
    code, paper = (unlikeliness_rewards(R, LOGP, ONE, 0.4, form) for form in ("code", "paper"))
    torch.testing.assert_close(code - paper, 0.1 * R)
    assert float(paper[3]) == pytest.approx(0.6)  # the most likely one loses all of the discount


def test_rewards_are_left_as_they_were():
    reward = R.clone()
    unlikeliness_rewards(reward, LOGP, ONE, 0.5)
    assert torch.equal(reward, R)


def test_a_group_that_is_all_right_would_be_pushed_away_from_what_is_likely():
    worth = unlikeliness_rewards(torch.ones(4), LOGP, ONE, 0.25)
    advantage = group_advantages(worth, ONE)
    assert float(advantage[1]) > 0 > float(advantage[3])


@given(st.lists(st.tuples(st.booleans(), st.integers(-30, 0)), min_size=2, max_size=12), st.floats(0, 1))
def test_the_less_likely_of_right_answers_gets_more_and_no_wrong_one_more_than_a_right_one(answers, discount):
    right = torch.tensor([float(r) for r, _ in answers])
    logp = torch.tensor([x / 3 for _, x in answers])
    group = torch.zeros(len(answers), dtype=torch.int64)
    worth = unlikeliness_rewards(right, logp, group, discount)
    for i, a in enumerate(answers):
        for j, b in enumerate(answers):
            if a[0] and b[0] and a[1] < b[1]:
                assert worth[i] > worth[j] or discount < 1e-6
            if a[0] and not b[0]:
                assert worth[i] > worth[j]


@pytest.mark.parametrize("form", ["code", "paper"])
def test_wrong_answers_stay_at_0(form):
    assert float(unlikeliness_rewards(R, LOGP, ONE, 1.0, form)[2]) == 0


@pytest.mark.parametrize("discount", [-0.1, 1.1])
def test_a_discount_outside_0_to_1_is_refused(discount):
    with pytest.raises(BadSetting, match="discount"):
        unlikeliness_rewards(R, LOGP, ONE, discount)


def test_negative_rewards_and_missing_log_probabilities_are_refused():
    with pytest.raises(BadSetting, match="negative"):
        unlikeliness_rewards(-R, LOGP, ONE, 0.5)
    with pytest.raises(Diverged, match="finite"):
        unlikeliness_rewards(R, LOGP.clone().fill_(float("nan")), ONE, 0.5)
    with pytest.raises(BadSetting, match="form"):
        unlikeliness_rewards(R, LOGP, ONE, 0.5, "other")  # type: ignore[arg-type]


def test_uplift_by_hand():
    # In the first group the two least likely rose, in the second of two the likelier one did.
    before = torch.tensor([-4.0, -3.0, -2.0, -1.0, -5.0, -0.1])
    after = torch.tensor([-3.0, -2.9, -2.5, -1.5, -6.0, -0.05])
    group = torch.tensor([0, 0, 0, 0, 1, 1])
    assert uplift(before, after, group).tolist() == [1.0, 0.5, 0.0, 0.5]


def test_a_part_without_right_answers_is_no_number():
    found = uplift(torch.tensor([-1.0]), torch.tensor([-0.5]), torch.tensor([0]))
    assert found[2] == 1 and bool(found[[0, 1, 3]].isnan().all())
