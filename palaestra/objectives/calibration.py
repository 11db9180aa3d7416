"""How far a reward model can be believed: its probabilities against what happened, what it tells apart, and whether by length."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Calibration(NamedTuple):
    """Pairs in bins of equal width of the probability that their favourite wins, from 1/2 to 1; `(b,)` each."""

    pairs: Tensor  # how many there are
    predicted: Tensor  # their mean probability, NaN without any
    won: Tensor  # the share of which the favourite was the chosen one, NaN without any

    @property
    def error(self) -> Tensor:
        """The expected calibration error: mean |won - predicted| over bins, each counted by its pairs."""
        apart = (self.won - self.predicted).abs().nan_to_num(0.0)
        return (apart * self.pairs).sum() / self.pairs.sum().clamp(min=1)


@torch.no_grad()
def calibration(gap: Tensor, bins: int = 5) -> Calibration:
    """Bradley and Terry's probabilities of pairs, given by how much the chosen answer scores above the rejected one, `(n,)`.

    Of two with the same score neither is the favourite: half of it counts as won.
    """
    probability = torch.sigmoid(gap.abs())
    place = ((probability - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    won = 0.5 * (1 + gap.sign())
    pairs, predicted, wins = (
        torch.zeros(bins).index_add_(0, place, x) for x in (torch.ones_like(probability), probability, won)
    )
    return Calibration(pairs, predicted / pairs, wins / pairs)


@torch.no_grad()
def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's, of two `(n,)`; 0 where one of them does not vary."""
    x, y = (v.double() - v.double().mean() for v in (x, y))
    scale = (x.square().sum() * y.square().sum()).sqrt()
    return torch.where(scale > 0, (x * y).sum() / scale.clamp(min=1e-300), 0.0).float()


@torch.no_grad()
def above(x: Tensor, y: Tensor) -> Tensor:
    """How often one of `x` `(n,)` is above one of `y` `(m,)`, ties counting half: the area under a curve; 1/2 without any."""
    apart = x.unsqueeze(1) - y
    if not apart.numel():
        return torch.tensor(0.5, dtype=torch.float64)
    return (apart > 0).double().mean() + 0.5 * (apart == 0).double().mean()
