"""Losses of pairs: by hand, the identities between them, and their symmetries."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from palaestra.core.errors import BadSetting
from palaestra.objectives.answers import Answers
from palaestra.objectives.direct import (
    bt_rm,
    copg,
    dno,
    dno_prct,
    dpo,
    inpo,
    ipo,
    kto,
    r_dpo,
    reference_point,
    simpo,
    slic,
    sppo,
    tdpo1,
    tdpo2,
)
from palaestra.objectives.group_preference import level_pairs, preference_loss
from palaestra.objectives.regression import rebel

number = st.floats(-5, 5)


def tensor(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def answer(logp: float, ref: float = 0.0, **fields: float) -> Answers:
    return Answers(logp=tensor(logp), ref_logp=tensor(ref), **{name: tensor(x) for name, x in fields.items()})


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# By hand: of the chosen answer log pi = -2 and log pi_ref = -3, of the rejected one -4 and -3.5, so that h = 1 + 0.5.
WON, LOST = answer(-2, -3), answer(-4, -3.5)
H = 1.5


def test_dpo_by_hand():
    assert float(dpo(WON, LOST, beta=0.4)) == pytest.approx(-math.log(sigma(0.6)))
    smooth = -0.9 * math.log(sigma(0.6)) - 0.1 * math.log(sigma(-0.6))
    assert float(dpo(WON, LOST, beta=0.4, smoothing=0.1)) == pytest.approx(smooth)


def test_at_the_reference_dpo_is_log_2_and_ipo_the_square_of_its_target():
    same = answer(-2, -2), answer(-7, -7)
    assert float(dpo(*same, beta=0.3)) == pytest.approx(math.log(2))
    assert float(ipo(*same, beta=0.3)) == pytest.approx((1 / 0.6) ** 2)


def test_ipo_by_hand():
    assert float(ipo(WON, LOST, beta=0.2)) == pytest.approx((H - 2.5) ** 2)


def test_simpo_by_hand():
    won, lost = answer(-2, length=4.0), answer(-4, length=5.0)
    assert float(simpo(won, lost, beta=2.0, gamma=0.5)) == pytest.approx(-math.log(sigma(2 * (-0.5 + 0.8) - 0.5)))


def test_length_regularised_dpo_by_hand():
    won, lost = answer(-2, -3, length=9.0), answer(-4, -3.5, length=4.0)
    assert float(r_dpo(won, lost, beta=0.4, alpha=0.02)) == pytest.approx(-math.log(sigma(0.6 + 0.1)))
    assert float(r_dpo(won, lost, beta=0.4, alpha=0.0)) == float(dpo(WON, LOST, beta=0.4))


def test_token_level_dpo_by_hand():
    won, lost = answer(-2, -3, kl=0.2), answer(-4, -3.5, kl=0.5)
    assert float(tdpo1(won, lost, beta=0.4)) == pytest.approx(-math.log(sigma(0.4 * (H - 0.3))))
    assert float(tdpo2(won, lost, beta=0.4, alpha=0.5)) == pytest.approx(-math.log(sigma(0.4 * (H - 0.15))))
    assert float(tdpo2(won, lost, beta=0.4, alpha=0.0)) == float(dpo(WON, LOST, beta=0.4))


def test_token_level_dpo_holds_the_rejected_answer_and_its_second_form_lets_the_chosen_one_go():
    def slopes(form, **rest):
        kl = tensor(0.2).requires_grad_(), tensor(0.5).requires_grad_()
        loss = form(WON.replace(kl=kl[0]), LOST.replace(kl=kl[1]), beta=0.4, **rest)
        return torch.autograd.grad(loss.sum(), kl, allow_unused=True)

    won, lost = slopes(tdpo1)
    assert won == -lost and float(lost) == pytest.approx(0.4 * sigma(-0.4 * 1.2))
    won, lost = slopes(tdpo2, alpha=0.5)
    assert won is None and float(lost) == pytest.approx(0.2 * sigma(-0.4 * 1.35))


def test_slic_by_hand_and_where_its_margin_is_reached_only_likelihood_remains():
    assert float(slic(answer(-2), answer(-2.5), delta=1.0, weight=0.1)) == pytest.approx(0.5 + 0.2)
    assert float(slic(answer(-2), answer(-4), delta=1.0, weight=0.1)) == pytest.approx(0.2)


def test_copg_by_hand_and_as_a_regression():
    won, lost = WON.replace(score=tensor(0.9)), LOST.replace(score=tensor(0.2))
    assert float(copg(won, lost, beta=0.4)) == pytest.approx(0.2 * H**2 - 0.7 * H)
    assert float(copg(won, lost, beta=0.4)) == pytest.approx(0.2 * (H - 0.7 / 0.4) ** 2 - 0.7**2 / 0.8)


def test_copg_has_the_gradient_of_equation_18():
    logp = tensor(-2, -4).requires_grad_()
    sides = [
        Answers(logp=logp[i : i + 1], ref_logp=tensor(r), score=tensor(s)) for i, r, s in ((0, -3, 0.9), (1, -3.5, 0.2))
    ]
    (slope,) = torch.autograd.grad(-copg(*sides, beta=0.4).sum(), logp)
    ahead = (0.9 - 0.4 * 1.0) - (0.2 - 0.4 * -0.5)
    torch.testing.assert_close(slope, tensor(ahead, -ahead))


def test_inpo_by_hand():
    won, lost = WON.replace(prev_logp=tensor(-2.5)), LOST.replace(prev_logp=tensor(-3.0))
    h = (-2 + 4) - 0.3 * (-3 + 3.5) - 0.7 * (-2.5 + 3.0)
    assert float(inpo(won, lost, eta=1.0, tau=0.3)) == pytest.approx((h - 0.5) ** 2)


def test_inpo_at_its_target_is_0_and_the_other_way_round_1_over_eta_squared():
    eta = 0.4
    won, lost = answer(1 / (2 * eta), prev_logp=0.0), answer(0.0, prev_logp=0.0)
    assert float(inpo(won, lost, eta=eta, tau=0.1)) == pytest.approx(0, abs=1e-12)
    assert float(inpo(lost, won, eta=eta, tau=0.1)) == pytest.approx(1 / eta**2)


def test_dno_by_hand():
    first, second = answer(-2, prev_logp=-3.0, score=0.9), answer(-4, prev_logp=-3.5, score=0.2)
    p = sigma(0.7)
    hand = -p * math.log(sigma(0.4 * H)) - (1 - p) * math.log(sigma(-0.4 * H))
    assert float(dno(first, second, eta=0.4)) == pytest.approx(hand)


def test_sppo_by_hand():
    assert float(sppo(answer(-2, prev_logp=-3.0, score=0.75), eta=8.0)) == pytest.approx((1 - 8 * 0.25) ** 2)


def test_kto_by_hand():
    both = Answers(
        logp=tensor(-2, -4), ref_logp=tensor(-3, -3.5), kl=tensor(0.2, 0.2), desirable=torch.tensor([True, False])
    )
    found = kto(both, beta=0.5, desirable_weight=1.0, undesirable_weight=1.5)
    torch.testing.assert_close(found, tensor(1 - sigma(0.5 * 0.8), 1.5 * (1 - sigma(0.5 * 0.7))))


def test_the_point_of_reference_is_a_mean_that_is_never_negative_and_a_constant():
    logp = tensor(-2, -4).requires_grad_()
    found = reference_point(logp, tensor(-3, -3.5))
    assert found.tolist() == [0.25, 0.25] and not found.requires_grad
    assert reference_point(tensor(-2), tensor(-1)).tolist() == [0.0]


def test_a_reward_model_s_loss_by_hand():
    won, lost = answer(-6, score=1.5), answer(-9, score=0.5)
    assert float(bt_rm(won, lost)) == pytest.approx(-math.log(sigma(1.0)))
    found = bt_rm(won, lost, margin=tensor(0.4), lm_weight=0.1)
    assert float(found) == pytest.approx(-math.log(sigma(0.6)) + 0.6)


# Identities.

pairs = st.tuples(*[st.tuples(*[number] * 4)] * 2)
"""For each side log pi, log pi_ref, log pi_t and a score."""


def both(found) -> tuple[Answers, Answers]:
    (a, b) = (dict(zip(("logp", "ref_logp", "prev_logp", "score"), map(tensor, side))) for side in found)
    return Answers(**a), Answers(**b)


@given(pairs, st.floats(0.05, 3))
def test_dpo_s_loss_grows_by_the_margin_when_sides_are_changed(found, beta):
    won, lost = both(found)
    margin = beta * (won.ratio - lost.ratio)
    torch.testing.assert_close(dpo(lost, won, beta=beta) - dpo(won, lost, beta=beta), margin)


@given(pairs, st.floats(0.05, 3))
def test_losses_that_know_scores_do_not_care_which_side_is_which(found, beta):
    won, lost = both(found)
    torch.testing.assert_close(copg(won, lost, beta=beta), copg(lost, won, beta=beta))
    won, lost = (x.replace(score=torch.sigmoid(x.score)) for x in (won, lost))
    torch.testing.assert_close(dno(won, lost, eta=beta), dno(lost, won, eta=beta))


@given(pairs, st.floats(0.05, 3), number)
def test_a_constant_added_to_both_scores_or_both_log_probabilities_changes_nothing(found, beta, c):
    won, lost = both(found)
    moved = [x.replace(score=x.score + c) for x in (won, lost)]
    torch.testing.assert_close(copg(*moved, beta=beta), copg(won, lost, beta=beta))
    moved = [x.replace(logp=x.logp + c) for x in (won, lost)]
    for loss in (dpo, ipo, copg):
        torch.testing.assert_close(loss(*moved, beta=beta), loss(won, lost, beta=beta), rtol=1e-6, atol=1e-6)


@given(pairs, st.floats(0.05, 3))
def test_copg_with_rewards_of_a_quarter_is_ipo_times_half_beta_but_for_a_constant(found, beta):
    won, lost = both(found)
    won, lost = won.replace(score=tensor(0.25)), lost.replace(score=tensor(-0.25))
    torch.testing.assert_close(copg(won, lost, beta=beta) + 1 / (8 * beta), beta / 2 * ipo(won, lost, beta=beta))


@given(pairs, st.floats(0.05, 3))
def test_copg_is_rebel_but_for_a_factor_and_a_constant(found, beta):
    won, lost = both(found)
    gap = won.score - lost.score
    ratio, reward = (torch.cat([getattr(x, name) for x in (won, lost)]) for name in ("ratio", "score"))
    regression = rebel(ratio, reward, torch.zeros(2), eta=1 / beta)
    torch.testing.assert_close((2 * beta * copg(won, lost, beta=beta) + gap**2).squeeze(), regression)


@given(pairs, st.floats(0.05, 3))
def test_inpo_knows_ipo_and_no_reference_as_its_ends(found, eta):
    won, lost = both(found)
    torch.testing.assert_close(inpo(won, lost, eta=eta, tau=eta), ipo(won, lost, beta=eta))
    previous = [x.replace(ref_logp=x.prev_logp) for x in (won, lost)]
    torch.testing.assert_close(inpo(won, lost, eta=eta, tau=0.0), ipo(*previous, beta=eta))


@given(pairs, st.floats(0.05, 3))
def test_dno_in_practice_is_dpo_against_the_previous_policy(found, beta):
    won, lost = both(found)
    previous = [x.replace(ref_logp=x.prev_logp) for x in (won, lost)]
    torch.testing.assert_close(dno_prct(won, lost, beta=beta), dpo(*previous, beta=beta), rtol=0, atol=1e-12)


@given(st.lists(st.tuples(number, number, st.integers(1, 3)), min_size=2, max_size=7), st.floats(0.05, 3))
def test_the_mean_of_dpo_over_pairs_of_levels_is_the_loss_of_levels(found, beta):
    logp, ref_logp, level = (torch.tensor(x) for x in zip(*found))
    rows, group = Answers(logp=logp, ref_logp=ref_logp), torch.zeros(len(found))
    better, worse = level_pairs(level, group)
    if len(better):
        whole = preference_loss(rows.ratio, level, group, beta).loss
        torch.testing.assert_close(dpo(rows.at(better), rows.at(worse), beta=beta).mean(), whole)


@given(number, number)
def test_a_pair_of_an_answer_with_itself_teaches_nothing(logp, ref):
    value = tensor(logp).requires_grad_()
    same = Answers(logp=value, ref_logp=tensor(ref), prev_logp=tensor(0.0), score=tensor(0.5), length=tensor(3))
    for loss in (dpo, ipo, simpo, r_dpo, copg, inpo, dno, dno_prct):
        assert float(torch.autograd.grad(loss(same, same).sum(), value)[0]) == pytest.approx(0, abs=1e-9)


def test_losses_are_finite_however_far_apart_two_answers_are():
    won, lost = (answer(x, prev_logp=0.0, length=1.0, kl=0.0, score=0.5) for x in (-1e4, 1e4))
    for loss in (dpo, simpo, r_dpo, tdpo1, tdpo2, dno_prct, dno):
        assert math.isfinite(loss(won, lost)) and math.isfinite(loss(lost, won))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dpo(WON, LOST, beta=0.0), "beta must be positive"),
        (lambda: dpo(WON, LOST, smoothing=0.5), "below 0.5"),
        (lambda: inpo(*both([[0] * 4] * 2), eta=0.1, tau=0.2), "between 0 and eta"),
        (lambda: inpo(*both([[0] * 4] * 2), eta=0.1, tau=-0.2), "between 0 and eta"),
        (lambda: dno(*both([[0, 0, 0, 1.5]] * 2)), "win rates"),
        (lambda: sppo(answer(0, prev_logp=0.0, score=-0.5)), "win rates"),
        (lambda: bt_rm(Answers(score=tensor(1)), Answers(score=tensor(0)), lm_weight=0.1), "language term"),
        (lambda: copg(*both([[0] * 4] * 2), beta=-1.0), "beta must be positive"),
    ],
)
def test_settings_that_make_no_sense_are_refused(call, message):
    with pytest.raises(BadSetting, match=message):
        call()
