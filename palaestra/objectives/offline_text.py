"""Losses of single scored answers that stand: weighted likelihoods, and offline policy gradients with an answer as one action.

From "Leftover Lunch" (Baheti et al. 2023, 2305.14718) with its baselines. l = log pi(y|x) is a sum over tokens, rho = pi / pi_ref
of a whole answer or of a token; rho and all other weights are constants. A loss is `(n,)` for n answers.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from palaestra.core.errors import BadSetting, require
from palaestra.objectives.answers import Answers, loss
from palaestra.objectives.segments import segment_sum

Sampling = Literal["worth", "positive", "uniform"]
LOL = "Baheti et al. 2023", "2305.14718"


def clipped_ratio(logp: Tensor, ref_logp: Tensor, clip: float | None) -> Tensor:
    """pi / pi_ref within [1 - clip, 1 + clip], a constant; without a clip, as it is."""
    require(clip is None or 0 <= clip < 1, f"clip must be at least 0 and below 1, got {clip}")
    rho = (logp - ref_logp).detach().exp()
    return rho if clip is None else rho.clamp(1 - clip, 1 + clip)


def is_clipped(logp: Tensor, ref_logp: Tensor, clip: float | None) -> Tensor:
    """1 where `clipped_ratio` is not the ratio itself, else 0."""
    rho = (logp - ref_logp).detach().exp()
    return torch.zeros_like(rho) if clip is None else ((rho - 1).abs() > clip).to(rho)


def _reward(answers: Answers) -> Tensor:
    require(
        bool((answers.score >= 0).all()), "rewards must not be negative: they would push likelihoods to 0 without end"
    )
    return answers.score


def _leftover(answers: Answers) -> Tensor:
    """What an answer is better than expected, else 0."""
    return answers.advantage.clamp(min=0)


@loss("answer", "logp", "sum", "supervised fine-tuning")
def nll(answers: Answers) -> Tensor:
    """-l"""
    return -answers.logp


@loss("answer", "logp score", "sum", *LOL)
def wbc(answers: Answers) -> Tensor:
    """-R l

    Behaviour cloning weighted by rewards, which must not be negative.
    """
    return -_reward(answers) * answers.logp


@loss("answer", "tokens score", "sum", "Pang and He 2021", "2009.07839")
def r_gold(answers: Answers, floor: float = 0.1) -> Tensor:
    """-R sum_t max(pi_t, floor) l_t

    GOLD with the reward of a whole answer: likely tokens weigh more.
    """
    logp, which, _ = answers.tokens
    return -_reward(answers) * segment_sum(logp.detach().exp().clamp(min=floor) * logp, which, len(answers.score))


@loss("answer", "logp ref_logp score", "sum", *LOL)
def r_lol(answers: Answers, clip: float | None = 0.9) -> Tensor:
    """-R clip(rho) l"""
    return -_reward(answers) * clipped_ratio(answers.logp, answers.ref_logp, clip) * answers.logp


@loss("answer", "logp ref_logp advantage", "sum", *LOL)
def a_lol(answers: Answers, clip: float | None = 0.9) -> Tensor:
    """-max(A, 0) clip(rho) l

    Where all answers are enumerated and nothing is clipped, its gradient is that of -E_pi[max(A, 0)].
    """
    return -_leftover(answers) * clipped_ratio(answers.logp, answers.ref_logp, clip) * answers.logp


@loss("answer", "logp advantage", "sum", *LOL)
def a_lol_ref_free(answers: Answers) -> Tensor:
    """-max(A, 0) l"""
    return -_leftover(answers) * answers.logp


@loss("answer", "tokens advantage", "sum", *LOL)
def a_lol_seq(answers: Answers, clip: float | None = 0.9) -> Tensor:
    """-max(A, 0) sum_t clip(rho_t) l_t

    A ratio for each token in place of their product, which is a heuristic.
    """
    logp, which, ref_logp = answers.tokens
    require(ref_logp is not None, "the loss 'a-lol-seq' needs ref_logp of its tokens")
    weighed = clipped_ratio(logp, ref_logp, clip) * logp
    return -_leftover(answers) * segment_sum(weighed, which, len(answers.advantage))


@loss("answer", "logp ref_logp advantage", "sum", *LOL)
def a_lol_kl(answers: Answers, beta: float = 0.1) -> Tensor:
    """-max(A, 0) l + beta log pi(y) / pi_ref(y)

    A log-ratio on data, no divergence: answers with A < beta are pushed down.
    """
    require(beta >= 0, f"beta must not be negative, got {beta}")
    return -_leftover(answers) * answers.logp + beta * answers.ratio


def sampling_probabilities(worth: Tensor, how: Sampling = "worth") -> Tensor:
    """How likely each answer is drawn, `(n,)`, given its advantage or its reward.

    In proportion to what it is worth above 0; uniformly among those worth more than 0; or uniformly. Drawn by worth and weighed
    by it again, as in the paper's own runs, an answer counts by the square.
    """
    if how not in get_args(Sampling):
        raise BadSetting(f"answers are drawn by {', '.join(get_args(Sampling))}, got {how!r}")
    require(bool(worth.isfinite().all()), "answers can only be drawn by finite numbers")
    if how == "uniform":
        return torch.full_like(worth, 1 / len(worth))
    kept = worth.clamp(min=0) if how == "worth" else (worth > 0).to(worth.dtype)
    require(bool(kept.any()), "no answer is worth more than 0: there is nothing to learn from")
    return kept / kept.sum()
