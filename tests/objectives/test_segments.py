"""Advantages within groups and averages over tokens: by hand, in degenerate batches, and the laws that they obey."""

from __future__ import annotations

import math
from itertools import product
from typing import get_args

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from palaestra.core.errors import BadSetting
from palaestra.objectives.segments import (
    Average,
    Centre,
    Scale,
    group_advantages,
    group_std,
    has_spread,
    pairs_within,
    segment_sum,
    step_weights,
)

REWARDS = torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1])
GROUP = torch.arange(3).repeat_interleave(4)
REWARD_LISTS = st.lists(st.sampled_from([-2.0, 0.0, 0.1, 0.7, 1.0, 1000.1]), min_size=2, max_size=24)


@pytest.mark.parametrize(
    ("centre", "scale", "expected"),
    [
        ("group", "group", [1.5, -0.5, -0.5, -0.5, 0.5, 0.5, 0.5, -1.5, 0, 0, 0, 0]),
        ("group", "none", [0.75, -0.25, -0.25, -0.25, 0.25, 0.25, 0.25, -0.75, 0, 0, 0, 0]),
        (
            "group",
            "batch",
            [1.52325, -0.50775, -0.50775, -0.50775, 0.50775, 0.50775, 0.50775, -1.52325, 0, 0, 0, 0],
        ),
        ("batch", "batch", [0.67700 if r else -1.35401 for r in REWARDS]),
        ("batch", "none", [1 / 3 if r else -2 / 3 for r in REWARDS]),
        ("leave-one-out", "none", [1, -1 / 3, -1 / 3, -1 / 3, 1 / 3, 1 / 3, 1 / 3, -1, 0, 0, 0, 0]),
        ("none", "none", REWARDS.tolist()),
    ],
)
def test_advantages_by_hand(centre, scale, expected):
    found = group_advantages(REWARDS, GROUP, centre, scale)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-4)


def test_one_success_among_eight_has_an_advantage_of_seven_over_the_root_of_eight():
    found = group_advantages(torch.eye(8)[0], torch.zeros(8, dtype=torch.int64))
    assert found[0].item() == pytest.approx(7 / math.sqrt(8), rel=1e-5)
    assert found[0].item() == pytest.approx(2.4749, abs=1e-4)


def test_under_the_group_s_deviation_no_advantage_exceeds_that_but_under_the_batch_s_it_may():
    rewards = torch.ones(128)
    rewards[:1] = 0.0  # one failure in sixteen groups of eight
    group = torch.arange(16).repeat_interleave(8)
    assert group_advantages(rewards, group, "group", "group").abs().max() < 2.475
    assert group_advantages(rewards, group, "group", "batch").abs().max() > 9


@given(REWARD_LISTS.filter(lambda r: len(r) >= 2), st.integers(0, 10))
def test_a_group_s_advantages_add_up_to_nothing_and_are_bounded(rewards, seed):
    reward = torch.tensor(rewards)
    group = torch.randint(3, (len(rewards),), generator=torch.Generator().manual_seed(seed))
    found = group_advantages(reward, group)
    for g in group.unique():
        own = found[group == g]
        assert own.sum().item() == pytest.approx(0, abs=1e-4)
        assert own.abs().max() <= (len(own) - 1) / math.sqrt(len(own)) + 1e-4


@given(REWARD_LISTS, st.randoms(use_true_random=False))
def test_advantages_go_with_their_answers_in_whatever_order_and_under_whatever_number(rewards, rng):
    order = list(range(len(rewards)))
    rng.shuffle(order)
    reward, group = torch.tensor(rewards), torch.arange(len(rewards)) // 3
    for centre, scale in product(get_args(Centre), get_args(Scale)):
        found = group_advantages(reward, group, centre, scale)
        moved = group_advantages(reward[order], 100 - 7 * group[order], centre, scale)
        torch.testing.assert_close(moved, found[order], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 0.7, 1 / 3, -7.3, 1000.1])
@pytest.mark.parametrize("count", [2, 7, 8, 13, 128])
@pytest.mark.parametrize(
    ("centre", "scale"), [(c, s) for c in ("group", "leave-one-out", "batch") for s in get_args(Scale)]
)
def test_equal_rewards_have_no_advantage_whatever_they_are(value, count, centre, scale):
    reward, group = torch.full((count,), value), torch.arange(count) // 8
    assert group_advantages(reward, group, centre, scale).abs().max() == 0
    assert not has_spread(reward, group).any()


