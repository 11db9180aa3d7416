"""Which steps of a dataset are learnt from: uniformly, or more often those of better episodes.

Trajectory weighting (Hong et al., arXiv 2306.13085) changes nothing but the distribution that minibatches are drawn from, so
that any method can be combined with any of these.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from palaestra.core.errors import BadDataset, require
from palaestra.core.experience import Experience
from palaestra.core.seeding import Streams
from palaestra.data.dataset import Dataset

Weighting = Literal["uniform", "rw", "aw", "top"]
USUAL = 0.1
"""The temperature of `rw` and `aw`, and the share of `top`."""
BLOCK = 64
"""Minibatches whose rows are drawn at once."""


def read_sampler(text: str) -> tuple[Weighting, float]:
    """The kind and the number of a sampler, as in `aw`, `aw:0.05` or `top:0.2`.

    Raises:
        BadSetting: it is none.
    """
    kind, colon, after = text.partition(":")
    require(kind in get_args(Weighting), f"sampler must be {' or '.join(get_args(Weighting))}, got {text!r}")
    try:
        number = float(after) if colon else USUAL
    except ValueError:
        number = math.nan
    require(kind != "uniform" or not colon, f"the sampler uniform takes no number, got {text!r}")
    most = 1.0 if kind == "top" else sys.float_info.max
    takes = "a share in (0, 1], as in top:0.2" if kind == "top" else f"a positive temperature, as in {kind}:0.05"
    require(0 < number <= most, f"the sampler {kind} takes {takes}, got {text!r}")
    return cast(Weighting, kind), number


def weights(dataset: Dataset, kind: Weighting, number: float = USUAL) -> Tensor:
    """The probability of every step, `(N,)` in float64; equal within an episode.

    - `rw`: softmax of g / temperature, g the episodes' returns scaled to [0, 1];
    - `aw`: the same with g the returns minus the value of the first observation, by least squares;
    - `top`: uniform over the steps of a share of the episodes, those with the highest returns.

    `number` is the temperature, or the share.

    Raises:
        BadDataset: there is one episode only, returns are not finite, or `aw` on observations that are not float vectors.
    """
    if kind == "uniform":
        return _normalised(torch.ones(len(dataset), dtype=torch.float64))
    returns = dataset.returns
    if len(returns) == 1:
        raise BadDataset(f"{dataset.name} has one episode, which leaves nothing to prefer; use the sampler uniform")
    if not bool(torch.isfinite(returns).all()):
        which = int((~torch.isfinite(returns)).nonzero()[0])
        raise BadDataset(f"{dataset.name}: the return of episode {which} is not finite")
    if kind == "top":
        count = max(1, int(len(returns) * number + 1e-9))
        chosen = torch.zeros(len(returns), dtype=torch.float64)
        chosen[returns.argsort(descending=True, stable=True)[:count]] = 1.0
        return _normalised(chosen[dataset.episode])
    # Equal qualities leave nothing to prefer, nor does a fit that explains all of them: then rounding would be scaled up.
    rounding = 1e-12 if kind == "rw" else 1e-6
    quality = returns if kind == "rw" else returns - initial_values(dataset)
    span = quality.max() - quality.min()
    scaled = (quality - quality.max()) / span if span > rounding * returns.abs().max() else torch.zeros_like(quality)
    return _normalised((scaled / number).exp()[dataset.episode])


def initial_values(dataset: Dataset) -> Tensor:
    """The returns that a linear function of the first observation predicts, fitted by least squares, `(E,)`."""
    first = dataset.steps.obs
    if isinstance(first, dict) or not first.is_floating_point():
        raise BadDataset(f"{dataset.name}: aw needs observations that are float vectors; use rw")
    rows = first[dataset.starts].flatten(1).double()
    inputs = torch.cat([rows - rows.mean(0), torch.ones(len(rows), 1, dtype=torch.float64)], 1)
    solution = torch.linalg.lstsq(inputs, dataset.returns.unsqueeze(1), driver="gelsd").solution
    return (inputs @ solution).squeeze(1)


def positive_sided_variance(returns: Tensor) -> Tensor:
    """E[max(G - E[G], 0)^2] over episodes: how much there is to gain from weighting them."""
    return (returns - returns.mean()).clamp(min=0).square().mean()


def expected_return(dataset: Dataset, probabilities: Tensor) -> float:
    """The mean return of episodes drawn in proportion to the probability of one of their steps: the behaviour's, as weighted."""
    weight = probabilities[dataset.starts].double()
    return float((weight * dataset.returns).sum() / weight.sum())


def effective_size(probabilities: Tensor) -> float:
    """1 / sum p^2: how many equally probable steps would vary as much."""
    return 1.0 / float(probabilities.double().square().sum())


class Sampler:
    """Minibatches of a dataset, drawn with replacement; the state is a counter."""

    def __init__(self, dataset: Dataset, streams: Streams, probabilities: Tensor | None = None, name: str = "sample"):
        self.dataset, self.streams, self.name = dataset, streams, name
        self.drawn = 0
        self._cumulative = None if probabilities is None else probabilities.double().cumsum(0)
        self._block: tuple[int, int, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, batch: int) -> Experience:
        """The next minibatch of `batch` steps."""
        return self.dataset.steps.take(self.rows(batch))

    def rows(self, batch: int) -> Tensor:
        """The rows of the next minibatch, `(batch,)`."""
        block, place = divmod(self.drawn, BLOCK)
        if self._block is None or self._block[:2] != (block, batch):
            self._block = block, batch, self._draw(batch, self.streams.generator(self.name, block))
        self.drawn += 1
        return self._block[2][place]

    def _draw(self, batch: int, generator: torch.Generator) -> Tensor:
        if self._cumulative is None:
            return torch.randint(len(self.dataset), (BLOCK, batch), generator=generator)
        points = torch.rand(BLOCK, batch, generator=generator, dtype=torch.float64) * self._cumulative[-1]
        return torch.searchsorted(self._cumulative, points, right=True).clamp_(max=len(self.dataset) - 1)

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.drawn, self._block = state["drawn"], None


def _normalised(weight: Tensor) -> Tensor:
    return weight / weight.sum()
