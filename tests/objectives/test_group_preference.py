"""The loss of pairs: by hand, its symmetries, its gradient, and where that vanishes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palaestra.core.errors import BadSetting
from palaestra.objectives.group_preference import level_pairs, levels_of, preference_loss

Q = torch.tensor([0.1, -0.1, -1 / 6, 0.4 / 3])
LEVEL = torch.tensor([1, 2, 4, 1])
ONE = torch.zeros(4, dtype=torch.int64)
TWO = torch.tensor([0, 0, 1, 1])


def loss(q=Q, level=LEVEL, group=ONE, beta=0.1, kappa=2.5, **rest):
    return preference_loss(q, level, group, beta, kappa, **rest)


def test_log_ratios_pairs_and_loss_by_hand():
    policy = torch.tensor([[-1, -0.5, -0.2], [-0.7, -0.9, 0], [-2, -1, -0.5], [-0.3, -0.4, -0.6]])
    reference = torch.tensor([[-1.2, -0.6, -0.2], [-0.5, -0.9, 0], [-1.5, -1, -0.5], [-0.3, -0.8, -0.6]])
    q = (policy - reference).sum(1) / torch.tensor([3, 2, 3, 3])
    torch.testing.assert_close(q, Q)
    first, second = level_pairs(LEVEL, ONE)
    assert list(zip(first.tolist(), second.tolist())) == [(0, 1), (0, 2), (1, 2), (3, 1), (3, 2)]
    found = loss(q)
    assert float(found.loss) == pytest.approx(0.667881, abs=1e-6)
    assert float(found.better) == pytest.approx(0.073333, abs=1e-6)
    assert float(found.worse) == pytest.approx(-0.14, abs=1e-6)
    assert float(found.accuracy) == 1 and float(found.alone) == 0


def test_answers_to_different_prompts_are_no_pair():
    assert float(loss(group=TWO).loss) == pytest.approx(0.662405, abs=1e-6)


def test_prompts_on_one_level_teach_nothing_or_absolute_log_ratios():
    level = torch.tensor([2, 2, 2, 2])
    for alone in ("batch", "prompt"):
        assert float(loss(level=level, alone=alone).loss) == pytest.approx(0.691027, abs=1e-6)
    skipped = loss(level=level)
    assert float(skipped.loss) == 0 and float(skipped.alone) == 1


def test_alone_in_a_batch_with_pairs():
    level = torch.tensor([1, 2, 1, 1])  # the second prompt has no pair
    pairs = -math.log(1 / (1 + math.exp(-0.25 * 0.2)))
    single = [-math.log(1 / (1 + math.exp(-q))) for q in (-1 / 6, 0.4 / 3)]
    assert float(loss(level=level, group=TWO).loss) == pytest.approx(pairs, abs=1e-6)
    assert float(loss(level=level, group=TWO, alone="batch").loss) == pytest.approx(pairs, abs=1e-6)
    prompt = loss(level=level, group=TWO, alone="prompt")
    assert float(prompt.loss) == pytest.approx((pairs + sum(single)) / 3, abs=1e-6)
    assert float(prompt.alone) == 0.5


def test_per_prompt_every_prompt_weighs_the_same():
    q, level = torch.tensor([0.3, -0.2, 0.5, 0.1, -0.4]), torch.tensor([1, 2, 1, 1, 2])
    group = torch.tensor([0, 0, 1, 1, 1])
    parts = [float(loss(q[group == g], level[group == g], group[group == g]).loss) for g in (0, 1)]
    assert float(loss(q, level, group, per_prompt=True).loss) == pytest.approx(sum(parts) / 2, abs=1e-6)
    assert float(loss(q, level, group).loss) == pytest.approx((parts[0] + 2 * parts[1]) / 3, abs=1e-6)


def test_at_the_reference_the_loss_is_log_2():
    assert float(loss(torch.zeros(4)).loss) == pytest.approx(math.log(2), abs=1e-7)


def test_kappa_steepens_only_pairs_that_level_1_wins():
    level = torch.tensor([2, 3, 4, 2])
    assert float(loss(level=level, kappa=2.5).loss) == float(loss(level=level, kappa=1.0).loss)
    one = loss(Q[:2], LEVEL[:2], ONE[:2], kappa=2.5)
    assert float(one.loss) == pytest.approx(math.log1p(math.exp(-0.25 * 0.2)), abs=1e-6)


answers = st.lists(st.tuples(st.floats(-3, 3), st.integers(1, 4), st.integers(0, 2)), min_size=2, max_size=10)


@given(answers, st.randoms(use_true_random=False), st.floats(-2, 2))
def test_order_names_of_levels_and_an_offset_change_nothing(found, random, offset):
    def of(rows, shift=0.0, name=lambda k: k):
        q, level, group = (torch.tensor(x) for x in zip(*rows))
        return float(loss(q.float() + shift, torch.tensor([name(k) for k in level.tolist()]), group).loss)

    shuffled = list(found)
    random.shuffle(shuffled)
    assert of(shuffled) == pytest.approx(of(found), abs=1e-5)
    assert of(found, name=lambda k: {1: 1, 2: 5, 3: 6, 4: 90}[k]) == of(found)
    assert of(found, shift=offset) == pytest.approx(of(found), abs=1e-5)


@pytest.mark.parametrize("rest", [{}, {"per_prompt": True}, {"alone": "prompt", "group": TWO}])
def test_the_gradient_is_that_of_finite_differences(rest):
    q = Q.double().requires_grad_()
    level = torch.tensor([1, 2, 3, 3])
    assert torch.autograd.gradcheck(lambda x: loss(x, level, **rest).loss, (q,), atol=1e-6)


def test_the_loss_is_finite_however_far_apart_two_answers_are():
    found = loss(torch.tensor([-1e4, 1e4]), torch.tensor([1, 2]), ONE[:2], beta=1.0)
    assert float(found.loss) == pytest.approx(2.5 * 2e4)


@pytest.mark.parametrize(("odds", "beta"), [(3, 0.5), (1, 0.1), (9, 2.0)])
def test_the_gradient_vanishes_only_where_the_policy_is_the_reference_times_the_exponential_reward(odds, beta):
    # A is preferred to B `odds` times for every time that B is to A: a reward that is higher by log odds.
    level = torch.tensor([1, 2] * odds + [2, 1])
    group = torch.arange(odds + 1).repeat_interleave(2)
    who = torch.tensor([0, 1] * (odds + 1))

    def slope(gap: float) -> float:
        logits = torch.tensor([gap, 0.0], requires_grad=True)
        q = (logits.log_softmax(-1) - math.log(0.5))[who]
        return float(torch.autograd.grad(preference_loss(q, level, group, beta, 1.0).loss, logits)[0][0])

    posterior = math.log(odds) / beta
    assert slope(posterior) == pytest.approx(0, abs=1e-6)
    assert slope(posterior - 0.1) < -1e-4 * beta and slope(posterior + 0.1) > 1e-4 * beta


@pytest.mark.parametrize(
    ("q", "level", "message"),
    [
        (Q * math.nan, LEVEL, "finite"),
        (Q, LEVEL - 1, "from 1 on"),
        (Q, LEVEL.float(), "whole"),
    ],
)
def test_what_cannot_be_compared_is_refused(q, level, message):
    with pytest.raises(BadSetting, match=message):
        loss(q, level)


def test_an_unknown_rule_for_prompts_without_a_pair_is_refused():
    with pytest.raises(BadSetting, match="skip"):
        loss(alone="other")


def test_levels_from_thresholds():
    reward = torch.tensor([3.0, 1.0, 0.99, -1.0, -5.0])
    assert levels_of(reward, (1.0,)).tolist() == [1, 1, 2, 2, 2]
    assert levels_of(reward, (3.0, 1.0, -1.0)).tolist() == [1, 2, 3, 3, 4]
    with pytest.raises(BadSetting, match="fall"):
        levels_of(reward, (0.0, 1.0))
    with pytest.raises(BadSetting, match="at least one"):
        levels_of(reward, ())
