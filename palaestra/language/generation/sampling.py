"""From logits to a token: repetition penalty, temperature, top-k, top-p, min-p, and one uniform number per token.

A token is the inverse of the distribution function at a uniform number that belongs to its sequence and position. So a
sequence depends on its own seed, whoever shares its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    repetition_penalty: float = 1.0
    """Divides positive logits of tokens that the prompt or the answer already has, and multiplies negative ones; 1 for none."""

    def __post_init__(self) -> None:
        require(self.temperature >= 0, f"temperature must be at least 0, got {self.temperature}")
        require(self.top_k >= 0, f"top_k must be at least 0, got {self.top_k}")
        require(0 < self.top_p <= 1, f"top_p must be in (0, 1], got {self.top_p}")
        require(0 <= self.min_p < 1, f"min_p must be in [0, 1), got {self.min_p}")
        require(self.repetition_penalty > 0, f"repetition_penalty must be positive, got {self.repetition_penalty}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def plain(self) -> bool:
        """Whether it is the model's own distribution, at temperature 1."""
        return self.temperature == 1 and not self.distorts

    @property
    def distorts(self) -> bool:
        """Whether it is another distribution than the model's at this temperature."""
        return self.cuts or self.penalises

    @property
    def cuts(self) -> bool:
        """Whether unlikely tokens are left out."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    @property
    def penalises(self) -> bool:
        """Whether it depends on which tokens there were."""
        return self.repetition_penalty != 1


class Chosen(NamedTuple):
    """One token for each row."""

    token: Tensor  # (n,)
    logp: Tensor  # (n,) under the model, at temperature 1
    sampled_logp: Tensor  # (n,) under the distribution it was drawn from


def choose(logits: Tensor, uniform: Tensor, sampling: Sampling, seen: Tensor | None = None) -> Chosen:
    """One token for each row of `logits` `(n, V)`, given a number of [0, 1) for each, `uniform` `(n,)` float64.

    `seen` `(n, V)` bool are the tokens that each row has had, where a penalty asks for them. In single precision, whatever the
    model computes in. Where logits are NaN or infinite, so are log-probabilities.
    """
    own = logits.float()
    logits = own if seen is None else penalised(own, seen, sampling.repetition_penalty)
    if sampling.greedy:
        logp = own.log_softmax(-1)
        token = (logp if seen is None else logits).argmax(-1, keepdim=True)
        logp = logp.gather(-1, token).squeeze(-1)
        return Chosen(token.squeeze(-1), logp, torch.zeros_like(logp))
    probability = (logits if sampling.temperature == 1 else logits / sampling.temperature).softmax(-1)
    if sampling.cuts:
        probability = cut(probability, sampling)
    below = probability.double().cumsum_(-1)
    token = torch.searchsorted(below, (uniform * below[:, -1] * BELOW_ONE).unsqueeze(-1), right=True)
    token.clamp_(max=logits.shape[-1] - 1)  # NaN lies behind all tokens, where nothing can be read
    chosen = probability.gather(-1, token).log().squeeze(-1)
    logp = chosen if sampling.plain else own.log_softmax(-1).gather(-1, token).squeeze(-1)
    return Chosen(token.squeeze(-1), logp, chosen)


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits `(n, V)`, positive ones of tokens that were `seen` `(n, V)` divided by a penalty, negative ones multiplied by it
    (Keskar et al., arXiv 1909.05858; as in transformers)."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


class SeenTokens:
    """Which tokens each sequence of a batch has had, its prompt's included: `table` `(rows, V)` bool, None where nobody asks."""

    def __init__(self, asked: bool):
        self.asked = asked
        self.table: Tensor | None = None

    def admit(self, prompts: Sequence[Tensor], copies: Sequence[int], logits: Tensor) -> None:
        """New rows behind the others: so many copies of each prompt `(L,)`, which `logits` `(n, V)` are for."""
        if not self.asked:
            return
        table = torch.zeros(len(prompts), logits.shape[-1], dtype=torch.bool)
        for row, ids in zip(table, prompts, strict=True):
            row[ids] = True
        table = table.repeat_interleave(torch.tensor(copies), 0).to(logits.device)
        self.table = table if self.table is None else torch.cat([self.table, table])

    def add(self, token: Tensor) -> None:
        """One more token of every row, `(rows,)`."""
        if self.table is not None:
            self.table.scatter_(1, token.to(self.table.device).unsqueeze(1), True)

    def keep(self, index: Tensor) -> None:
        """Leave the rows `index`, in that order."""
        if self.table is not None:
            self.table = self.table[index.to(self.table.device)]


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
