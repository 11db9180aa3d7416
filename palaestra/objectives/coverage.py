"""How much of what is right a policy finds in several tries: estimated from samples, or computed from probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.core.errors import require


def pass_at_k(correct: Tensor, samples: Tensor | int, k: int) -> Tensor:
    """The chance that one of k answers is right, estimated without bias from n of them of which c are (Chen et al. 2021, eq. 1):

    1 - C(n - c, k) / C(n, k), for `correct` c `(...)` and `samples` n, one number or `(...)`.
    """
    n = torch.as_tensor(samples, dtype=torch.float64)
    c = correct.to(torch.float64)
    require(k >= 1 and bool((n >= k).all()), f"pass@{k} needs {k} samples or more of everything, and k at least 1")
    require(bool(((c >= 0) & (c <= n)).all()), "the number of right answers must lie between 0 and that of samples")
    wrong = n - c
    # C(n-c, k) / C(n, k) is the product over j < k of (n - c - j) / (n - j); 0 where fewer than k are wrong.
    log_all = torch.lgamma(wrong.clamp(min=k) + 1) - torch.lgamma(wrong.clamp(min=k) - k + 1)
    log_all = log_all - torch.lgamma(n + 1) + torch.lgamma(n - k + 1)
    return torch.where(wrong >= k, 0 - torch.expm1(log_all.clamp(max=0)), 1.0)


def chance_of_pass(right: Tensor, k: int) -> Tensor:
    """The chance that one of k independent answers is right, given that of one `right` p `(...)`: 1 - (1 - p)^k."""
    return 0 - torch.expm1(k * torch.log1p(-right.to(torch.float64).clamp(0, 1)))


def coverage(probability: Tensor, right: Tensor, draws: int) -> Tensor:
    """The expected share of right answers that turn up in some draws, `(m,)`, given the probability `(m, n)` of every answer and
    which are `right` `(m, n)`: the mean of 1 - (1 - p)^draws over the right ones; 0 where there are none."""
    seen = chance_of_pass(probability, draws)
    return (seen * right).sum(-1) / right.sum(-1).clamp(min=1)
