"""Segments and groups: advantages from the rewards of a group's segments, and how steps of segments are averaged.

A segment is an episode or a completion, a group the answers to one prompt. Rewards are `(n,)`, one per segment, and `group`
`(n,)` tells groups apart by any whole numbers, in any order. Steps are packed, `(N,)`, and `segment` `(N,)` says whose they are.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from palaestra.core.errors import BadSetting

Centre = Literal["group", "leave-one-out", "batch", "none"]
Scale = Literal["group", "batch", "none"]
Average = Literal["token-mean", "sequence-mean", "sequence-sum", "sequence-sum-norm"]
EPSILON = 1e-6
"""Added to deviations before they divide."""


def group_sum(x: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of `x` `(n,)` over each one's group, and the group's size, `(n,)` each."""
    _, index, count = torch.unique(group, return_inverse=True, return_counts=True)
    total = torch.zeros(len(count), dtype=x.dtype, device=x.device).index_add_(0, index, x)
    return total[index], count[index].to(x.dtype)


def group_mean(x: Tensor, group: Tensor) -> Tensor:
    """The mean of `x` `(n,)` over each one's group, `(n,)`."""
    total, count = group_sum(x, group)
    return total / count


def group_variance(x: Tensor, group: Tensor) -> Tensor:
    """The variance of `x` `(n,)` within each one's group, with n - 1 below; 0 in groups of one."""
    total, count = group_sum((x - group_mean(x, group)).square(), group)
    return total / (count - 1).clamp(min=1)


def group_std(x: Tensor, group: Tensor) -> Tensor:
    """The deviation of `x` `(n,)` within each one's group, with n - 1 below; 0 in groups of one."""
    return group_variance(x, group).sqrt()


def pairs_within(group: Tensor) -> tuple[Tensor, Tensor]:
    """The indices `(p,)` of the first and of the second of every two that are in one group; each two once, in their order."""
    order = group.argsort(stable=True)
    _, count = torch.unique_consecutive(group[order], return_counts=True)
    place = torch.arange(len(group), device=group.device)
    behind = count.cumsum(0).repeat_interleave(count) - 1 - place  # how many of its group each has behind it
    first = place.repeat_interleave(behind)
    begin = behind.cumsum(0) - behind
    second = first + 1 + torch.arange(len(first), device=group.device) - begin[first]
    return order[first], order[second]


@torch.no_grad()
def group_advantages(
    reward: Tensor, group: Tensor, centre: Centre = "group", scale: Scale = "group", epsilon: float = EPSILON
) -> Tensor:
    """(R - centre) / (scale + epsilon) for rewards `(n,)`.

    centre "group" and scale "group" are GRPO's (Shao et al. 2024), scale "none" Dr. GRPO's (Liu et al. 2025), "batch" Lite PPO's
    (Liu et al. 2025b): the deviation of the raw rewards of the whole batch. centre and scale "batch" are REINFORCE++'s (Hu et al.
    2025), centre "leave-one-out" and scale "none" RLOO's (Ahmadian et al. 2024): the mean of the others in the group.
    Where the rewards of the group, or of the batch, are all alike, what is divided by their deviation is 0. Computed in double
    precision: a mean of equal rewards that is not quite theirs would be divided by next to nothing.
    """
    given, reward = reward, reward.to(torch.float64)
    if centre == "group":
        baseline = group_mean(reward, group)
    elif centre == "leave-one-out":
        total, count = group_sum(reward, group)
        baseline = torch.where(count > 1, (total - reward) / (count - 1).clamp(min=1), 0.0)
    elif centre == "batch":
        baseline = reward.mean().expand_as(reward)
    elif centre == "none":
        baseline = torch.zeros_like(reward)
    else:
        raise BadSetting(f"advantages are centred by {', '.join(get_args(Centre))}, got {centre!r}")
    if scale == "group":
        deviation, spread = group_std(reward, group), has_spread(reward, group)
    elif scale == "batch":
        deviation = (reward.std() if len(reward) > 1 else reward.new_zeros(())).expand_as(reward)
        spread = has_spread(reward, torch.zeros_like(group))
    elif scale == "none":
        return (reward - baseline).to(given.dtype)
    else:
        raise BadSetting(f"advantages are scaled by {', '.join(get_args(Scale))}, got {scale!r}")
    return torch.where(spread, (reward - baseline) / (deviation + epsilon), 0.0).to(given.dtype)


def has_spread(reward: Tensor, group: Tensor) -> Tensor:
    """Whether each one's group has rewards that differ, `(n,)` bool: others teach nothing.

    Compared as they are, since a mean of equal numbers may be another number, and one of unequal numbers be among them.
    """
    _, index = torch.unique(group, return_inverse=True)
    lowest, highest = (
        reward.new_zeros(int(index.max()) + 1).scatter_reduce_(0, index, reward, how, include_self=False)
        for how in ("amin", "amax")
    )
    return (highest > lowest)[index]


@torch.no_grad()
def step_weights(mask: Tensor, segment: Tensor, average: Average, limit: int | None = None) -> Tensor:
    """What each step weighs in the average of a whole minibatch, `(N,)`: the loss is the weighted sum.

    With n segments of which segment i has |o_i| steps with mask 1: "token-mean" 1 / sum |o_i| (DAPO, Yu et al. 2025),
    "sequence-mean" 1 / (n |o_i|) (GRPO, Shao et al. 2024), "sequence-sum" 1 / n, and "sequence-sum-norm" 1 / (n L) for a
    constant L = `limit` (Dr. GRPO, Liu et al. 2025). Since the weights are those of the whole, a sum over any split of it is the
    same. Segments without a step count for nothing.
    """
    chosen = mask.float()
    count, _ = group_sum(chosen, segment)
    n = (chosen / count.clamp(min=1)).sum().clamp(min=1)  # of segments that have a step
    if average == "token-mean":
        return chosen / chosen.sum().clamp(min=1)
    if average == "sequence-mean":
        return chosen / (n * count.clamp(min=1))
    if average == "sequence-sum":
        return chosen / n
    if average == "sequence-sum-norm":
        if limit is None or limit < 1:
            raise BadSetting(
                f"sequence-sum-norm divides by the largest length, which must be given and at least 1, got {limit}"
            )
        return chosen / (n * limit)
    raise BadSetting(f"steps are averaged by {', '.join(get_args(Average))}, got {average!r}")


def segment_sum(x: Tensor, segment: Tensor, count: int) -> Tensor:
    """The sum of steps `(N,)` over segments numbered 0 … count - 1, `(count,)`; with a gradient."""
    return torch.zeros(count, dtype=x.dtype, device=x.device).index_add(0, segment, x)
