"""A run's record of its judges: what reward functions report, which fail and how often, and where that is shown."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from palaestra.core.errors import EXPLODED
from palaestra.core.world import world
from palaestra.language.judges.scores import Scores


class Notes:
    """What reward functions have reported since `taken` was last called, and on how many answers each has failed since training
    began."""

    def __init__(self) -> None:
        self.failures: dict[str, int] = {}
        self.sums: dict[str, list[float]] = {}
        """By the name of each number reported, its sum over answers and their number."""
        self.complaint = ""
        """The last message about a failure."""
        self.in_vain = 0
        """Rounds in a row of which no answer could be scored."""

    def add(self, scores: Scores) -> None:
        """Record the failures and metrics of some scores. Numbers so large that the run would count as diverged are left out."""
        self.count(scores.failures)
        n = len(scores.total)
        silent = [f"{' and '.join(scores.parts)} gave None"] if n and bool(scores.total.isnan().all()) else []
        self.complaint = [self.complaint, *silent, *scores.complaints.values()][-1]
        self._sum({name: [n * value, n] for name, value in scores.metrics.items() if abs(value) < EXPLODED})

    def merge(self, other: Notes) -> None:
        """Move what `other` has recorded here."""
        self.count(other.failures)
        self._sum(other.sums)
        self.complaint = other.complaint or self.complaint
        other.failures, other.sums, other.complaint = {}, {}, ""

    def count(self, failures: Mapping[str, int]) -> None:
        """Add failures, by the name of the function."""
        for name, count in failures.items():
            self.failures[name] = self.failures.get(name, 0) + count

    def since(self, before: Mapping[str, int]) -> dict[str, int]:
        """How many more failures there are than `before`, by the name of the function."""
        return dict(Counter(self.failures) - Counter(before))

    def taken(self) -> dict[str, float]:
        """The mean over answers, in all processes, of each number reported since the last call."""
        own, self.sums = self.sums, {}
        for sums in world().gather([own]):
            self._sum(sums)
        found, self.sums = self.sums, {}
        return {name: total / count for name, (total, count) in found.items()}

    def _sum(self, further: Mapping[str, list[float]]) -> None:
        for name, (total, count) in further.items():
            before = self.sums.get(name, [0.0, 0])
            self.sums[name] = [before[0] + total, before[1] + count]

    def state_dict(self) -> dict[str, Any]:
        return {"failures": dict(self.failures), "sums": dict(self.sums), "in_vain": self.in_vain}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.failures, self.sums, self.in_vain = dict(state["failures"]), dict(state["sums"]), state["in_vain"]


@dataclass(frozen=True)
class TrainerState:
    """What reward functions may read of trl's `trainer_state`."""

    global_step: int = 0
    """Updates so far."""
    max_steps: int = 0
    """Updates in all; 0 where that is not known."""


@dataclass
class _Run:
    tell: Callable[[str], None]
    state: Callable[[], TrainerState]
    told: set[str] = field(default_factory=set)


_runs: list[_Run] = []


@contextmanager
def asked_by(tell: Callable[[str], None], state: Callable[[], TrainerState]) -> Iterator[None]:
    """Within this context, failures of reward functions are reported through `tell`, once for each function, and `state` gives
    their `trainer_state`."""
    _runs.append(_Run(tell, state))
    try:
        yield
    finally:
        _runs.pop()


def tell(function: str, text: str) -> None:
    """Report that a function fails: to the current run or, outside a run, by a warning where the judge is called."""
    if not _runs:
        warnings.warn(text, stacklevel=4)
    elif function not in _runs[-1].told:
        _runs[-1].told.add(function)
        _runs[-1].tell(text)


def trainer_state() -> TrainerState:
    """The progress of the current run."""
    return _runs[-1].state() if _runs else TrainerState()
