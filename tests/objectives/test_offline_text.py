"""Weighted likelihoods of scored answers: weights by hand, and gradients where they are known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from palaestra.core.errors import BadSetting
from palaestra.objectives.answers import Answers, Tokens
from palaestra.objectives.offline_text import (
    a_lol,
    a_lol_kl,
    a_lol_ref_free,
    a_lol_seq,
    clipped_ratio,
    nll,
    r_gold,
    r_lol,
    sampling_probabilities,
    wbc,
)


def tensor(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


WHICH = torch.tensor([0, 0, 1])


def answers(logp: Tensor, ref_logp: Tensor, worth: Tensor) -> Answers:
    """Two answers of two tokens and of one, `worth` both as reward and as advantage."""
    sums = (torch.zeros(2, dtype=logp.dtype).index_add(0, WHICH, x) for x in (logp, ref_logp))
    logp_sum, ref_sum = sums
    return Answers(logp=logp_sum, ref_logp=ref_sum, score=worth, advantage=worth, tokens=Tokens(logp, WHICH, ref_logp))


def slopes(loss, logp: Tensor, ref_logp: Tensor, worth: Tensor) -> Tensor:
    """The gradient by the log-probability of each token, `(3,)`."""
    logp = logp.clone().requires_grad_()
    return torch.autograd.grad(loss(answers(logp, ref_logp, worth)).sum(), logp)[0]


REF = tensor(-1.0, -2.0, -0.5)
WORTH = tensor(0.7, 0.2)


def test_likelihoods_by_hand():
    given = answers(tensor(-1, -2, -0.5), REF, WORTH)
    torch.testing.assert_close(nll(given), tensor(3, 0.5))
    torch.testing.assert_close(wbc(given), tensor(2.1, 0.1))
    torch.testing.assert_close(a_lol_ref_free(given), tensor(2.1, 0.1))


def test_at_the_reference_ratios_are_1_and_all_forms_have_the_same_gradient():
    expected = -WORTH[WHICH]
    for loss in (a_lol, a_lol_seq, a_lol_ref_free, r_lol, wbc):
        torch.testing.assert_close(slopes(loss, REF, REF, WORTH), expected)


def test_a_ratio_of_3_is_clipped_to_1_9():
    assert float(clipped_ratio(tensor(math.log(3)), tensor(0), 0.9)) == pytest.approx(1.9)
    assert float(clipped_ratio(tensor(-math.log(30)), tensor(0), 0.9)) == pytest.approx(0.1)
    assert float(clipped_ratio(tensor(math.log(3)), tensor(0), None)) == pytest.approx(3)
    assert float(clipped_ratio(tensor(1e4), tensor(0), 0.9)) == pytest.approx(1.9)
    logp = REF + tensor(math.log(1.5), math.log(2), 0)
    torch.testing.assert_close(slopes(a_lol, logp, REF, WORTH), -tensor(1.9 * 0.7, 1.9 * 0.7, 0.2))


def test_each_token_has_its_own_ratio_in_the_form_for_sequences():
    logp = REF + tensor(math.log(1.5), math.log(3), 0)
    torch.testing.assert_close(slopes(a_lol_seq, logp, REF, WORTH), -tensor(1.5 * 0.7, 1.9 * 0.7, 0.2))


def test_the_divergence_s_gradient_is_advantage_less_beta():
    for beta in (0.1, 0.5):
        found = slopes(lambda a, b=beta: a_lol_kl(a, beta=b), REF, REF, WORTH)
        torch.testing.assert_close(found, -(WORTH - beta)[WHICH])


def test_gold_weighs_tokens_by_their_probability_with_a_floor():
    logp = tensor(math.log(0.02), math.log(0.5), math.log(0.9))
    torch.testing.assert_close(slopes(r_gold, logp, REF, WORTH), -tensor(0.1 * 0.7, 0.5 * 0.7, 0.9 * 0.2))


@given(st.lists(st.floats(-2, 0), min_size=3, max_size=3), st.floats(-3, 0))
def test_what_is_worse_than_expected_is_never_learnt_from(logp, advantage):
    worth = tensor(advantage, 0.3)
    for loss in (a_lol, a_lol_seq, a_lol_ref_free):
        assert slopes(loss, tensor(*logp), REF, worth)[:2].tolist() == [0, 0]


def test_negative_rewards_are_refused():
    given = answers(REF, REF, tensor(0.5, -0.1))
    for loss in (wbc, r_lol, r_gold):
        with pytest.raises(BadSetting, match="must not be negative"):
            loss(given)


def test_tokens_without_a_reference_have_no_ratio():
    given = answers(REF, REF, WORTH).replace(tokens=Tokens(REF, WHICH))
    with pytest.raises(BadSetting, match="ref_logp of its tokens"):
        a_lol_seq(given)


@pytest.mark.parametrize("clip", [-0.1, 1.0])
def test_a_clip_that_makes_no_sense_is_refused(clip):
    with pytest.raises(BadSetting, match="clip"):
        a_lol(answers(REF, REF, WORTH), clip=clip)


def test_the_gradient_of_a_lol_over_all_answers_is_that_of_the_expected_leftover():
    logits = tensor(0.3, -0.2, 0.5).requires_grad_()
    ref, advantage = tensor(0.5, 0.2, 0.3), tensor(0.4, -0.7, 0.1)
    logp = logits.log_softmax(-1)
    loss = a_lol(Answers(logp=logp, ref_logp=ref.log(), advantage=advantage), clip=None)
    (found,) = torch.autograd.grad((ref * loss).sum(), logits, retain_graph=True)
    (exact,) = torch.autograd.grad(-(logp.exp() * advantage.clamp(min=0)).sum(), logits)
    torch.testing.assert_close(found, exact)


def test_answers_are_drawn_by_what_they_are_worth():
    worth = tensor(0.6, -1.0, 0.2, 0.0)
    torch.testing.assert_close(sampling_probabilities(worth), tensor(0.75, 0, 0.25, 0))
    torch.testing.assert_close(sampling_probabilities(worth, "positive"), tensor(0.5, 0, 0.5, 0))
    torch.testing.assert_close(sampling_probabilities(worth, "uniform"), tensor(0.25, 0.25, 0.25, 0.25))


def test_nothing_can_be_drawn_where_nothing_is_worth_it():
    with pytest.raises(BadSetting, match="nothing to learn"):
        sampling_probabilities(tensor(-1.0, 0.0))
    with pytest.raises(BadSetting, match="finite"):
        sampling_probabilities(tensor(-1.0, math.nan))
    with pytest.raises(BadSetting, match="worth, positive, uniform"):
        sampling_probabilities(tensor(1.0), "rank")