@pytest.mark.parametrize("centre", get_args(Centre))
def test_where_rewards_are_all_alike_no_deviation_divides_whatever_they_are_compared_with(centre):
    reward, group = torch.tensor([0.1, 0.1, 0.1, 0, 1, 0, 0.7]), torch.tensor([0, 0, 0, 1, 1, 1, 2])
    assert group_advantages(reward, group, centre, "group")[[0, 1, 2, 6]].abs().max() == 0
    assert group_advantages(reward, group, centre, "group").abs().max() < 2
    assert group_advantages(torch.full((6,), 0.7), torch.arange(6) // 2, centre, "batch").abs().max() == 0
    assert group_advantages(torch.full((3,), 0.7), torch.arange(3), centre, "batch").abs().max() == 0


def test_a_batch_of_one_answer_has_no_deviation_and_no_advantage():
    for scale in get_args(Scale):
        assert group_advantages(torch.tensor([0.7]), torch.tensor([3]), "batch", scale).item() == 0


def test_where_groups_vary_alike_the_batch_s_deviation_changes_all_advantages_by_one_factor():
    reward = torch.tensor([0.0, 1, 0, 1, 5, 6, 5, 6])
    group = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    within, over = (group_advantages(reward, group, "group", scale) for scale in ("group", "batch"))
    ratio = over / within
    torch.testing.assert_close(ratio, ratio[:1].expand(8))


def test_the_batch_s_deviation_is_that_of_the_rewards_themselves_not_of_what_is_left_of_them():
    reward, group = torch.tensor([0.0, 1, 10, 11]), torch.tensor([0, 0, 1, 1])
    found = group_advantages(reward, group, "group", "batch")
    torch.testing.assert_close(found, torch.tensor([-0.5, 0.5, -0.5, 0.5]) / reward.std())


def test_a_group_of_one_has_deviation_nought():
    assert group_std(torch.tensor([3.0, 1, 2]), torch.tensor([0, 1, 1])).tolist() == pytest.approx(
        [0, 0.5**0.5, 0.5**0.5]
    )


@pytest.mark.parametrize(("centre", "scale"), [("mean", "group"), ("group", "std")])
def test_unknown_names_of_a_centre_or_a_scale_are_refused(centre, scale):
    with pytest.raises(BadSetting, match=r"leave-one-out|batch"):
        group_advantages(REWARDS, GROUP, centre, scale)


# ------------------------------------------------------------------------------------------------------------ averages


def averaged(average, limit=None):
    """Losses 1, 2, 3 of one answer and 4 of another."""
    weight = step_weights(torch.ones(4), torch.tensor([0, 0, 0, 1]), average, limit)
    return float((torch.tensor([1.0, 2, 3, 4]) * weight).sum())


def test_averages_by_hand():
    assert averaged("token-mean") == pytest.approx(2.5)
    assert averaged("sequence-mean") == pytest.approx(3.0)
    assert averaged("sequence-sum") == pytest.approx(5.0)
    assert averaged("sequence-sum-norm", 3) == pytest.approx(5 / 3)  # divided by the number of answers, too


@pytest.mark.parametrize("average", get_args(Average))
def test_an_answer_without_a_token_counts_for_nothing(average):
    mask, segment = torch.tensor([1.0, 1, 0, 0, 0, 1]), torch.tensor([0, 0, 1, 1, 1, 2])
    found = step_weights(mask, segment, average, 4)
    alone = step_weights(torch.ones(3), torch.tensor([0, 0, 2]), average, 4)
    assert found[2:5].tolist() == [0, 0, 0]
    torch.testing.assert_close(found[mask.bool()], alone)


@pytest.mark.parametrize("average", get_args(Average))
def test_a_batch_without_a_token_weighs_nothing_and_is_not_nan(average):
    assert step_weights(torch.zeros(3), torch.tensor([0, 0, 1]), average, 4).tolist() == [0, 0, 0]


@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=6).filter(lambda a: any(map(any, a)))
)
def test_means_weigh_one_in_all_and_sums_as_much_as_the_answers_are_long(answers):
    mask = torch.tensor([float(m) for answer in answers for m in answer])
    segment = torch.tensor([i for i, answer in enumerate(answers) for _ in answer])
    lengths = [sum(answer) for answer in answers if any(answer)]
    total = {average: float(step_weights(mask, segment, average, 5).sum()) for average in get_args(Average)}
    assert total["token-mean"] == pytest.approx(1, rel=1e-5)
    assert total["sequence-mean"] == pytest.approx(1, rel=1e-5)
    assert total["sequence-sum"] == pytest.approx(sum(lengths) / len(lengths), rel=1e-5)
    assert total["sequence-sum-norm"] == pytest.approx(sum(lengths) / len(lengths) / 5, rel=1e-5)


def test_the_longest_answers_weigh_more_under_the_mean_over_tokens():
    segment = torch.arange(4).repeat_interleave(torch.tensor([2, 2, 4, 8]))
    share = {a: float(step_weights(torch.ones(16), segment, a)[-8:].sum()) for a in ("token-mean", "sequence-mean")}
    assert share == pytest.approx({"token-mean": 0.5, "sequence-mean": 0.25})


@pytest.mark.parametrize(("average", "limit"), [("sequence-sum-norm", None), ("sequence-sum-norm", 0), ("seq-mean", 4)])
def test_an_average_without_its_limit_or_of_another_name_is_refused(average, limit):
    with pytest.raises(BadSetting):
        step_weights(torch.ones(2), torch.zeros(2, dtype=torch.int64), average, limit)


def test_sums_over_segments_have_a_gradient():
    x = torch.tensor([1.0, 2, 3], requires_grad=True)
    found = segment_sum(x, torch.tensor([2, 0, 2]), 3)
    assert found.tolist() == [2, 0, 4]
    found[2].backward()
    assert x.grad.tolist() == [1, 0, 1]


@given(st.lists(st.integers(0, 3), max_size=12))
def test_every_two_of_one_group_are_a_pair_once(groups):
    first, second = pairs_within(torch.tensor(groups, dtype=torch.int64))
    found = list(zip(first.tolist(), second.tolist(), strict=True))
    n = len(groups)
    assert sorted(found) == [(i, j) for i in range(n) for j in range(i + 1, n) if groups[i] == groups[j]]
