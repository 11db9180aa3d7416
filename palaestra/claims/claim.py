"""A paper's central claim as an experiment at two scales, and what its findings are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from palaestra.core.errors import unknown
from palaestra.core.method import Method, Paper
from palaestra.runs.run import Run

FOLDER = Path("runs") / "claims"
Table = list[list[str]]
"""Rows of cells, the header first."""
RESAMPLES = 2000
"""Bootstrap resamples behind an interval."""


@dataclass(frozen=True)
class Arm:
    """One line of the experiment: a method on a task, for some environment steps, or updates if it never acts, with seeds
    0 … seeds - 1."""

    method: Method
    task: str
    """A task's name, in which `{seed}` stands for the seed: datasets, too, have one."""
    steps: int | None = None
    seeds: int = 5
    updates: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the task."""
    begins_with: str | None = None
    """The arm whose policy this one, of the same seed, begins with: it is what the method's `model` names."""
    named: Mapping[str, str] = field(default_factory=dict)
    """Further settings of the method that name models, and the arms whose policies, of the same seed, they are."""
    beside: tuple[str, ...] = ()
    """Further arms that must have been trained before, since `measure` looks at their policies."""

    engine: Mapping[str, Any] = field(default_factory=dict)
    """Further options of how its runs are driven."""

    @property
    def others(self) -> dict[str, str]:
        """The settings that name other arms' policies, and these arms."""
        return {**({"model": self.begins_with} if self.begins_with is not None else {}), **self.named}


def arms_of(methods: Mapping[str, Method], task: str, **common: Any) -> dict[str, Arm]:
    """An arm for each of several methods on a task, which have all else in common."""
    return {label: Arm(method, task, **common) for label, method in methods.items()}


@dataclass(frozen=True)
class Record:
    """What one run of an arm left behind."""

    arm: str
    seed: int
    curve: tuple[tuple[int, float], ...]
    """(environment steps, or updates, and mean return of the greedy policy) at every evaluation."""
    measures: Mapping[str, float]
    """What the claim's `measure` found on the finished run."""
    seconds: float = 0.0
    commit: str | None = None

    @property
    def final(self) -> float:
        """Mean return of the policy that training ended with: its last evaluation."""
        return self.curve[-1][1]

    @property
    def area(self) -> float:
        """Area under the learning curve as an average: the mean return over all evaluations, which are evenly spaced."""
        return sum(value for _, value in self.curve) / len(self.curve)


class Records(list[Record]):
    """All runs of a claim; the selections are arrays `(seeds,)`."""

    def final(self, arm: str) -> np.ndarray:
        """The last return of every seed."""
        return self._select(arm, lambda record: record.final)

    def area(self, arm: str) -> np.ndarray:
        """The average return over training of every seed."""
        return self._select(arm, lambda record: record.area)

    def measure(self, arm: str, name: str) -> np.ndarray:
        """A measured quantity of every seed."""
        return self._select(arm, lambda record: record.measures[name])

    def arms(self, prefix: str) -> list[str]:
        """The arms whose names begin so: a method that is tried at several settings."""
        return sorted({record.arm for record in self if record.arm.startswith(prefix)})

    def best(self, arms: Iterable[str], measure: str = "") -> str:
        """Which of some arms has the highest mean of a measure, by default of the last return."""
        return max(arms, key=lambda arm: float((self.measure(arm, measure) if measure else self.final(arm)).mean()))

    def _select(self, arm: str, value: Callable[[Record], float]) -> np.ndarray:
        chosen = [value(record) for record in sorted(self, key=lambda r: r.seed) if record.arm == arm]
        if not chosen:
            raise unknown("arm", arm, {record.arm for record in self})
        return np.array(chosen)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% bootstrap interval over seeds."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Finding:
    """One thing the claim says, whether it held, and the numbers that decided it."""

    sentence: str
    held: bool
    numbers: Mapping[str, Estimate]

    def __post_init__(self) -> None:
        object.__setattr__(self, "held", bool(self.held))  # a comparison of arrays gives numpy's, which is no JSON


@dataclass(frozen=True)
class Scale:
    """The experiment at one size."""

    cost: str
    """What it takes: hardware and time."""
    arms: Mapping[str, Arm]
    verdict: Callable[[Records], list[Finding]]
    tables: Callable[[Records], dict[str, Table]] | None = None
    """Further tables of the result, by their headings."""


@dataclass(frozen=True)
class Claim:
    """A paper's central claim. `small` fits two cores and minutes; `paper` is the paper's own benchmark."""

    name: str
    paper: Paper
    sentence: str
    scales: Mapping[str, Scale]
    measure: Callable[[Run], dict[str, float]] | None = None
    """Further quantities of a finished run, whose `run.method` holds networks and buffer; called where it was trained."""
    runs: Path = FOLDER
    """The folder that its runs are kept in."""

    def scale(self, name: str) -> Scale:
        """The experiment at scale `name`."""
        if name not in self.scales:
            raise unknown("scale", name, self.scales)
        return self.scales[name]


def estimate(statistic: Callable[..., float], *samples: np.ndarray) -> Estimate:
    """`statistic(*samples)`, each sample `(seeds,)` of one arm, with a percentile bootstrap interval.

    Every arm is resampled by itself (a bootstrap stratified by arm); the draws are fixed, so a result file is a
    function of its runs.
    """
    draw = np.random.default_rng(0)
    rounds = [
        statistic(*(sample[draw.integers(len(sample), size=len(sample))] for sample in samples))
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(rounds, [0.025, 0.975])
    return Estimate(float(statistic(*samples)), float(low), float(high))


def mean(sample: np.ndarray) -> Estimate:
    """The mean over seeds."""
    return estimate(np.mean, sample)


def difference(first: np.ndarray, second: np.ndarray) -> Estimate:
    """How far the mean of `first` lies above that of `second`."""
    return estimate(lambda a, b: a.mean() - b.mean(), first, second)


def above(sentence: str, first: np.ndarray, second: np.ndarray, least: float = 0.0, paired: bool = False) -> Finding:
    """That the mean of `first` lies more than `least` above that of `second`; `paired`, with the interval of differences between
    the same seeds."""
    gap = mean(first - second) if paired else difference(first, second)
    return Finding(sentence, gap.value > least, {"difference": gap})


def spread(*arms: np.ndarray) -> float:
    """How far the means of several arms lie apart: the largest minus the smallest."""
    means = [sample.mean() for sample in arms]
    return float(max(means) - min(means))
