"""Rewards that are worth less where the answer was likely anyway (He et al. 2025): ranks in a group, and what came of them."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from palaestra.core.errors import BadSetting, Diverged, require

DiscountForm = Literal["code", "paper"]


def likelihood_ranks(logp: Tensor, group: Tensor) -> Tensor:
    """The place of each answer among those of its group by log-probability `(n,)`, from 0 for the least likely, `(n,)`.

    Equal ones share the mean of their places.

    Raises:
        Diverged: one of the log-probabilities is not finite.
    """
    if not bool(logp.isfinite().all()):
        raise Diverged("the model gives an answer a log-probability that is not finite")
    same = group.unsqueeze(1) == group
    below = (same & (logp.unsqueeze(1) > logp)).sum(1)
    equal = (same & (logp.unsqueeze(1) == logp)).sum(1)
    return below + (equal - 1) / 2


def unlikeliness_rewards(
    reward: Tensor, logp: Tensor, group: Tensor, discount: float, form: DiscountForm = "code"
) -> Tensor:
    """R (1 - b k / G) for rewards `(n,)` of 0 or more, k the rank of an answer by `logp` `(n,)` among the G of its group.

    That is what the released code computes, in which the least likely answer keeps its reward. In the form of the "paper" k
    counts from 1, so that b of the reward of the most likely one is taken off.
    """
    require(0 <= discount <= 1, f"the discount must be between 0 and 1, got {discount}")
    require(
        bool((reward >= 0).all()), "rewards must not be negative: the discount would reward failures for being likely"
    )
    if form not in get_args(DiscountForm):
        raise BadSetting(f"the discount has the form of {' or '.join(get_args(DiscountForm))}, got {form!r}")
    rank = likelihood_ranks(logp, group) + (form == "paper")
    size = (group.unsqueeze(1) == group).sum(1)
    return reward * (1 - discount * rank / size)


def uplift(before: Tensor, after: Tensor, group: Tensor, parts: int = 4) -> Tensor:
    """The share of right answers that became likelier, by how likely they were `before`, the least likely first, `(parts,)`.

    All `(n,)`: of right answers only. Answers are put into parts by their place among the right ones of their group. A part
    without any is NaN.
    """
    size = (group.unsqueeze(1) == group).sum(1)
    place = (likelihood_ranks(before, group) + 0.5) / size
    part = (place * parts).long().clamp(max=parts - 1)
    rose = torch.zeros(parts).index_add_(0, part, (after > before).float())
    return rose / torch.bincount(part, minlength=parts)
