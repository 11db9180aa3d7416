"""What a dataset is like: how good its behaviour was, and how much of the world it shows.

Trajectory quality and state-action coverage (Schweighofer et al., arXiv 2111.04714) are the two axes on which offline methods
differ: cloning needs the first, Q-learning without constraints the second.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palaestra.core.errors import BadDataset, require
from palaestra.core.experience import tree_leaves
from palaestra.data.dataset import Dataset

BINS = 100
EXACT = 1 << 28
"""Numbers (rows times columns) up to which distinct rows are counted exactly, in about two gigabytes."""
CHUNK = 1 << 22
"""Numbers that are looked at together."""

Edges = list[Tensor | None]
"""For every column the edges of its bins, None where the values are whole numbers and count as they are."""


def trajectory_quality(returns: Tensor, random: float, expert: float) -> float:
    """TQ: the mean return of episodes `(E,)` on the scale where `random` is 0 and `expert` is 1.

    Raises:
        BadDataset: there is no episode, or the expert is not better than random.
    """
    if len(returns) == 0:
        raise BadDataset("there is no episode to take the mean return of")
    if not expert > random:
        raise BadDataset(f"the expert's return must be above the random one, got {expert:g} and {random:g}")
    return (float(returns.double().mean()) - random) / (expert - random)


def coverage(dataset: Dataset, reference: Dataset, bins: int = BINS, exact: bool | None = None) -> float:
    """SACo: how many distinct pairs of state and action a dataset shows, as a share of those in `reference`.

    Both are binned by the reference's range. Comparable among datasets of one size only, and in stochastic environments noise
    counts too.
    """
    if len(dataset) != len(reference):
        warnings.warn(
            f"{dataset.name} has {len(dataset)} steps and {reference.name} {len(reference)}; coverage grows with size, so "
            "compare equal ones",
            stacklevel=2,
        )
    edges = bin_edges(reference, bins=bins)
    return distinct_pairs(dataset, edges, exact) / distinct_pairs(reference, edges, exact)


def coverages(datasets: Sequence[Dataset], bins: int = BINS) -> list[float]:
    """SACo of several datasets of one task, as shares of the most that any of them shows, binned by the range of all.

    Equally many steps of each are looked at: as many as the smallest has, drawn at random, always the same ones.
    """
    size = min(map(len, datasets))
    edges = bin_edges(*datasets, bins=bins)
    counts = []
    for dataset in datasets:
        drawn = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:size].sort().values
        counts.append(_count([column[drawn] for column in _columns(dataset)], edges, None))
    return [count / max(counts) for count in counts]


def log_coverage(distinct: float, reference: float) -> float:
    """lSACo: log u(D) / log u(reference), which bounds a ratio of entropies."""
    require(reference > 1, f"a reference of {reference:g} distinct pairs has no logarithm to compare with")
    return math.log(distinct) / math.log(reference)


def zero_rewards(dataset: Dataset) -> Tensor:
    """The share of steps without reward in every episode, `(E,)`."""
    zero = (dataset.steps.reward == 0).double()
    return torch.zeros(len(dataset.starts), dtype=torch.float64).index_add_(0, dataset.episode, zero) / dataset.lengths


def bin_edges(*references: Dataset, bins: int = BINS) -> Edges:
    """Edges at which every column of state and action is cut: `bins` of them from its least to its greatest value in any of
    the references.

    Whole numbers (discrete observations, pixels, discrete actions) are not cut.
    """
    require(bins >= 2, f"bins must be at least 2, got {bins}")
    edges: Edges = []
    for columns in zip(*map(_columns, references), strict=True):
        if columns[0].is_floating_point():
            low = torch.stack([column.amin(0).double() for column in columns]).amin(0)
            high = torch.stack([column.amax(0).double() for column in columns]).amax(0)
            edges += [torch.linspace(float(a), float(b), bins, dtype=torch.float64) for a, b in zip(low, high)]
        else:
            edges += [None] * columns[0].shape[1]
    return edges


def distinct_pairs(dataset: Dataset, edges: Edges, exact: bool | None = None) -> float:
    """u(D): how many distinct pairs of state and action there are, once cut at `edges`; values outside form bins of their own.

    Exactly, or by HyperLogLog (within about 1%); by default exactly up to about ten million steps of vectors.
    """
    return _count(_columns(dataset), edges, exact)


def distinct_states(dataset: Dataset, edges: Edges, exact: bool | None = None) -> float:
    """The same of observations alone."""
    columns = _columns(dataset)[:-1]
    return _count(columns, edges[: sum(column.shape[1] for column in columns)], exact)


def distinct_steps(dataset: Dataset, exact: bool | None = None) -> float:
    """How many different steps there are, to the last bit of observation, action, reward and next observation."""
    steps: Any = dataset.steps
    tree = (steps.obs, steps.action, steps.reward, steps.next_obs)
    columns = [leaf.reshape(len(dataset), -1) for part in tree for leaf in tree_leaves(part)]
    bits = [column.view(torch.int32) if column.is_floating_point() else column for column in columns]
    return _count(bits, [None] * sum(column.shape[1] for column in bits), exact)


def distinct_rows(rows: np.ndarray) -> int:
    """How many different rows an array `(N, d)` of whole numbers has."""
    joined = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))
    return len(np.unique(joined))


class HyperLogLog:
    """An estimate of how many different rows were seen, in `2 ** precision` bytes whatever their number.

    The registers of Flajolet et al. (2007) on 64-bit hashes, read by the estimator of Ertl (arXiv 1702.01284, algorithm 6),
    which is unbiased for few and for many alike. The standard error is 1.04 / sqrt(2 ** precision): 0.8% by default.
    """

    def __init__(self, precision: int = 14):
        require(4 <= precision <= 18, f"precision must be from 4 to 18, got {precision}")
        self.precision = precision
        self.registers = np.zeros(1 << precision, np.int64)

    def add(self, rows: np.ndarray) -> None:
        """See the rows of an array `(N, d)` of whole numbers."""
        hashes = _hashes(rows)
        place = (hashes >> np.uint64(64 - self.precision)).astype(np.int64)
        rest = hashes << np.uint64(self.precision)
        # The number of the first bit that is set, counted from 1; frexp's exponent is the place of the highest bit.
        top = np.frexp((rest >> np.uint64(11)).astype(np.float64))[1]
        first = np.minimum(54 - top, 65 - self.precision)
        np.maximum.at(self.registers, place, first)

    def count(self) -> float:
        """How many different rows there were, about."""
        size, longest = 1 << self.precision, 64 - self.precision
        counts = np.bincount(self.registers, minlength=longest + 2)
        z = size * _tau(1 - counts[longest + 1] / size)
        for k in range(longest, 0, -1):
            z = 0.5 * (z + counts[k])
        return size**2 / (2 * math.log(2) * (z + size * _sigma(counts[0] / size)))


def _columns(dataset: Dataset) -> list[Tensor]:
    """Observations and, last, actions, each `(N, k)`."""
    steps: Any = dataset.steps
    return [leaf.reshape(len(dataset), -1) for leaf in [*tree_leaves(steps.obs), steps.action]]


def _binned(columns: list[Tensor], edges: Edges) -> Iterator[np.ndarray]:
    """The columns side by side as whole numbers, `(n, d)` int32, some rows at a time."""
    widths = [column.shape[1] for column in columns]
    require(len(edges) == sum(widths), f"there are {sum(widths)} columns, but edges for {len(edges)}")
    for rows in zip(*(column.split(max(1, CHUNK // len(edges))) for column in columns)):
        out, at = np.empty((len(rows[0]), len(edges)), np.int32), 0
        for part, width in zip(rows, widths):
            if not part.is_floating_point():
                out[:, at : at + width] = part.numpy()
            else:
                for i, cuts in enumerate(edges[at : at + width]):
                    assert cuts is not None
                    out[:, at + i] = torch.bucketize(part[:, i].double(), cuts, right=True).numpy()
            at += width
        yield out


def _count(columns: list[Tensor], edges: Edges, exact: bool | None) -> float:
    if exact if exact is not None else len(columns[0]) * len(edges) <= EXACT:
        return distinct_rows(np.concatenate(list(_binned(columns, edges))))
    sketch = HyperLogLog()
    for rows in _binned(columns, edges):
        sketch.add(rows)
    return sketch.count()


def _hashes(rows: np.ndarray) -> np.ndarray:
    """A 64-bit hash of every row `(N,)`: a sum of products with random odd numbers, then SplitMix64's mixer."""
    factors = np.random.default_rng(0x5AC0).integers(0, 1 << 63, rows.shape[1], dtype=np.uint64) * np.uint64(2)
    hashes = (rows.astype(np.uint64) * (factors + np.uint64(1))).sum(1, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(factor)
    return hashes ^ (hashes >> np.uint64(31))


def _sigma(x: float) -> float:
    """x + sum of 2^(k-1) x^(2^k) over k from 1, where registers are still empty."""
    if x == 1:
        return math.inf
    y, z, before = 1.0, x, -1.0
    while z != before:
        x, before = x * x, z
        z, y = z + x * y, 2 * y
    return z


def _tau(x: float) -> float:
    """(1 - x - sum of (1 - x^(2^-k))^2 2^-k over k from 1) / 3, where registers are full."""
    if x in (0, 1):
        return 0.0
    y, z, before = 1.0, 1 - x, -1.0
    while z != before:
        x, before, y = math.sqrt(x), z, 0.5 * y
        z -= (1 - x) ** 2 * y
    return z / 3
