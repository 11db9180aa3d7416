"""Losses of ranked lists: by hand, against pairs, in any order of rows, and lists that teach nothing."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from palaestra.core.errors import BadSetting
from palaestra.objectives.answers import Answers
from palaestra.objectives.direct import copg, dpo
from palaestra.objectives.lists import copg_list, plackett_luce, pro, ranked, rrhf
from palaestra.objectives.segments import group_advantages

number = st.floats(-4, 4)
quarter = st.integers(-16, 16).map(lambda k: k / 4)
"""Scores whose sums are exact, so that ties stay ties."""
rows = st.lists(st.tuples(number, number, st.integers(1, 5), quarter, st.integers(0, 2)), min_size=1, max_size=9)
FIELDS = ("logp", "ref_logp", "length", "score", "group")
LISTS = [
    ("plackett-luce", lambda a: plackett_luce(a, beta=0.5)),
    ("pro", pro),
    ("rrhf", rrhf),
    ("copg-list", lambda a: copg_list(a, beta=0.5)),
]
each = pytest.mark.parametrize("loss", [x[1] for x in LISTS], ids=[x[0] for x in LISTS])


def tensor(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def answers(found) -> Answers:
    return Answers(**{name: torch.tensor(x, dtype=torch.float64) for name, x in zip(FIELDS, zip(*found))})


# Three answers whose means over tokens are s = (-1, -2, -1.5) and scores r = (3, 1, 0).
THREE = Answers(
    logp=tensor(-4, -2, -4.5),
    length=tensor(4, 1, 3),
    score=tensor(3, 1, 0),
    group=tensor(0, 0, 0),
    ref_logp=tensor(-5, -2, -4),
)


def test_pro_by_hand():
    ranking = math.log(1 + math.exp(-1) + math.exp(-1.5)) + math.log(1 + math.exp(0.5))
    assert ranking == pytest.approx(1.43845, abs=1e-5)
    assert float(pro(THREE, weight=0.0)) == pytest.approx(ranking)
    assert float(pro(THREE, weight=0.05)) == pytest.approx(ranking + 0.2 * 4)  # the best answer's *sum* is -4
    plain = math.log(1 + math.exp(-1) + math.exp(-0.5)) + math.log(1 + math.exp(0.5))
    assert float(pro(THREE, weight=0.0, graded=False)) == pytest.approx(plain)


def test_pro_of_two_is_the_log_loss_of_the_product_of_gaps():
    two = THREE.at(torch.tensor([1, 0]))
    assert float(pro(two)) == pytest.approx(math.log1p(math.exp(-2 * (-1 + 2))) + 0.05 * 4)


def test_pro_of_answers_with_equal_scores_is_constant():
    mean = tensor(-1, -2, -1.5).requires_grad_()
    equal = Answers(logp=mean, length=tensor(1, 1, 1), score=tensor(2, 2, 2), group=tensor(0, 0, 0))
    loss = pro(equal, weight=0.0, ties="keep")
    assert loss.item() == pytest.approx(math.log(3) + math.log(2))
    assert torch.autograd.grad(loss.sum(), mean)[0].tolist() == [0, 0, 0]
    assert pro(equal, weight=0.0).item() == 0


def test_a_tie_is_no_contrast_where_ties_are_dropped():
    tied = THREE.replace(score=tensor(3, 3, 0))
    hand = math.log1p(math.exp(3 * (-1.5 + 1))) + math.log1p(math.exp(3 * (-1.5 + 2)))
    assert float(pro(tied, weight=0.0)) == pytest.approx(hand)
    kept = math.log(math.exp(-3) + 1 + math.exp(-4.5)) + 3 + math.log1p(math.exp(3 * (-1.5 + 2)))
    assert float(pro(tied, weight=0.0, ties="keep")) == pytest.approx(kept)


def test_pro_does_not_overflow_where_gaps_are_large():
    far = THREE.replace(score=1e4 * THREE.score)
    assert bool(pro(far).isfinite().all())


def test_rrhf_by_hand():
    # The third answer's mean, -1.5, is above the second's, -2, which has the better score; other pairs are in order.
    assert float(rrhf(THREE, weight=10.0)) == pytest.approx(10 * 0.5 + 4)


def test_plackett_luce_by_hand():
    rho = [0.5 * x for x in (1, 0, -0.5)]
    first = rho[0] - math.log(sum(map(math.exp, rho)))
    second = rho[1] - math.log(sum(map(math.exp, rho[1:])))
    assert float(plackett_luce(THREE, beta=0.5)) == pytest.approx(-first - second)


def test_copg_of_a_list_by_hand():
    # Gaps of log-ratios 1, 1.5, 0.5, and of scores 2, 3, 1.
    hand = [0.25 * h**2 - d * h for h, d in ((1, 2), (1.5, 3), (0.5, 1))]
    assert float(copg_list(THREE, beta=0.5)) == pytest.approx(sum(hand) / 2)


def test_the_gradient_of_copg_s_list_is_that_of_leave_one_out_times_their_number():
    rho = tensor(0.3, -1, 0.2, 0.7).requires_grad_()
    score, group = tensor(0.1, 0.9, 0.4, 0.4), torch.zeros(4)
    given = Answers(logp=rho, ref_logp=torch.zeros(4), score=score, group=group)
    (slope,) = torch.autograd.grad(copg_list(given, beta=0.5).sum(), rho)
    advantage = group_advantages(score - 0.5 * rho.detach(), group, "leave-one-out", "none")
    torch.testing.assert_close(slope, -advantage)  # the mean of advantage * grad log pi, times 4


@given(number, number, number, number, number, number)
def test_lists_of_two_are_pairs(a, b, ref_a, ref_b, score, ahead):
    two = Answers(
        logp=tensor(a, b),
        ref_logp=tensor(ref_a, ref_b),
        score=tensor(score, score - abs(ahead) - 0.1),
        group=tensor(1, 1),
    )
    won, lost = two.at(torch.tensor([0])), two.at(torch.tensor([1]))
    torch.testing.assert_close(plackett_luce(two, beta=0.5), dpo(won, lost, beta=0.5))
    torch.testing.assert_close(copg_list(two, beta=0.5), copg(won, lost, beta=0.5))


@each
@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(loss, found, random):
    # The best answer is taken from the first row of those with the best score, so that scores must differ for it.
    found = [(*row[:3], row[3] + 1e-3 * i, row[4]) for i, row in enumerate(found)]
    shuffled = list(found)
    random.shuffle(shuffled)
    torch.testing.assert_close(loss(answers(shuffled)), loss(answers(found)))


@each
@given(rows, quarter)
def test_a_constant_added_to_all_scores_of_a_prompt_changes_nothing(loss, found, c):
    moved = [(*row[:3], row[3] + c * (row[4] + 1), row[4]) for row in found]
    torch.testing.assert_close(loss(answers(moved)), loss(answers(found)), rtol=1e-6, atol=1e-6)


@each
@given(rows)
def test_lists_do_not_see_each_other(loss, found):
    whole = loss(answers(found))
    apart = [loss(answers([row for row in found if row[4] == g])) for g in sorted({row[4] for row in found})]
    torch.testing.assert_close(whole, torch.cat(apart))


@each
def test_an_answer_alone_is_not_ranked(loss):
    alone = THREE.at(torch.tensor([0]))
    expected = 4.0 if loss is rrhf else 0.0
    assert loss(alone).tolist() == [expected]


@pytest.mark.parametrize(
    ("name", "likelihood"), [("plackett-luce", 0.0), ("pro", -0.2), ("rrhf", -1.0), ("copg-list", 0.0)]
)
def test_where_all_scores_are_equal_only_the_likelihood_of_the_first_is_learnt(name, likelihood):
    logp = tensor(-4, -2, -4.5).requires_grad_()
    equal = THREE.replace(logp=logp, score=tensor(1, 1, 1), ref_logp=logp.detach())
    (slope,) = torch.autograd.grad(dict(LISTS)[name](equal).sum(), logp)
    torch.testing.assert_close(slope, tensor(likelihood, 0, 0))


@given(rows)
def test_rankings_hold_every_row_once_and_fall(found):
    given = answers(found)
    lists = ranked(given.score, given.group)
    assert sorted(lists.row[lists.there].tolist()) == list(range(len(found)))
    for row, there, g in zip(lists.row, lists.there, sorted({x[4] for x in found})):
        kept = row[there]
        assert bool((given.group[kept] == g).all())
        assert bool((given.score[kept].diff() <= 0).all())


def test_another_rule_for_ties_is_refused():
    with pytest.raises(BadSetting, match="keep or drop"):
        pro(THREE, ties="half")
