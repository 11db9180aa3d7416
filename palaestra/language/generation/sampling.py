"""From logits to a token: temperature, top-k, top-p, min-p, and one uniform number per token.

A token is the inverse of the distribution function at a uniform number that belongs to its sequence and position. So a
sequence depends on its own seed, whoever shares its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from palaestra.core.errors import require

BELOW_ONE = 1 - 2.0**-40
"""Keeps rounding from putting a point at the very end, behind the last token that has any probability."""


@dataclass(frozen=True)
class Sampling:
    """The distribution that tokens are drawn from."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the most likely tokens until their probabilities add up to p."""
    min_p: float = 0.0
    """Keep tokens at least min_p times as likely as the most likely one."""

    def __post_init__(self) -> None:
        require(self.temperature >= 0, f"temperature must be at least 0, got {self.temperature}")
        require(self.top_k >= 0, f"top_k must be at least 0, got {self.top_k}")
        require(0 < self.top_p <= 1, f"top_p must be in (0, 1], got {self.top_p}")
        require(0 <= self.min_p < 1, f"min_p must be in [0, 1), got {self.min_p}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def plain(self) -> bool:
        """Whether it is the model's own distribution, at temperature 1 and uncut."""
        return self.temperature == 1 and not self.cuts

    @property
    def cuts(self) -> bool:
        """Whether unlikely tokens are left out."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


class Chosen(NamedTuple):
    """One token for each row."""

    token: Tensor  # (n,)
    logp: Tensor  # (n,) under the model, at temperature 1
    sampled_logp: Tensor  # (n,) under the distribution it was drawn from


def choose(logits: Tensor, uniform: Tensor, sampling: Sampling) -> Chosen:
    """One token for each row of `logits` `(n, V)`, given a number of [0, 1) for each, `uniform` `(n,)` float64.

    In single precision, whatever the model computes in.
    """
    logits = logits.float()
    if sampling.greedy:
        logp, token = logits.log_softmax(-1).max(-1)
        return Chosen(token, logp, torch.zeros_like(logp))
    probability = (logits if sampling.temperature == 1 else logits / sampling.temperature).softmax(-1)
    if sampling.cuts:
        probability = cut(probability, sampling)
    below = probability.double().cumsum_(-1)
    token = torch.searchsorted(below, (uniform * below[:, -1] * BELOW_ONE).unsqueeze(-1), right=True)
    chosen = probability.gather(-1, token).log().squeeze(-1)
    token = token.squeeze(-1)
    if sampling.plain:
        return Chosen(token, chosen, chosen)
    return Chosen(token, logits.log_softmax(-1).gather(-1, token.unsqueeze(-1)).squeeze(-1), chosen)


def cut(probability: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities `(n, V)` with the unlikely tokens taken out, adding up to 1 again.

    Each rule looks at the distribution that the one before it left: top-k, then top-p, then min-p. Of equally likely tokens
    at the edge, all stay.
    """
    if 0 < sampling.top_k < probability.shape[-1]:
        least = probability.topk(sampling.top_k, -1).values[:, -1:]
        probability = _kept(probability, probability >= least)
    if sampling.top_p < 1:
        ordered = probability.sort(-1, descending=True).values
        before = ordered.cumsum(-1) - ordered
        least = ordered.masked_fill(before >= sampling.top_p, 2.0).amin(-1, keepdim=True)
        probability = _kept(probability, probability >= least)
    if sampling.min_p > 0:
        probability = _kept(probability, probability >= sampling.min_p * probability.amax(-1, keepdim=True))
    return probability


def _kept(probability: Tensor, keep: Tensor) -> Tensor:
    left = probability * keep
    return left / left.sum(-1, keepdim=True)
