"""Losses of all pairs among a prompt's answers, of which some are on a better level than others (Su et al. 2025).

Answers have a level `(n,)`, 1 for the best, and q `(n,)`, the log-ratio of the policy to a reference. `group` `(n,)` tells
prompts apart; answers to different prompts are never compared.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from palaestra.core.errors import BadSetting, require
from palaestra.objectives.preference import bradley_terry
from palaestra.objectives.segments import group_sum, pairs_within

Alone = Literal["skip", "prompt", "batch"]


class Pairs(NamedTuple):
    """The loss; and over its pairs the mean q of both sides, and how often the better one's is higher: 0 without any."""

    loss: Tensor
    better: Tensor
    worse: Tensor
    accuracy: Tensor
    alone: Tensor  # share of the prompts that have no pair


def level_pairs(level: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """The indices `(p,)` of the better and of the worse answer of every pair of one prompt with different levels."""
    first, second = pairs_within(group)
    one, other = torch.cat([first, second]), torch.cat([second, first])
    better = level[one] < level[other]
    one, other = one[better], other[better]
    order = (one * len(level) + other).argsort()
    return one[order], other[order]


def preference_loss(
    q: Tensor,
    level: Tensor,
    group: Tensor,
    beta: float,
    kappa: float = 1.0,
    alone: Alone = "skip",
    per_prompt: bool = False,
) -> Pairs:
    """-mean log sigma(b (q_i - q_j)) over pairs with level_i < level_j, b = kappa beta where level_i is 1, else beta.

    Prompts whose answers are all on one level have no pair. They are left `alone`: "skip"; or their answers' -log sigma(s q),
    s = 1 on level 1 and else -1, join the pairs: of each such "prompt", or only if the whole "batch" has no pair, as in the
    released code. `per_prompt` takes the mean over prompts of the means within, in place of that over all pairs.
    """
    if alone not in get_args(Alone):
        raise BadSetting(f"prompts without a pair are treated by {', '.join(get_args(Alone))}, got {alone!r}")
    require(
        bool(q.isfinite().all()), "a loss of pairs needs finite log-probabilities under the policy and the reference"
    )
    require(not level.is_floating_point() and bool((level >= 1).all()), "levels are whole numbers from 1 on")
    first, second = level_pairs(level, group)
    paired = torch.isin(group, group[first])
    margin = q[first] - q[second]
    slope = beta * torch.where(level[first] == 1, kappa, 1.0).to(q)
    term, where = bradley_terry(slope * margin), group[first]
    if alone == "prompt" or (alone == "batch" and not len(first)):
        single = (~paired).nonzero().squeeze(-1)
        sign = torch.where(level[single] == 1, 1.0, -1.0)
        term = torch.cat([term, bradley_terry(sign * q[single])])
        where = torch.cat([where, group[single]])
    if per_prompt and len(term):
        _, count = group_sum(torch.ones_like(term), where)
        loss = (term / count).sum() / len(where.unique())
    else:
        loss = term.sum() / max(1, len(term))
    with torch.no_grad():
        without = 1 - len(group[paired].unique()) / len(group.unique())
        better, worse, accuracy = (x.sum() / max(1, len(x)) for x in (q[first], q[second], (margin > 0).float()))
        return Pairs(loss, better, worse, accuracy, torch.tensor(without))


def levels_of(reward: Tensor, thresholds: tuple[float, ...]) -> Tensor:
    """1 for rewards `(n,)` of at least the first threshold, 2 for those of at least the second, and so on, `(n,)`."""
    falling = torch.tensor(thresholds)
    require(len(thresholds) > 0, "levels need at least one threshold")
    require(bool((falling[1:] < falling[:-1]).all()), f"thresholds must fall, got {', '.join(map(str, thresholds))}")
    return 1 + (reward.unsqueeze(-1) < falling).sum(-1)
