"""Losses of ranked lists: all answers to a prompt at once. One number per list, `(G,)`, in the order of group numbers."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from palaestra.core.errors import BadSetting, require
from palaestra.objectives.answers import Answers, loss
from palaestra.objectives.group_preference import level_pairs
from palaestra.objectives.segments import group_variance, segment_sum

Ties = Literal["keep", "drop"]


class Ranked(NamedTuple):
    """G lists of at most K answers, best first: rows of n answers, and where there is one."""

    row: Tensor  # (G, K)
    there: Tensor  # (G, K) bool

    @property
    def contrast(self) -> Tensor:
        """Whether answer i comes after answer k in its list, `(G, K, K)` for k, i."""
        both = self.there.unsqueeze(-1) & self.there.unsqueeze(-2)
        return both & torch.ones_like(both[0]).triu(1)


def ranked(score: Tensor, group: Tensor) -> Ranked:
    """Lists by falling `score`, `(n,)` as `group`; of equal scores the earlier row comes first."""
    order = torch.argsort(score, descending=True, stable=True)
    _, which, count = torch.unique(group, return_inverse=True, return_counts=True)
    order = order[torch.argsort(which[order], stable=True)]
    place = torch.arange(len(score), device=score.device) - (count.cumsum(0) - count)[which[order]]
    row = torch.zeros(len(count), int(count.max()), dtype=torch.int64, device=score.device)
    row[which[order], place] = order
    return Ranked(row, torch.arange(row.shape[1], device=score.device) < count.unsqueeze(-1))


def _contrasts(own: Tensor, other: Tensor, contrast: Tensor) -> Tensor:
    """sum_k -log( exp(own_k) / (exp(own_k) + sum_i exp(other_ki)) ), i the contrasts of k, `(G,)` from `(G, K)`, `(G, K, K)`."""
    rivals = torch.where(contrast, other, -torch.inf)
    whole = torch.cat([own.unsqueeze(-1), rivals], -1).logsumexp(-1)
    return torch.where(contrast.any(-1), whole - own, 0.0).sum(-1)


@loss("list", "logp ref_logp score group", "sum", "Rafailov et al. 2023", "2305.18290")
def plackett_luce(answers: Answers, beta: float = 0.1) -> Tensor:
    """sum_k -log( exp(beta rho_k) / sum_{i >= k} exp(beta rho_i) ), rho = log pi / pi_ref, best first

    DPO for whole rankings (appendix A.3), by falling `score`. Answers of equal score are not contrasted with each other.
    """
    require(beta > 0, f"beta must be positive, got {beta}")
    lists = ranked(answers.score, answers.group)
    rho, score = beta * answers.ratio[lists.row], answers.score[lists.row]
    contrast = lists.contrast & (score.unsqueeze(-1) > score.unsqueeze(-2))
    return _contrasts(rho, rho.unsqueeze(-2), contrast)


@loss("list", "logp length score group", "sum and mean", "Song et al. 2023", "2306.17492")
def pro(answers: Answers, weight: float = 0.05, graded: bool = True, ties: Ties = "drop") -> Tensor:
    """sum_k -log( exp(g_kk s_k) / (exp(g_kk s_k) + sum_{i > k} exp(g_ki s_i)) ) - weight (n - 1)^2 log pi(y_1)

    Preference ranking optimisation: s is the *mean* log-probability of tokens, the last term the *sum* for the best answer,
    g_ki = R_k - R_i and g_kk the largest of them. Not `graded`, all g are 1. One whose score equals y_k's is no rival of it.
    With `ties` "keep", as the released code has it, it is one of gap 0: a term exp(0) = 1 in the denominator beside
    exp(g_kk s_k) < 1, which pushes the earlier row of the two, and only that.
    """
    if ties not in get_args(Ties):
        raise BadSetting(f"ties are treated by {' or '.join(get_args(Ties))}, got {ties!r}")
    lists = ranked(answers.score, answers.group)
    s, score = answers.mean_logp[lists.row], answers.score[lists.row].to(answers.logp)
    gap, contrast = score.unsqueeze(-1) - score.unsqueeze(-2), lists.contrast
    if ties == "drop":
        contrast = contrast & (gap > 0)
    slope = torch.where(contrast, gap if graded else torch.ones_like(gap), 0.0)
    ranking = _contrasts(slope.amax(-1) * s, slope * s.unsqueeze(-2), contrast)
    supervised = weight * (lists.there.sum(-1) - 1).square() * answers.logp[lists.row[:, 0]]
    return ranking - supervised


@loss("list", "logp length score group", "sum and mean", "Yuan et al. 2023", "2304.05302")
def rrhf(answers: Answers, weight: float = 1.0) -> Tensor:
    """weight sum over R_i < R_j of max(0, p_i - p_j) - log pi(y_1), p = log pi / |y|

    Rank responses to align human feedback: p is the *mean* log-probability of tokens, the last term the *sum* for the best.
    The released code takes for the last term the mean over its padded row; by default it weighs the ranking by 100.
    """
    lists = ranked(answers.score, answers.group)
    better, worse = level_pairs(-answers.score, answers.group)
    which = torch.unique(answers.group, return_inverse=True)[1][better]
    hinge = segment_sum((answers.mean_logp[worse] - answers.mean_logp[better]).relu(), which, len(lists.row))
    return weight * hinge - answers.logp[lists.row[:, 0]]


@loss("list", "logp ref_logp score group", "sum", "Flet-Berliac et al. 2024; Cohere 2025", "2504.00698")
def copg_list(answers: Answers, beta: float = 0.06) -> Tensor:
    """1 / (n - 1) sum_{i < j} ( beta / 2 h_ij^2 - (R_i - R_j) h_ij ), h_ij = rho_i - rho_j

    Contrastive policy gradient over all pairs of a list: up to a constant 1 / (2 beta (n - 1)) times the sum of squared
    differences of R - beta rho, the form of Command A. A step down it is n times RLOO's step up, for the reward R - beta rho.
    """
    require(beta > 0, f"beta must be positive, got {beta}")
    first = ranked(answers.score, answers.group).row[:, 0]
    fit, given = (group_variance(x, answers.group) for x in (answers.score - beta * answers.ratio, answers.score))
    size = (answers.group.unsqueeze(0) == answers.group[first].unsqueeze(1)).sum(1)
    return size / (2 * beta) * (fit - given)[first]
