"""Trees of tokens: rewards and best policies determine each other, and search by reward is search by likelihood."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from palaestra.core.errors import BadSetting
from palaestra.objectives.answers import Answers
from palaestra.objectives.direct import dpo
from palaestra.objectives.token_mdp import (
    beam,
    best,
    implicit_reward,
    paths,
    reward_of,
    shaped,
    softmax_table,
    solve,
    tokens_of,
)
from tests.objectives.tabular import all_pairs, minimiser

V, H, BETA = 3, 4, 0.7
trees = st.tuples(st.integers(0, 10_000), st.sampled_from([(3, 4), (2, 3), (2, 1), (4, 2)]), st.floats(0.1, 3))


def table(generator: torch.Generator, v: int, h: int) -> list[Tensor]:
    return [torch.randn(v**t, v, generator=generator, dtype=torch.float64) for t in range(h)]


def tree(seed: int = 0, v: int = V, h: int = H) -> tuple[list[Tensor], list[Tensor]]:
    """A reward and a reference, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    return table(generator, v, h), softmax_table(table(generator, v, h))


def rewards_of(logp: list[Tensor], ref: list[Tensor], beta: float) -> list[Tensor]:
    return [implicit_reward(x, y, beta) for x, y in zip(logp, ref)]


def test_two_tokens_of_one_step_by_hand():
    reward, ref = [torch.tensor([[1.0, 0.0]])], [torch.tensor([[0.25, 0.75]]).log()]
    found = solve(reward, ref, beta=0.5)
    weight = torch.tensor([0.25, 0.75]) * torch.tensor([2.0, 0.0]).exp()
    torch.testing.assert_close(found.logp[0].exp(), (weight / weight.sum()).unsqueeze(0))
    torch.testing.assert_close(found.value[0], 0.5 * weight.sum().log().unsqueeze(0))


@given(trees)
def test_the_implicit_reward_is_the_reward_shaped_by_the_value_at_every_token(found):
    seed, size, beta = found
    reward, ref = tree(seed, *size)
    solved = solve(reward, ref, beta)
    for implicit, exact in zip(rewards_of(solved.logp, ref, beta), shaped(reward, solved.value)):
        torch.testing.assert_close(implicit, exact, atol=1e-10, rtol=0)


@given(trees)
def test_over_complete_answers_it_is_their_reward_less_one_constant_and_over_parts_of_them_it_is_not(found):
    seed, size, beta = found
    reward, ref = tree(seed, *size)
    solved = solve(reward, ref, beta)
    implicit = rewards_of(solved.logp, ref, beta)
    off = paths(reward) - paths(implicit)
    torch.testing.assert_close(off, solved.value[0].expand_as(off), atol=1e-10, rtol=0)
    if size[1] > 1:  # a truncated answer leaves the value of where it stops
        off = paths(reward[:-1]) - paths(implicit[:-1])
        torch.testing.assert_close(off, solved.value[0] - solved.value[-2], atol=1e-10, rtol=0)


def test_three_steps_of_two_tokens_telescope():
    reward, ref = tree(3, 2, 3)
    solved = solve(reward, ref, BETA)
    implicit = paths(rewards_of(solved.logp, ref, BETA))
    torch.testing.assert_close(implicit, paths(reward) - solved.value[0], atol=1e-10, rtol=0)


@given(trees)
def test_a_potential_that_is_0_at_the_end_leaves_the_best_policy_as_it_is(found):
    seed, size, beta = found
    reward, ref = tree(seed, *size)
    generator = torch.Generator().manual_seed(seed + 1)
    v, h = size
    potential = [torch.randn(v**t, generator=generator, dtype=torch.float64) for t in range(h)] + [torch.zeros(v**h)]
    before, after = solve(reward, ref, beta), solve(shaped(reward, potential), ref, beta)
    for x, y in zip(before.logp, after.logp):
        torch.testing.assert_close(x, y, atol=1e-10, rtol=0)


def test_a_potential_at_the_end_is_refused():
    reward, _ = tree()
    with pytest.raises(BadSetting, match="where answers end"):
        shaped(reward, [torch.ones(V**t) for t in range(H + 1)])


@given(trees)
def test_rewards_and_best_q_functions_are_one_to_one(found):
    seed, size, beta = found
    reward, ref = tree(seed, *size)
    for x, y in zip(reward_of(solve(reward, ref, beta).q, ref, beta), reward):
        torch.testing.assert_close(x, y, atol=1e-10, rtol=0)
    for x, y in zip(solve(reward_of(reward, ref, beta), ref, beta).q, reward):  # any table is the best Q of some reward
        torch.testing.assert_close(x, y, atol=1e-10, rtol=0)


@given(trees)
def test_search_by_reward_and_value_finds_what_search_by_likelihood_does_at_any_depth(found):
    seed, size, beta = found
    reward, ref = tree(seed, *size)
    solved = solve(reward, ref, beta)
    for depth in range(1, size[1] + 1):
        worth = paths(reward[:depth]) + beta * paths(ref[:depth]) + solved.value[depth]
        torch.testing.assert_close(worth, solved.value[0] + beta * paths(solved.logp[:depth]), atol=1e-9, rtol=0)
        assert int(worth.argmax()) == int(best(paths(solved.logp[:depth]), 1).prefix)


@given(trees)
def test_a_beam_as_wide_as_the_tree_is_exhaustive_and_a_narrow_one_no_better(found):
    seed, size, _ = found
    _, logp = tree(seed, *size)
    v, h = size
    whole, exact = beam(logp, v**h), best(paths(logp), v**h)
    torch.testing.assert_close(whole.score, exact.score)
    torch.testing.assert_close(paths(logp)[whole.prefix], whole.score)
    for width in (1, 2):
        assert float(beam(logp, width).score[0]) <= float(exact.score[0]) + 1e-12


def test_a_beam_of_one_is_greedy_and_a_wider_one_may_find_more():
    # The likelier first token leads to three unlikely ones.
    logp = [torch.tensor([[0.6, 0.4]]).log(), torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()]
    assert tokens_of(beam(logp, 1).prefix, 2, 2).tolist() == [[0, 0]]
    found = beam(logp, 2)
    assert tokens_of(found.prefix[:1], 2, 2).tolist() == [[1, 0]]
    assert float(found.score[0].exp()) == pytest.approx(0.36)


def test_prefixes_are_numbered_with_the_first_token_first():
    assert tokens_of(torch.tensor([0, 5, 26]), 3, 3).tolist() == [[0, 0, 0], [0, 1, 2], [2, 2, 2]]


def test_dpo_over_all_pairs_of_answers_ends_at_the_best_policy_of_every_token():
    reward, ref = tree()
    score, ref_sum = paths(reward), paths(ref)
    sizes = [V ** (t + 1) for t in range(H)]

    def logp_of(logits: Tensor) -> list[Tensor]:
        return softmax_table([x.view(-1, V) for x in logits.split(sizes)])

    def expected(logits: Tensor) -> Tensor:
        first, second = all_pairs(Answers(logp=paths(logp_of(logits)), ref_logp=ref_sum, score=score))
        preferred = torch.sigmoid(first.score - second.score)
        return (preferred * dpo(first, second, beta=BETA) + (1 - preferred) * dpo(second, first, beta=BETA)).mean()

    learnt, exact = logp_of(minimiser(expected, sum(sizes))), solve(reward, ref, BETA).logp
    for x, y in zip(learnt, exact):
        torch.testing.assert_close(x.exp(), y.exp(), atol=1e-5, rtol=0)
