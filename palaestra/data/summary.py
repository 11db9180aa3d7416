"""Everything that is worth knowing of a dataset before learning from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from palaestra.core.errors import BadDataset
from palaestra.core.experience import tree_leaves
from palaestra.data import measures
from palaestra.data.checker import check_dataset
from palaestra.data.dataset import Dataset
from palaestra.data.sampling import Weighting, effective_size, expected_return, positive_sided_variance, weights

BARS = 12
"""Bars of a histogram at most."""


@dataclass(frozen=True)
class Spread:
    """What some numbers are like, one per episode."""

    mean: float
    deviation: float
    low: float
    median: float
    high: float
    edges: list[float]
    """Of the bars of their histogram, one more than there are bars."""
    counts: list[int]


@dataclass(frozen=True)
class Summary:
    """A dataset in numbers; None is what cannot be said of it."""

    name: str
    steps: int
    episodes: int
    bytes: int
    observations: str
    actions: str
    env: str | None
    references: tuple[float, float] | None
    returns: Spread
    lengths: Spread
    terminated: int
    """Episodes that the task ended."""
    truncated: int
    """Episodes that the clock ended."""
    zero_rewards: float
    """Share of steps without reward, a mean over episodes."""
    quality: float | None
    """TQ: the mean return where the references are 0 and 1."""
    pairs: float
    """Distinct pairs of state and action, binned by the range of the reference, or of the data themselves."""
    estimate: float
    """The same by HyperLogLog."""
    states: float
    """Distinct states."""
    coverage: float | None
    """SACo: the pairs as a share of the reference's."""
    log_coverage: float | None
    reference: str | None
    copies: int
    """Steps that are the same as another to the last bit."""
    gain: float
    """Positive-sided variance of returns."""
    samplers: dict[str, tuple[float, float]]
    """By their names: the behaviour's return as they weight it, and the effective number of steps."""
    about: dict[str, Any]
    findings: list[str]
    """What the checker says."""


def summarise(dataset: Dataset, reference: Dataset | None = None) -> Summary:
    """Measure a dataset; coverage needs a `reference` of the same size and spaces, such as the whole replay.

    Raises:
        BadDataset: the reference has other spaces, or a number is not finite.
    """
    findings = check_dataset(dataset)
    returns = dataset.returns
    if not bool(torch.isfinite(returns).all()):
        raise BadDataset(f"{dataset.name} cannot be measured: {findings[0]}")
    if reference is not None and not _alike(dataset, reference):
        raise BadDataset(
            f"{reference.name} has other spaces than {dataset.name}, so it is no reference of its coverage"
        )
    low_high = dataset.references
    ordered = low_high is not None and low_high[1] > low_high[0]
    edges = measures.bin_edges(reference or dataset)
    pairs = measures.distinct_pairs(dataset, edges)
    there = measures.distinct_pairs(reference, edges) if reference is not None else None
    lasts = dataset.stops - 1
    return Summary(
        name=dataset.name,
        steps=len(dataset),
        episodes=len(dataset.starts),
        bytes=sum(leaf.nbytes for _, column in dataset.steps.items() for leaf in tree_leaves(column)),
        observations=str(dataset.observation_space),
        actions=str(dataset.action_space),
        env=dataset.env,
        references=low_high,
        returns=spread(returns),
        lengths=spread(dataset.lengths.double()),
        terminated=int((dataset.steps.terminated[lasts] > 0).sum()),
        truncated=int((dataset.steps.truncated[lasts] > 0).sum()),
        zero_rewards=float(measures.zero_rewards(dataset).mean()),
        quality=measures.trajectory_quality(returns, *low_high) if low_high is not None and ordered else None,
        pairs=pairs,
        estimate=measures.distinct_pairs(dataset, edges, exact=False),
        states=measures.distinct_states(dataset, edges),
        coverage=None if there is None else pairs / there,
        log_coverage=None if there is None or there <= 1 else measures.log_coverage(pairs, there),
        reference=None if reference is None else reference.name,
        copies=round(len(dataset) - measures.distinct_steps(dataset)),
        gain=float(positive_sided_variance(returns)),
        samplers=_samplers(dataset),
        about=dataset.about,
        findings=findings,
    )


def spread(values: Tensor, bars: int = BARS) -> Spread:
    """Mean, deviation, range and histogram of numbers `(E,)`."""
    low, high = float(values.min()), float(values.max())
    count = 1 if low == high else min(bars, max(2, len(values)))
    counts = torch.histc(values.double(), count, low, high) if count > 1 else torch.tensor([len(values)])
    edges = torch.linspace(low, high, count + 1, dtype=torch.float64)
    return Spread(
        mean=float(values.mean()),
        deviation=float(values.std(unbiased=False)),
        low=low,
        median=float(values.quantile(0.5)),
        high=high,
        edges=edges.tolist(),
        counts=[int(c) for c in counts],
    )


def _samplers(dataset: Dataset) -> dict[str, tuple[float, float]]:
    found = {}
    for kind in get_args(Weighting):
        try:
            p = weights(dataset, kind)
        except BadDataset:  # one episode, or observations that no line can be fitted to
            continue
        found[kind] = expected_return(dataset, p), effective_size(p)
    return found


def _alike(a: Dataset, b: Dataset) -> bool:
    return a.observation_space == b.observation_space and a.action_space == b.action_space
