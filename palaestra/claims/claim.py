"""A paper's central claim as an experiment at two scales, and `reproduce`, which runs it and says whether it holds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from palaestra.claims import result
from palaestra.core import files, registry
from palaestra.core.errors import require, unknown
from palaestra.core.method import Method, Paper
from palaestra.runs import threads
from palaestra.runs.run import Engine, Run, versions

RESAMPLES = 2000
"""Bootstrap resamples behind an interval."""


@dataclass(frozen=True)
class Arm:
    """One line of the experiment: a method on a task, for some environment steps, with seeds 0 … seeds - 1."""

    method: Method
    task: str
    steps: int
    seeds: int = 5


@dataclass(frozen=True)
class Record:
    """What one run of an arm left behind."""

    arm: str
    seed: int
    curve: tuple[tuple[int, float], ...]
    """(environment steps, mean return of the greedy policy) at every evaluation."""
    measures: Mapping[str, float]
    """What the claim's `measure` found on the finished run."""
    seconds: float = 0.0
    commit: str | None = None

    @property
    def final(self) -> float:
        """Mean return of the last evaluation."""
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


@dataclass(frozen=True)
class Scale:
    """The experiment at one size."""

    cost: str
    """What it takes: hardware and time."""
    arms: Mapping[str, Arm]
    verdict: Callable[[Records], list[Finding]]


@dataclass(frozen=True)
class Claim:
    """A paper's central claim. `small` fits two cores and minutes; `paper` is the paper's own benchmark."""

    name: str
    paper: Paper
    sentence: str
    scales: Mapping[str, Scale]
    measure: Callable[[Run], dict[str, float]] | None = None
    """Further quantities of a finished run, whose `run.method` holds networks and buffer; called where it was trained."""

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


def spread(*arms: np.ndarray) -> float:
    """How far the means of several arms lie apart: the largest minus the smallest."""
    means = [sample.mean() for sample in arms]
    return float(max(means) - min(means))


def reproduce(name: str, scale: str = "small", workers: int | None = None, out: str | Path | None = None) -> bool:
    """Run the claim called `name` (or found at `file.py:claim`) and say whether all of it holds.

    Runs are kept under `runs/claims/<name>/<scale>`, and an interrupted reproduction goes on where it stopped. The
    verdict is printed and written to `<out>/<name>-<scale>.json` and `.md`, `out` being `results` unless given.
    `workers` is how many runs train at once, by default one per core.
    """
    claim: Claim = registry.claim(name)
    chosen = claim.scale(scale)
    workers = threads.available() if workers is None else workers
    require(workers >= 1, f"workers must be at least 1, got {workers}")
    began = time.monotonic()
    print(f"{claim.name}, {scale} scale: {claim.sentence}\n{chosen.cost}", flush=True)
    records = _run_all(name, claim, scale, workers)
    findings = chosen.verdict(records)
    holds = all(finding.held for finding in findings)
    about = {"command": f"palaestra reproduce {name} --scale {scale}", **versions()}
    about |= {"workers": workers, "seconds": round(time.monotonic() - began, 1)}
    folder = Path(out or "results")
    content = result.as_json(claim, scale, records, findings, about)
    files.write_text(folder / f"{claim.name}-{scale}.json", json.dumps(content, indent=1) + "\n")
    files.write_text(folder / f"{claim.name}-{scale}.md", result.as_markdown(content))
    for finding in findings:
        print(result.line(finding))
    print(f"the claim {'holds' if holds else 'does not hold'}; see {folder / f'{claim.name}-{scale}.md'}")
    return holds


def _run_all(name: str, claim: Claim, scale: str, workers: int) -> Records:
    """Every arm with every seed, several at a time, seeds first so that a partial result covers all arms."""
    arms = claim.scale(scale).arms
    wanted = [(label, seed) for seed in range(max(a.seeds for a in arms.values())) for label in arms]
    wanted = [(label, seed) for label, seed in wanted if seed < arms[label].seeds]
    records = Records()
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        under_way = [pool.submit(run_arm, name, scale, label, seed) for label, seed in wanted]
        try:
            for done in as_completed(under_way):
                record = done.result()
                records.append(record)
                print(
                    f"[{len(records)}/{len(wanted)}] {record.arm} seed {record.seed}: return {record.final:.1f}",
                    flush=True,
                )
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    order = {key: i for i, key in enumerate(wanted)}
    return Records(sorted(records, key=lambda r: order[r.arm, r.seed]))


def run_arm(name: str, scale: str, label: str, seed: int) -> Record:
    """Train one seed of one arm, or take it up where it stopped, and measure what the claim needs."""
    claim: Claim = registry.claim(name)
    arm = claim.scale(scale).arms[label]
    folder = Path("runs") / "claims" / claim.name / scale / label.replace(" ", "-").replace("/", "-") / f"seed{seed}"
    engine = Engine(tensorboard=False, quiet=True)
    run = Run(arm.method, arm.task, steps=arm.steps, seed=seed, folder=folder, engine=engine)
    run.train(resume=True)
    path = folder / "claim.json"
    if not path.exists():
        measures = claim.measure(run) if claim.measure is not None else {}
        seconds, commit = run.record["seconds"], run.record["commit"]
        files.write_text(path, json.dumps({"measures": measures, "seconds": seconds, "commit": commit}))
    curve = tuple((row["steps"], row["evaluation/return"]) for row in run.metrics if "evaluation/return" in row)
    return Record(label, seed, curve, **json.loads(path.read_text()))
