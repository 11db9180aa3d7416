"""What a discriminator can tell: divergences from distributions that are known, penalties and weights worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palaestra.objectives.imitation import (
    DIVERGENCES,
    airl_reward,
    boosted_weights,
    gail_reward,
    gradient_penalty,
    jensen_shannon,
    reverse_kl,
    wasserstein,
)

EXPERT = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
LEARNER = torch.tensor([0.2, 0.25, 0.35, 0.2], dtype=torch.float64)  # log ratios between -0.7 and 0.7
RATIO = (EXPERT / LEARNER).log()


def best_table(divergence, expert=EXPERT, learner=LEARNER, bounded: bool = False) -> tuple[torch.Tensor, float]:
    """The table D `(S,)` with the largest bound on distributions `(S,)`, and that bound."""
    table = torch.zeros(len(expert), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([table], max_iter=300, tolerance_grad=1e-12, tolerance_change=0)

    def output():
        return torch.tanh(table) if bounded else table

    def loss():
        optimiser.zero_grad()
        value = -divergence(output(), output(), expert, learner)
        value.backward()
        return value

    optimiser.step(loss)
    return output().detach(), -float(loss().detach())


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("divergence", [reverse_kl, jensen_shannon])
def test_the_best_discriminator_is_the_log_ratio(divergence, bounded):
    table, _ = best_table(divergence, bounded=bounded)
    torch.testing.assert_close(table, RATIO, atol=1e-6, rtol=0)


def test_the_largest_bound_is_the_divergence():
    kl = float((LEARNER * -RATIO).sum())
    assert best_table(reverse_kl)[1] == pytest.approx(kl, abs=1e-9)
    middle = (EXPERT + LEARNER) / 2
    js = float(0.5 * (EXPERT * (EXPERT / middle).log()).sum() + 0.5 * (LEARNER * (LEARNER / middle).log()).sum())
    assert best_table(jensen_shannon)[1] == pytest.approx(2 * js, abs=1e-9)


def test_a_tanh_keeps_the_ratio_within_one():
    expert, learner = torch.tensor([0.9, 0.1]).double(), torch.tensor([0.1, 0.9]).double()
    table, value = best_table(reverse_kl, expert, learner, bounded=True)
    assert table.tolist() == pytest.approx([1.0, -1.0], abs=0.01)
    assert value < float((learner * (learner / expert).log()).sum())


@pytest.mark.parametrize("name", DIVERGENCES)
@given(seed=st.integers(0, 1000))
def test_where_expert_and_learner_are_alike_no_discriminator_finds_a_difference(name, seed):
    d = torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert float(DIVERGENCES[name](d, d)) <= 1e-12
    assert float(DIVERGENCES[name](d * 0, d * 0)) == pytest.approx(0, abs=1e-12)


def test_divergences_worked_by_hand():
    expert, learner = torch.tensor([0.0, math.log(2)]), torch.tensor([0.0, 1.0])
    assert float(reverse_kl(expert, learner)) == pytest.approx(1 - 0.75 - 0.5)
    assert float(wasserstein(expert, learner)) == pytest.approx(math.log(2) / 2 - 0.5)
    told = (math.log(1 / 2) + math.log(2 / 3)) / 2 + (math.log(1 / 2) + math.log(1 / (1 + math.e))) / 2
    assert float(jensen_shannon(expert, learner)) == pytest.approx(2 * math.log(2) + told)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_weight_of_two_counts_as_two_rows(name):
    d = torch.tensor([0.3, -0.2, 0.9])
    twice, weight = torch.tensor([0.3, -0.2, -0.2, 0.9]), torch.tensor([1.0, 2.0, 1.0])
    divergence = DIVERGENCES[name]
    torch.testing.assert_close(divergence(d, d + 1, weight, weight), divergence(twice, twice + 1))


def test_the_gradient_penalty_worked_by_hand():
    x = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    slope = torch.tensor([3.0, 4.0], requires_grad=True)
    # linear: the norm is 5 everywhere; d/dw (|w| - 1)^2 = 2 (|w| - 1) w / |w|
    penalty = gradient_penalty(lambda x: x @ slope, x)
    assert penalty.item() == pytest.approx(16.0)
    assert torch.autograd.grad(penalty, slope)[0].tolist() == pytest.approx([8 * 0.6, 8 * 0.8])
    # D = a |x|^2 / 2 has the gradient a x, of norm a sqrt(5) and 0
    a = torch.tensor(2.0, requires_grad=True)
    penalty = gradient_penalty(lambda x: a * x.square().sum(-1) / 2, x)
    assert penalty.item() == pytest.approx(((2 * math.sqrt(5) - 1) ** 2 + 1) / 2)
    assert float(torch.autograd.grad(penalty, a)[0]) == pytest.approx((2 * math.sqrt(5) - 1) * math.sqrt(5))


def test_a_flat_discriminator_is_penalised_and_its_gradient_finite():
    slope = torch.zeros(2, requires_grad=True)
    penalty = gradient_penalty(lambda x: x @ slope, torch.randn(3, 2))
    assert penalty.item() == 1.0
    assert bool(torch.isfinite(torch.autograd.grad(penalty, slope)[0]).all())


def test_rewards_are_the_ratio_and_the_positive_read_out():
    d = torch.tensor([-2.0, 0.0, 3.0])
    assert torch.equal(airl_reward(d), d)
    torch.testing.assert_close(gail_reward(d), -torch.log(1 - torch.sigmoid(d)))
    assert float(gail_reward(torch.tensor(80.0))) == 80.0, "finite where the logistic function has rounded to 1"


def boosted(count: int, rate: float, most: int = 10_000) -> torch.Tensor:
    weights = torch.zeros(0, dtype=torch.float64)
    for _ in range(count):
        weights = boosted_weights(weights, rate, most)
    return weights


def test_boosted_weights_worked_by_hand():
    assert boosted(1, 0.05).tolist() == [1.0]
    assert boosted(2, 0.05).tolist() == pytest.approx([0.95, 0.05])
    assert boosted(3, 0.05).tolist() == pytest.approx([0.9025, 0.0475, 0.05])


def test_boosted_weights_sum_to_one_after_many_rounds():
    weights = boosted(1000, 0.05)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-9)
    assert float(weights[-4]) == pytest.approx(0.05 * 0.95**3)
    assert float(weights[0]) == pytest.approx(0.95**999)


def test_of_too_many_learners_the_oldest_is_dropped_and_the_others_keep_their_proportions():
    weights = boosted(3, 0.05, most=2)
    assert weights.tolist() == pytest.approx([0.0475 / 0.0975, 0.05 / 0.0975])
    assert float(boosted(50, 0.2, most=7).sum()) == pytest.approx(1)
    assert len(boosted(50, 0.2, most=7)) == 7
