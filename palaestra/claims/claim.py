"""A paper's central claim as an experiment at two scales, and `reproduce`, which runs it and says whether it holds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from palaestra.claims import result
from palaestra.core import files, registry
from palaestra.core.errors import BadSetting, PalaestraError, unknown
from palaestra.core.method import Method, Paper
from palaestra.core.task import as_task
from palaestra.language.kept import keeping, sweep
from palaestra.runs.compare import SAME
from palaestra.runs.engine import Engine
from palaestra.runs.executors import train_all
from palaestra.runs.origin import versions
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


class Trial(Run):
    """One seed of one arm: a run that measures itself when it has finished."""

    def __init__(self, claim: Claim, scale: str, arm: str, seed: int):
        self.claim, self.scale, self.arm = claim, scale, arm
        given = claim.scale(scale).arms[arm]
        self.after = {*given.others.values(), *given.beside}
        policies = {name: str(_folder(claim, scale, other, seed)) for name, other in given.others.items()}
        method = replace(given.method, **policies)  # type: ignore[arg-type]
        engine = Engine(tensorboard=False, **given.engine)
        budget = {"steps": given.steps, "updates": given.updates}
        task = as_task(given.task.replace("{seed}", str(seed)), **given.settings)
        folder = _folder(claim, scale, arm, seed)
        super().__init__(method, task, **budget, seed=seed, folder=folder, engine=engine)  # type: ignore[arg-type]

    @property
    def title(self) -> str:
        return f"{self.arm} seed {self.seed}"

    @property
    def measured(self) -> bool:
        """Whether there is nothing left to do."""
        return self._outcome.exists()

    def train(self, resume: bool = False, overwrite: bool = False) -> Trial:
        """Train, then keep what the claim's `measure` finds on the finished run, of which networks and buffer still live."""
        with keeping(self.answers):
            super().train(resume, overwrite)
            measures = self.claim.measure(self) if self.claim.measure is not None else {}
        outcome = {"measures": measures, "seconds": self.record["seconds"], "commit": self.record["commit"]}
        files.write_text(self._outcome, json.dumps(outcome))
        return self

    def read(self) -> Record:
        """What the finished trial left behind."""
        rows = [row for row in self.metrics if "evaluation/return" in row]
        unit = "steps" if self.budget.steps else "updates"
        curve = tuple((row[unit], row["evaluation/return"]) for row in rows)
        return Record(self.arm, self.seed, curve, **json.loads(self._outcome.read_text()))

    @property
    def answers(self) -> Path:
        """Where answers of frozen models are kept until all of the experiment is measured."""
        return self.folder.parent.parent / "answers"

    def other(self, arm: str) -> Path:
        """The folder of another arm, of the same seed."""
        return self.folder.parent.parent / plain(arm) / self.folder.name

    @property
    def _outcome(self) -> Path:
        return self.folder / "claim.json"


def _folder(claim: Claim, scale: str, arm: str, seed: int) -> Path:
    return claim.runs / claim.name / scale / plain(arm) / f"seed{seed}"


def plain(arm: str) -> str:
    """Its name as a folder, which may be one of a soup's models."""
    return arm.replace(",", "").replace(" ", "-").replace("/", "-")


def stages(planned: list[Trial]) -> list[list[Trial]]:
    """The trials in stages, so that each comes after those whose policies it is given."""
    depth: dict[str, int] = {}
    before = {trial.arm: trial.after for trial in planned}

    def of(arm: str) -> int:
        if arm not in depth:
            for first in before[arm]:
                if first not in before:
                    raise unknown("arm to begin with:", first, before)
            depth[arm] = max((1 + of(first) for first in before[arm]), default=0)
        return depth[arm]

    found: list[list[Trial]] = [[] for _ in range(1 + max(of(trial.arm) for trial in planned))]
    for trial in planned:
        found[of(trial.arm)].append(trial)
    return found


def trials(claim: Claim, scale: str) -> list[Trial]:
    """Every arm with every seed, seed by seed, so that an interrupted experiment has covered all arms."""
    arms = claim.scale(scale).arms
    most = max(arm.seeds for arm in arms.values())
    planned = [
        Trial(claim, scale, label, seed) for seed in range(most) for label, arm in arms.items() if seed < arm.seeds
    ]
    for trial in planned:
        try:
            trial.check_same(SAME)
        except BadSetting as error:
            what = str(error).partition(" was started with ")[2].rpartition(";")[0] or "something else"
            folder = claim.runs / claim.name / scale
            raise BadSetting(f"{trial.folder} was started with {what}; move {folder} away to start again") from None
    return planned


def finish(planned: list[Trial], workers: int | None = None) -> Records:
    """Train what is not finished, stage by stage, and read all of it.

    Raises:
        PalaestraError: a run failed, so that nothing can be said.
    """
    for stage in stages(planned):
        failures = train_all([trial for trial in stage if not trial.measured], workers)
        if failures:
            first = next(iter(failures.values()))
            raise PalaestraError(
                f"{len(failures)} of {len(planned)} runs failed; the first: {first}; call again to go on"
            )
    for folder in {trial.answers for trial in planned}:
        sweep(folder)
    return Records(trial.read() for trial in planned)


def reproduce(name: str, scale: str = "small", workers: int | None = None, out: str | Path | None = None) -> bool:
    """Run the claim called `name` (or found at `file.py:claim`) and say whether all of it holds.

    Runs are kept under `runs/claims/<name>/<scale>`, and an interrupted reproduction goes on where it stopped. The
    verdict is printed and written to `<out>/<name>-<scale>.json` and `.md`, `out` being `results` unless given.
    `workers` is how many runs train at once, by default one per core.

    Raises:
        UnknownName: there is no such claim or scale.
        BadSetting: `runs/claims` holds runs of another version of the claim.
        PalaestraError: a run failed, so that nothing can be said.
    """
    claim: Claim = registry.claim(name)
    chosen = claim.scale(scale)
    planned = trials(claim, scale)
    began = time.monotonic()
    print(f"{claim.name}, {scale} scale: {claim.sentence}\n{chosen.cost}", flush=True)
    records = finish(planned, workers)
    findings = chosen.verdict(records)
    holds = all(finding.held for finding in findings)
    about = {"command": f"palaestra reproduce {name} --scale {scale}", **versions()}
    about["seconds"] = round(time.monotonic() - began, 1)
    folder = Path(out or "results")
    content = result.as_json(claim, scale, records, findings, about)
    files.write_text(folder / f"{claim.name}-{scale}.json", json.dumps(content, indent=1) + "\n")
    files.write_text(folder / f"{claim.name}-{scale}.md", result.as_markdown(content))
    for finding in findings:
        print(result.line(finding))
    print(f"the claim {'holds' if holds else 'does not hold'}; see {folder / f'{claim.name}-{scale}.md'}")
    return holds
