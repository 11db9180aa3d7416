"""Trees of tokens, solved exactly: answers of H tokens out of V, each prefix a state (Rafailov et al. 2024, 2404.12358).

A table is a list of H tensors, the one at t `(V^t, V)`: a number for each prefix of t tokens and each next token. Prefixes are
numbered in base V, the first token first, so that the children of prefix i are i V … i V + V - 1. Answers end with token H.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from palaestra.core.errors import require

Table = Sequence[Tensor]


def softmax_table(logits: Table) -> list[Tensor]:
    """Log-probabilities of next tokens."""
    return [x.log_softmax(-1) for x in logits]


class Solved(NamedTuple):
    """The optimum of E[sum_t r_t] - beta KL(pi || pi_ref)."""

    q: list[Tensor]
    value: list[Tensor]  # H + 1 of them, the one at t (V^t,); after the last token 0
    logp: list[Tensor]


def solve(reward: Table, ref_logp: Table, beta: float) -> Solved:
    """Soft value iteration: Q(s, a) = r(s, a) + beta log pi_ref(a|s) + V(s'), V(s) = beta log sum_a exp(Q(s, a) / beta).

    The best policy is exp((Q - V) / beta) (eqs. 5-7).
    """
    require(beta > 0, f"beta must be positive, got {beta}")
    value, q = [reward[-1].new_zeros(reward[-1].numel())], []
    for r, ref in zip(reversed(reward), reversed(ref_logp), strict=True):
        q.append(r + beta * ref + value[-1].view_as(r))
        value.append(beta * (q[-1] / beta).logsumexp(-1))
    q.reverse()
    value.reverse()
    return Solved(q, value, softmax_table([x / beta for x in q]))


def reward_of(q: Table, ref_logp: Table, beta: float) -> list[Tensor]:
    """The one reward whose best Q is `q`: r(s, a) = Q(s, a) - beta log pi_ref(a|s) - V(s') (lemma 1)."""
    value = [beta * (x / beta).logsumexp(-1) for x in q[1:]] + [q[-1].new_zeros(q[-1].numel())]
    return [x - beta * ref - after.view_as(x) for x, ref, after in zip(q, ref_logp, value, strict=True)]


def shaped(reward: Table, potential: Table) -> list[Tensor]:
    """r + Phi(s') - Phi(s), which has the same best policy; `potential` is `(V^t,)` for t = 0 … H, and 0 after the last token."""
    require(not bool(potential[-1].any()), "the potential must be 0 where answers end")
    return [
        r + after.view_as(r) - now.unsqueeze(-1)
        for r, now, after in zip(reward, potential, potential[1:], strict=False)
    ]


def implicit_reward(logp: Tensor, ref_logp: Tensor, beta: float) -> Tensor:
    """beta log pi(a|s) / pi_ref(a|s), whatever the shape: the reward of tokens for which pi is the best policy.

    For the solution of `solve` it is r + V(s') - V(s) (eq. 10): credit for single tokens, and over a whole answer R - V(s_0).
    """
    return beta * (logp - ref_logp)


def paths(table: Table) -> Tensor:
    """The sums along all prefixes of the table's depth, `(V^H,)`: of log-probabilities, those of whole answers."""
    total = table[0].new_zeros(1)
    for step in table:
        total = (total.unsqueeze(-1) + step).flatten()
    return total


def tokens_of(prefix: Tensor, depth: int, vocabulary: int) -> Tensor:
    """The tokens of numbered prefixes, `(k, depth)` from `(k,)`."""
    place = vocabulary ** torch.arange(depth - 1, -1, -1, device=prefix.device)
    return prefix.unsqueeze(-1) // place % vocabulary


class Found(NamedTuple):
    """The best prefixes that a search found, best first, `(k,)` each: their numbers, and their sums."""

    prefix: Tensor
    score: Tensor


def best(score: Tensor, width: int) -> Found:
    """Exhaustive search: the `width` best of all prefixes, given the score of each, `(V^t,)`."""
    top = score.topk(min(width, len(score)))
    return Found(top.indices, top.values)


def beam(logp: Table, width: int) -> Found:
    """Beam search by the sum of log-probabilities, not divided by lengths.

    What is best for it is what is best by reward: sum of [r + beta log pi_ref] over a prefix, and V of where it ends, is
    V(s_0) + beta sum log pi (eqs. 12-13).
    """
    require(width >= 1, f"a beam needs a width of at least 1, got {width}")
    kept, score = torch.zeros(1, dtype=torch.int64, device=logp[0].device), logp[0].new_zeros(1)
    for step in logp:
        vocabulary = step.shape[1]
        top = best((score.unsqueeze(-1) + step[kept]).flatten(), width)
        kept = kept[top.prefix // vocabulary] * vocabulary + top.prefix % vocabulary
        score = top.score
    return Found(kept, score)
