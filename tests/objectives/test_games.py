"""Games of preferences: closed forms, fixed points, and winners that are mixtures."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from palaestra.core.errors import BadSetting, PalaestraError
from palaestra.objectives.games import (
    check_preference,
    exploitability,
    from_payoff,
    from_scores,
    hedge,
    minimax_winner,
    mirror_step,
    regularised_nash,
    win_rate,
)


def tensor(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


CYCLE = torch.tensor([[0.5, 0.8, 0.2], [0.2, 0.5, 0.8], [0.8, 0.2, 0.5]], dtype=torch.float64)
REF = tensor(0.6, 0.3, 0.1)
NOW = tensor(0.2, 0.5, 0.3)


def cycle(a: float, c: float, b: float) -> Tensor:
    """1 beats 2 by a, 2 beats 3 by c and 3 beats 1 by b."""
    return from_payoff(torch.tensor([[0, a, -b], [-a, 0, c], [b, -c, 0]], dtype=torch.float64))


@st.composite
def games(draw):
    n = draw(st.integers(2, 5))
    upper = (
        torch.tensor(draw(st.lists(st.floats(-1, 1), min_size=n * n, max_size=n * n)), dtype=torch.float64)
        .view(n, n)
        .triu(1)
    )
    return from_payoff(upper - upper.T)


@st.composite
def policies(draw, n: int):
    weight = torch.tensor(draw(st.lists(st.floats(0.05, 1), min_size=n, max_size=n)), dtype=torch.float64)
    return weight / weight.sum()


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum()


def test_a_step_of_mirror_descent_by_hand():
    torch.testing.assert_close(
        mirror_step(CYCLE, NOW, 1.0, REF, 0.3), tensor(0.31597, 0.47301, 0.21102), atol=5e-6, rtol=0
    )


def test_a_step_of_soft_policy_iteration_by_hand_and_its_bound():
    after = mirror_step(CYCLE, NOW, 0.5)
    torch.testing.assert_close(after, tensor(0.22393, 0.52723, 0.24884), atol=5e-6, rtol=0)
    rate, bound = after @ CYCLE @ NOW, 0.5 + 0.5 * kl(after, NOW)
    assert float(rate) == pytest.approx(0.50686, abs=5e-6)
    assert float(bound) == pytest.approx(0.50337, abs=5e-6)


@pytest.mark.parametrize(
    ("eta", "tau", "nash"),
    [
        (1, 0.3, (0.64351, 0.19319, 0.16330)),
        (0.5, 1 / 6, (0.59242, 0.17340, 0.23418)),
        (2, 0.2, (0.61571, 0.17565, 0.20864)),
    ],
)
def test_steps_of_mirror_descent_end_at_the_regularised_nash_policy(eta, tau, nash):
    policy = NOW
    for _ in range(2000):
        policy = mirror_step(CYCLE, policy, eta, REF, tau)
    torch.testing.assert_close(policy, tensor(*nash), atol=5e-6, rtol=0)
    torch.testing.assert_close(regularised_nash(CYCLE, REF, tau), policy)
    torch.testing.assert_close(
        (REF * (CYCLE @ policy / tau).exp() / (REF * (CYCLE @ policy / tau).exp()).sum()), policy
    )


@given(st.data(), games(), st.floats(0.05, 2))
def test_no_policy_gains_on_the_regularised_nash_policy_once_it_pays_for_leaving_the_reference(data, preference, tau):
    ref, other = data.draw(policies(len(preference))), data.draw(policies(len(preference)))
    nash = regularised_nash(preference, ref, tau)
    gain = other @ preference @ nash - tau * kl(other, ref) + tau * kl(nash, ref)
    assert float(gain) <= 0.5 + 1e-9


@given(st.data(), games(), st.floats(0.05, 3))
def test_a_step_of_soft_policy_iteration_beats_what_it_began_with(data, preference, eta):
    policy = data.draw(policies(len(preference)))
    after = mirror_step(preference, policy, eta)
    assert float(after @ preference @ policy) >= 0.5 + eta * float(kl(after, policy)) - 1e-9


@pytest.mark.parametrize("beats", [(1, 0.5, 0.25), (0.3, 0.3, 0.3), (0.9, 0.1, 0.5)])
def test_the_winner_of_a_cycle_plays_each_as_often_as_the_others_beat_one_another(beats):
    a, b, c = beats
    expected = tensor(c, b, a) / (a + b + c)
    preference = cycle(a=a, b=b, c=c)
    torch.testing.assert_close(minimax_winner(preference), expected)
    torch.testing.assert_close(win_rate(preference, expected), tensor(0.5, 0.5, 0.5))


def test_hedge_on_average_finds_the_winner_that_its_last_policy_circles():
    preference = cycle(a=1, b=0.5, c=0.25)
    found, winner = hedge(preference, 5000), tensor(1, 2, 4) / 7
    assert float((found.average - winner).abs().max()) < 0.02
    assert float((found.last - winner).abs().max()) > 0.1


@settings(max_examples=25)
@given(games())
def test_no_answer_beats_a_minimax_winner_nor_by_much_the_average_of_hedge(preference):
    assert float(exploitability(preference, minimax_winner(preference))) <= 1e-7
    steps, n = 400, len(preference)
    regret = math.sqrt(math.log(n) / (2 * steps))
    assert float(exploitability(preference, hedge(preference, steps).average)) <= 2 * regret + 1e-9


@given(st.lists(st.integers(-8, 8), min_size=2, max_size=6, unique=True))
def test_where_preferences_come_from_scores_the_best_answer_wins(scores):
    score = tensor(*scores) / 2
    preference = from_scores(score)
    assert int(minimax_winner(preference).argmax()) == int(score.argmax())
    assert float(minimax_winner(preference).max()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([[0.5, 0.7], [0.4, 0.5]], "must be 1"),
        ([[0.5, 1.7], [-0.7, 0.5]], "between 0 and 1"),
        ([[0.5, math.nan], [0.5, 0.5]], "between 0 and 1"),
        ([[0.6]], "must be 1"),
        ([[0.5, 0.5]], "square"),
    ],
)
def test_what_is_no_game_of_preferences_is_refused(table, message):
    with pytest.raises(BadSetting, match=message):
        check_preference(torch.tensor(table))


@pytest.mark.parametrize(("eta", "tau"), [(0.1, 0.2), (0.0, 0.0), (0.1, -0.1)])
def test_steps_that_are_too_long_for_the_regulariser_are_refused(eta, tau):
    with pytest.raises(BadSetting, match="tau <= eta"):
        mirror_step(CYCLE, NOW, eta, REF, tau)


def test_a_step_towards_a_reference_needs_one():
    with pytest.raises(BadSetting, match="reference"):
        mirror_step(CYCLE, NOW, 1.0, tau=0.5)


def test_a_nash_policy_that_is_not_reached_is_not_returned():
    with pytest.raises(PalaestraError, match="larger tau"):
        regularised_nash(CYCLE, REF, 0.01, limit=10)


def test_a_policy_that_never_gives_an_answer_can_start_a_step_to_the_reference_alone():
    step = mirror_step(CYCLE, tensor(0.5, 0.5, 0.0), 0.4, REF, 0.4)
    assert bool(step.isfinite().all()) and float(step[2]) > 0
