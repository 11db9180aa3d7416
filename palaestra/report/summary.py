"""What a report says about each task: methods in the order of their scores, with intervals and costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from palaestra.core.errors import PalaestraError
from palaestra.report.statistics import Interval, bootstrap, probability_of_improvement
from palaestra.report.text import clean, few_seeds, interval
from palaestra.runs.record import RunRecord


@dataclass
class Entry:
    """One method in one table: its scores, one array of seeds per task (`strata`), and the runs they came from."""

    label: str
    records: list[RunRecord] = field(repr=False)
    strata: list[np.ndarray]
    iqm: Interval

    @property
    def scores(self) -> np.ndarray:
        return np.concatenate(self.strata)

    @property
    def seeds(self) -> int:
        """Seeds with a score, on the task that has fewest."""
        return min(len(scores) for scores in self.strata)

    @property
    def steps(self) -> float:
        """Steps of a run (updates, where they are the budget)."""
        return _median([r.counters.get(r.unit, 0) for r in self.records])

    def median(self, counter: str) -> float:
        """A counter of a run."""
        return _median([r.counters.get(counter, 0) for r in self.records])

    @property
    def seconds(self) -> float:
        """Wall-clock time of a run."""
        return _median([r.seconds for r in self.records])

    @property
    def speed(self) -> float:
        """Steps per second of wall-clock time, evaluation included."""
        return _median([r.counters.get(r.unit, 0) / r.seconds for r in self.records if r.seconds > 0])

    @property
    def best(self) -> RunRecord:
        """The run with the highest score."""
        return max(self.records, key=lambda record: (np.isfinite(record.score), np.nan_to_num(record.score)))


@dataclass
class Group:
    """The methods compared on one task (or on all of them), best first."""

    name: str
    unit: str
    entries: list[Entry]
    notes: list[str]

    @property
    def records(self) -> list[RunRecord]:
        return [record for entry in self.entries for record in entry.records]

    @property
    def scored(self) -> list[Entry]:
        """The methods that were evaluated at least once."""
        return [entry for entry in self.entries if len(entry.scores)]

    @property
    def finding(self) -> str:
        """The comparison in a sentence or two."""
        scored = self.scored
        if not scored:
            return "No evaluation has finished yet."
        first, *others = scored
        text = f"{clean(first.label)} has an interquartile mean score of {interval(first.iqm)}"
        if not others:
            return f"{text}."
        second = others[0]
        text += f", ahead of {clean(second.label)} at {interval(second.iqm)}. "
        better = probability_of_improvement(first.strata, second.strata)
        text += f"The probability that a run of the first beats one of the second is {better.value:.2f}"
        if np.isfinite(better.low):
            text += f" [{better.low:.2f}, {better.high:.2f}]"
        if not better.low > 0.5:  # also where there is no interval
            return f"{text}: these seeds do not tell the two apart."
        return f"{text}."


def by_task(records: Sequence[RunRecord]) -> list[Group]:
    """A group per task, in the order of their names."""
    if not records:
        raise PalaestraError("there are no runs to compare")
    tasks: dict[str, dict[str, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        tasks[record.task][record.label].append(record)
    return [_group(name, methods) for name, methods in sorted(tasks.items())]


def across(groups: Sequence[Group]) -> Group | None:
    """All tasks as one, for the methods that ran on each of them: scores scaled so that the lowest run of a task is 0 and
    the highest is 1. None where there are not two tasks and two such methods."""
    labels = [e.label for e in groups[0].scored if all(any(e.label == o.label for o in g.scored) for g in groups)]
    if len(groups) < 2 or len(labels) < 2:
        return None
    entries = []
    for label in labels:
        parts = [next(e for e in group.scored if e.label == label) for group in groups]
        strata = [_scaled(part.scores, group) for part, group in zip(parts, groups)]
        entries.append(Entry(label, [r for part in parts for r in part.records], strata, bootstrap(strata)))
    return Group("All tasks", groups[0].unit, _ranked(entries), _notes(entries))


def _group(name: str, methods: dict[str, list[RunRecord]]) -> Group:
    entries = []
    for label, records in methods.items():
        records = sorted(records, key=lambda record: record.seed)
        scores = np.array([r.score for r in records])
        scores = scores[np.isfinite(scores)]
        iqm = bootstrap([scores]) if len(scores) else Interval(np.nan, np.nan, np.nan)
        entries.append(Entry(label, records, [scores], iqm))
    runs = [record for entry in entries for record in entry.records]
    unfinished = [
        f"{clean(r.label)} seed {r.seed} is {clean(r.status, 20)}" + (f" ({clean(r.reason)})" if r.reason else "")
        for r in runs
        if r.status != "finished"
    ]
    notes = _notes([e for e in entries if len(e.scores)])
    if unfinished:
        notes.append(f"Not finished, and counted by the evaluations so far: {'; '.join(unfinished)}.")
    budgets = {(r.unit, r.budget[r.unit] or 0) for r in runs}
    if len(budgets) > 1:
        notes.append(f"The budgets differ: {', '.join(f'{size:,} {unit}' for unit, size in sorted(budgets))}.")
    notes += _rounds(entries)
    return Group(name, runs[0].unit, _ranked(entries), notes)


def _ranked(entries: list[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda e: (not np.isfinite(e.iqm.value), -np.nan_to_num(e.iqm.value), e.label))


def _notes(entries: Sequence[Entry]) -> list[str]:
    warning = few_seeds(min((entry.seeds for entry in entries), default=99))
    return [warning] if warning else []


def _rounds(entries: Sequence[Entry]) -> list[str]:
    """Whose last round went beyond the budget."""
    beyond = [e for e in entries if any(0 < (r.budget[r.unit] or 0) < r.counters.get(r.unit, 0) for r in e.records)]
    said = ", ".join(f"{clean(e.label)} made {e.steps:,.0f} {e.records[0].unit}" for e in beyond)
    return [f"Rounds are not cut off at the budget: {said}."] if beyond else []


def _scaled(scores: np.ndarray, group: Group) -> np.ndarray:
    everything = np.concatenate([entry.scores for entry in group.scored])
    low, high = everything.min(), everything.max()
    return (scores - low) / (high - low) if high > low else np.full_like(scores, 0.5)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else float("nan")
