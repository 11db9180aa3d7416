"""Statistics of scores over seeds, after Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical
Precipice" (arXiv 2108.13264): few seeds, so intervals; outliers, so the interquartile mean.

Scores come in *strata*, one array of seeds' scores per task. A bootstrap sample redraws the seeds of each task with
replacement, so every task keeps its share. Everything is seeded and vectorised over the resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
FEW_SEEDS = 5
"""Below this many seeds a bootstrap interval covers far less often than it says."""

Strata = Sequence[np.ndarray]
"""Per task the scores of its seeds, `(n_k,)`."""


class Interval(NamedTuple):
    """An estimate with its bootstrap interval; `low` and `high` are NaN where no task has two seeds."""

    value: float
    low: float
    high: float


class Band(NamedTuple):
    """A curve `(T,)` with a pointwise bootstrap interval, NaN where there is only one seed."""

    x: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def iqm(scores: np.ndarray) -> np.ndarray:
    """The interquartile mean over the last axis: the mean without the lowest and the highest quarter.

    A quarter is rounded down to whole scores, so of five scores the middle three count and of three all.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=-1)
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(-1)


def bootstrap(
    strata: Strata,
    statistic: Callable[[np.ndarray], np.ndarray] = iqm,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """`statistic` of all scores together, with the percentile interval of a stratified bootstrap.

    `statistic` maps `(…, n)` to `(…)`.
    """
    scores = np.concatenate(list(strata))
    drawn = statistic(_resample(strata, resamples, np.random.default_rng(seed)))
    low, high = _percentiles(drawn, level) if _varied(strata) else (np.nan, np.nan)
    return Interval(float(statistic(scores)), float(low), float(high))


def probability_of_improvement(
    x: Strata, y: Strata, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """The probability that a run of `x` scores above a run of `y` on the same task, ties counting half.

    Averaged over tasks; per task it is the Mann-Whitney statistic `U / (n m)`.
    """
    rng = np.random.default_rng(seed)
    value = float(np.mean([_wins(a, b) for a, b in zip(x, y, strict=True)]))
    if not (_varied(x) and _varied(y)):
        return Interval(value, np.nan, np.nan)
    drawn = np.mean(
        [_wins(_draw(a, resamples, rng), _draw(b, resamples, rng)) for a, b in zip(x, y, strict=True)], axis=0
    )
    return Interval(value, *map(float, _percentiles(drawn, level)))


def performance_profile(
    strata: Strata, thresholds: np.ndarray, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Band:
    """The share of runs that score above each threshold, `(T,)`, with pointwise intervals."""
    thresholds = np.asarray(thresholds, dtype=np.float64)
    share = _share_above(np.concatenate(list(strata)), thresholds)
    if not _varied(strata):
        nothing = np.full_like(share, np.nan)
        return Band(thresholds, share, nothing, nothing)
    drawn = _resample(strata, resamples, np.random.default_rng(seed))
    return Band(thresholds, share, *_percentiles(_share_above(drawn, thresholds), level))


def mean_curve(
    curves: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    points: int = 100,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Band:
    """The mean over seeds of curves `(x, y)` with a pointwise interval, where every one of them is known.

    Curves that share their x keep it (thinned to `points`); others are interpolated linearly onto `points` common places.
    """
    xs = [x for x, _ in curves]
    if all(np.array_equal(x, xs[0]) for x in xs) and len(xs[0]) <= points:
        x = xs[0]
    else:
        start, end = max(x[0] for x in xs), min(x[-1] for x in xs)
        x = np.linspace(start, end, points) if end > start else np.array([end])
    values = np.stack([np.interp(x, *curve) for curve in curves])
    mean, n = values.mean(0), len(values)
    if n < 2:
        nothing = np.full_like(mean, np.nan)
        return Band(x, mean, nothing, nothing)
    # How often each seed was drawn, (R, n): the resampled means (T, R) are then one matrix product.
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    return Band(x, mean, *_percentiles(values.T @ (counts.T / n), level, axis=-1))


def _resample(strata: Strata, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """`(R, n)`: each stratum redrawn with replacement, side by side."""
    return np.concatenate([_draw(scores, resamples, rng) for scores in strata], axis=-1)


def _draw(scores: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    return scores[rng.integers(len(scores), size=(resamples, len(scores)))]


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    above = (np.expand_dims(x, -1) > np.expand_dims(y, -2)).mean((-2, -1))
    below = (np.expand_dims(x, -1) < np.expand_dims(y, -2)).mean((-2, -1))
    return 0.5 + (above - below) / 2


def _share_above(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """`(…, n)` scores and `(T,)` thresholds to `(…, T)` shares."""
    return (np.expand_dims(scores, -2) > thresholds[:, None]).mean(-1)


def _percentiles(drawn: np.ndarray, level: float, axis: int = 0) -> np.ndarray:
    return np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=axis)


def _varied(strata: Strata) -> bool:
    return any(len(scores) > 1 for scores in strata)
