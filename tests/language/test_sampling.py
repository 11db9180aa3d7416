"""Sampling: the inverse of a distribution function at a given number, under the usual cuts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from palaestra.core.errors import BadSetting
from palaestra.language.generation.sampling import Sampling, SeenTokens, choose, cut, penalised

P = torch.tensor([[0.5, 0.3, 0.15, 0.05]])


PLAIN = Sampling()


def at(u: float, sampling: Sampling = PLAIN, p: torch.Tensor = P):
    return choose(p.log(), torch.tensor([u], dtype=torch.float64), sampling)


@pytest.mark.parametrize(("u", "token"), [(0.0, 0), (0.4999, 0), (0.5001, 1), (0.81, 2), (0.96, 3), (1 - 2**-53, 3)])
def test_a_token_is_the_inverse_of_the_distribution_function(u, token):
    chosen = at(u)
    assert chosen.token.item() == token
    assert chosen.logp.item() == pytest.approx(math.log(P[0, token]), abs=1e-6)
    assert chosen.sampled_logp.item() == pytest.approx(chosen.logp.item())


def test_a_token_without_probability_is_never_chosen():
    p = torch.tensor([[0.0, 1.0, 0.0]])
    assert at(0.0, p=p).token.item() == 1
    assert at(1 - 2**-53, p=p).token.item() == 1


def test_temperature_squares_probabilities_at_a_half_and_both_log_probabilities_are_told():
    chosen = at(0.0, Sampling(temperature=0.5))
    squares = P.square() / P.square().sum()
    assert chosen.sampled_logp.item() == pytest.approx(squares[0, 0].log().item(), abs=1e-6)
    assert chosen.logp.item() == pytest.approx(math.log(0.5), abs=1e-6)


def test_greedy_takes_the_likeliest_whatever_the_number():
    assert {at(u, Sampling(temperature=0)).token.item() for u in (0.0, 0.6, 0.99)} == {0}


def test_top_k_top_p_and_min_p_by_hand():
    def kept(**settings):
        return [round(x, 4) for x in cut(P, Sampling(**settings))[0].tolist()]

    assert kept(top_k=2) == [0.625, 0.375, 0, 0]
    assert kept(top_p=0.8) == [0.625, 0.375, 0, 0]
    assert kept(top_p=0.81) == [0.5263, 0.3158, 0.1579, 0]
    assert kept(min_p=0.3) == [0.5263, 0.3158, 0.1579, 0]
    assert kept(top_k=3, top_p=0.6) == [0.625, 0.375, 0, 0]
    assert kept(top_k=9) == [0.5, 0.3, 0.15, 0.05]


def test_equally_likely_tokens_at_the_edge_all_stay():
    even = torch.full((1, 4), 0.25)
    assert torch.equal(cut(even, Sampling(top_k=2)), even)
    assert torch.equal(cut(even, Sampling(top_p=0.3)), even)


@given(
    st.lists(st.floats(-8, 8), min_size=2, max_size=12),
    st.integers(0, 6),
    st.floats(0.05, 1),
    st.floats(0, 0.9),
    st.floats(0, 1, exclude_max=True),
)
def test_whatever_is_cut_a_distribution_is_left_and_the_likeliest_token_in_it(logits, top_k, top_p, min_p, u):
    sampling = Sampling(top_k=top_k, top_p=top_p, min_p=min_p)
    x = torch.tensor([logits])
    left = cut(x.softmax(-1), sampling)
    assert left.sum().item() == pytest.approx(1, abs=1e-5)
    assert left[0, x.argmax()] > 0
    chosen = choose(x, torch.tensor([u], dtype=torch.float64), sampling)
    assert left[0, chosen.token] > 0
    assert chosen.sampled_logp >= chosen.logp - 1e-5  # cutting others makes a token likelier


def test_a_penalty_divides_positive_logits_of_seen_tokens_and_multiplies_negative_ones():
    logits, seen = torch.tensor([[2.0, -1.0, 0.5, 0.0, -3.0]]), torch.tensor([[True, True, False, True, False]])
    assert penalised(logits, seen, 2.0).tolist() == [[1.0, -2.0, 0.5, 0.0, -3.0]]
    assert penalised(logits, seen, 0.5).tolist() == [[4.0, -0.5, 0.5, 0.0, -3.0]]


@given(st.lists(st.floats(-9, 9, width=32), min_size=6, max_size=6), st.lists(st.integers(0, 5)), st.floats(0.2, 5))
def test_a_penalty_is_that_of_transformers(logits, ids, penalty):
    x, seen = torch.tensor([logits]), torch.zeros(1, 6, dtype=torch.bool)
    seen[0, ids] = True
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids], dtype=torch.int64), x)
    assert torch.equal(penalised(x, seen, penalty), expected)


def test_under_a_penalty_one_log_probability_is_of_what_was_drawn_from_and_the_other_the_model_s_own():
    logits, seen = torch.tensor([[2.0, 1.0]]), torch.tensor([[True, False]])
    drawn = torch.tensor([0.5, 1.0]).div(0.5).log_softmax(-1)  # 2 / 4, at a temperature of 0.5
    for u in (0.0, 0.9):
        chosen = choose(logits, torch.tensor([u]), Sampling(temperature=0.5, repetition_penalty=4.0), seen)
        assert chosen.sampled_logp.item() == pytest.approx(drawn[chosen.token].item(), abs=1e-6)
        assert chosen.logp.item() == pytest.approx(logits.log_softmax(-1)[0, chosen.token].item(), abs=1e-6)
        assert chosen.token.item() == int(u > 0.5)


def test_under_a_penalty_greedy_takes_the_likeliest_of_what_it_leaves():
    logits, seen = torch.tensor([[2.0, 1.0]]), torch.tensor([[True, False]])
    chosen = choose(logits, torch.zeros(1), Sampling(temperature=0, repetition_penalty=4.0), seen)
    assert chosen.token.item() == 1 and chosen.sampled_logp.item() == 0
    assert chosen.logp.item() == pytest.approx(logits.log_softmax(-1)[0, 1].item())


def test_without_a_penalty_nobody_keeps_what_was_seen():
    seen = SeenTokens(Sampling(temperature=0.5, top_p=0.9).penalises)
    seen.admit([torch.tensor([1])], [2], torch.zeros(1, 4))
    seen.add(torch.tensor([0, 1]))
    seen.keep(torch.tensor([1]))
    assert seen.table is None


def test_seen_tokens_follow_rows_that_join_and_leave():
    seen = SeenTokens(True)
    seen.admit([torch.tensor([0, 0]), torch.tensor([3])], [2, 1], torch.zeros(2, 4))
    seen.add(torch.tensor([1, 2, 3]))
    seen.keep(torch.tensor([2, 1]))
    seen.admit([torch.tensor([1])], [1], torch.zeros(1, 4))
    assert seen.table.int().tolist() == [[0, 0, 0, 1], [1, 0, 1, 0], [0, 1, 0, 0]]


@pytest.mark.parametrize(
    "bad",
    [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}, {"min_p": 1}, {"repetition_penalty": 0}],
)
def test_settings_out_of_range_are_refused_by_name(bad):
    with pytest.raises(BadSetting, match=next(iter(bad))):
        Sampling(**bad)
