"""What is noted of judges while a run asks them: what reward functions report, which fail and how often, and who is told."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from palaestra.core.errors import EXPLODED
from palaestra.core.world import world

if TYPE_CHECKING:
    from palaestra.language.judges.judge import Scores


class Notes:
    """What functions have reported since it was last `taken`, and on how many answers each has failed since training began."""

    def __init__(self) -> None:
        self.failures: dict[str, int] = {}
        self.sums: dict[str, list[float]] = {}
        """Of each number reported, the sum over answers, and how many these are."""
        self.complaint = ""
        """What was wrong last."""
        self.in_vain = 0
        """Rounds in a row of which no answer could be scored."""

    def add(self, scores: Scores) -> None:
        """Note what came beside some scores. Numbers that would be taken for a sign of divergence are left out."""
        self.count(scores.failures)
        n = len(scores.total)
        silent = [f"{' and '.join(scores.parts)} gave None"] if n and bool(scores.total.isnan().all()) else []
        self.complaint = [self.complaint, *silent, *scores.complaints.values()][-1]
        self._sum({name: [n * value, n] for name, value in scores.metrics.items() if abs(value) < EXPLODED})

    def merge(self, other: Notes) -> None:
        """Take over what others have noted, who forget it."""
        self.count(other.failures)
        self._sum(other.sums)
        self.complaint = other.complaint or self.complaint
        other.failures, other.sums = {}, {}

    def count(self, failures: Mapping[str, int]) -> None:
        """Count further failures."""
        for name, count in failures.items():
            self.failures[name] = self.failures.get(name, 0) + count

    def since(self, before: Mapping[str, int]) -> dict[str, int]:
        """The failures since they were `before`."""
        return dict(Counter(self.failures) - Counter(before))

    def taken(self) -> dict[str, float]:
        """The means over answers of what was reported, in all processes; they are forgotten."""
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
    """Updates in all; 0 where nobody knows."""


@dataclass
class _Run:
    tell: Callable[[str], None]
    state: Callable[[], TrainerState]
    told: set[str] = field(default_factory=set)


_runs: list[_Run] = []


@contextmanager
def asked_by(tell: Callable[[str], None], state: Callable[[], TrainerState]) -> Iterator[None]:
    """Let judges be asked by a run for now, which tells its user of each function that fails, once, and knows how far it is."""
    _runs.append(_Run(tell, state))
    try:
        yield
    finally:
        _runs.pop()


def tell(function: str, text: str) -> None:
    """Tell whoever asks that a function fails; outside a run by a warning where the judge is called."""
    if not _runs:
        warnings.warn(text, stacklevel=4)
    elif function not in _runs[-1].told:
        _runs[-1].told.add(function)
        _runs[-1].tell(text)


def trainer_state() -> TrainerState:
    """How far the run is that asks."""
    return _runs[-1].state() if _runs else TrainerState()
