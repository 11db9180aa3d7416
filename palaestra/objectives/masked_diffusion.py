"""Masked diffusion of tokens: which are masked, what each masked one weighs, and policy gradients on them.

As in LLaDA (Nie et al., arXiv 2502.09992) and MMaDA (Yang et al., arXiv 2505.15809). `eligible` `(B, L)` says which tokens may be
masked: those of the answer, never of the question. Random numbers come from outside.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from palaestra.core.errors import BadSetting, require
from palaestra.objectives.divergences import kl_estimate
from palaestra.objectives.policy import ppo_clip
from palaestra.objectives.segments import segment_sum

EPSILON = 1e-3
"""The smallest probability of a mask."""
TIMESTEPS = 1000
"""T of the structured ratios: a timestep t masks each token with probability t / T."""
KL = Literal["sequence", "sum", "mean"]


def mask_probability(t: Tensor, epsilon: float = EPSILON) -> Tensor:
    """p = (1 - epsilon) t + epsilon for t in [0, 1]."""
    return (1 - epsilon) * t + epsilon


def random_mask(eligible: Tensor, p: Tensor, first: Tensor, each: Tensor) -> Tensor:
    """Each eligible token masked with probability p `(B,)`, given that at least one is: `(B, L)` bool.

    Exactly the distribution that drawing again until a mask is not empty would give, without doing so: `first` `(B,)`, uniform in
    [0, 1), chooses the first masked token by a geometric distribution that is cut at the length, and `each` `(B, L)` those
    behind it. A row in which nothing is eligible has no mask.
    """
    p = p.double().clamp(min=1e-12, max=1.0)
    count = eligible.sum(-1)
    some = chance_of_any(p, count)
    place = (torch.log1p(-first.double() * some) / torch.log1p(-p)).floor().clamp(min=0)
    place = torch.minimum(place, (count - 1).clamp(min=0).double()).long()
    rank = eligible.long().cumsum(-1) - 1
    behind = (rank > place.unsqueeze(-1)) & (each < p.unsqueeze(-1))
    return eligible & ((rank == place.unsqueeze(-1)) | behind)


def chance_of_any(p: Tensor, count: Tensor) -> Tensor:
    """1 - (1 - p)^n: that of `count` tokens at least one is masked, `(B,)` in float64; exact where p is small."""
    return -torch.expm1(count * torch.log1p(-p.double()).clamp(min=-1e300))


def unified_weights(mask: Tensor, eligible: Tensor, p: Tensor) -> Tensor:
    """What each token weighs in L_unify, `(B, L)`: -sum w log p(x0 | xt) over a row has the mean (MMaDA, eq. 1)

        1/n E_t,mask [ 1/p sum_i 1[i masked] -log p(x0_i | xt) ],   n eligible tokens,

    where an empty mask adds nothing. As `random_mask` never gives one, the weight is (1 - (1 - p)^n) / p in place of 1 / p: it
    is n at most, however small p is.
    """
    count = eligible.sum(-1)
    weight = chance_of_any(p, count) / (p.double() * count.clamp(min=1))
    return mask * weight.to(torch.float32).unsqueeze(-1)


def cosine_ratio(u: Tensor) -> Tensor:
    """cos(pi u / 2): the share that is masked at time u of an image (Chang et al. 2022)."""
    return torch.cos(u * (math.pi / 2))


def image_mask(eligible: Tensor, u: Tensor, each: Tensor) -> Tensor:
    """round(n cos(pi u / 2)) of the n eligible tokens, one at least, masked at random, `(B, L)` bool.

    `u` `(B,)` and `each` `(B, L)` are uniform; the tokens with the smallest of `each` are masked.
    """
    count = (eligible.sum(-1) * cosine_ratio(u)).round().clamp(min=1)
    order = each.masked_fill(~eligible, torch.inf).argsort(-1).argsort(-1)
    return eligible & (order < count.unsqueeze(-1))


def structured_timesteps(start: Tensor, updates: int, timesteps: int = TIMESTEPS) -> Tensor:
    """Timesteps `(B, updates)` that begin at `start` `(B,)` and are spread evenly over [0, T), round its end.

    For a start of 100 and 5 updates: 100, 300, 500, 700, 900 (MMaDA, section 5.2). Whatever the start, there is one in every
    T / updates, so that all updates together see every share of masked tokens.
    """
    require(updates >= 1, f"there must be at least 1 update, got {updates}")
    return (start.unsqueeze(-1) + torch.arange(updates) * (timesteps / updates)) % timesteps


def unigrpo(
    logp: Tensor,
    old_logp: Tensor,
    advantage: Tensor,
    segment: Tensor,
    rows: int,
    clip: float,
    *,
    kl_weight: float = 0.0,
    anchor_logp: Tensor | None = None,
    kl: KL = "sequence",
) -> tuple[Tensor, Tensor, Tensor]:
    """UniGRPO's loss (MMaDA, alg. 1) on masked tokens `(N,)`, its ratios r and its divergence:

        -1/B sum_i 1/|M_i| sum_{t in M_i} min(r_t A_i, clip(r_t, 1 - eps, 1 + eps) A_i) + beta 1/B sum_i KL_i

    with B = `rows`, so that the parts of a batch add up, r = pi / pi_old under the *same* mask, and `segment` `(N,)` numbers from
    0. KL_i estimates the divergence from the anchor by k3: of the mean log-probability of the answer's masked tokens ("sequence",
    the paper's pi'), or of each token, summed ("sum", the released code's) or averaged ("mean").
    """
    count = segment_sum(torch.ones_like(logp), segment, int(segment.max()) + 1)
    weight = 1 / (rows * count[segment])
    loss, ratio = ppo_clip(logp, old_logp, advantage, clip, weight=weight)
    if anchor_logp is None:
        return loss, ratio, loss.new_zeros(())
    if kl == "sequence":
        ours, theirs = (segment_sum(x, segment, len(count)) / count.clamp(min=1) for x in (logp, anchor_logp))
        divergence = kl_estimate(ours, theirs).sum() / rows
    elif kl in ("sum", "mean"):
        each = kl_estimate(logp, anchor_logp)
        divergence = (each * weight).sum() if kl == "mean" else each.sum() / rows
    else:
        raise BadSetting(f"the divergence is one of {', '.join(get_args(KL))}, got {kl!r}")
    return loss + kl_weight * divergence, ratio, divergence
