"""What a run writes down while it trains: metrics, when they were measured, and some answers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from palaestra.core import files
from palaestra.core.errors import BadCheckpoint
from palaestra.core.method import Tallies
from palaestra.runs.metrics import Table

ANSWERS = "answers.jsonl"
"""Where a run in text keeps some of what its policy answered in evaluations."""
ROUNDS = "rounds.jsonl"
"""Where a run in text keeps all answers that its method has judged, if it is asked to."""
TALLIES = "tallies.json"
"""Where a run keeps what its method has counted by name."""


class Sink(Protocol):
    """What metrics are mirrored to."""

    def write(self, clock: int, row: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Log:
    """The tables in a run's folder, and what they are mirrored to.

    Times are in a table of their own, so that the others are byte-equal between equal runs.
    """

    def __init__(self, folder: Path, keep_answers: bool = False):
        self.metrics, self.timing, self.answers = (
            Table(folder / name) for name in ("metrics.jsonl", "timing.jsonl", ANSWERS)
        )
        self.rounds = Table(folder / ROUNDS) if keep_answers or (folder / ROUNDS).exists() else None
        self.sinks: list[Sink] = []
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the run has taken, in all its parts."""
        return time.monotonic() - self._began

    def go_on(self, seconds: float) -> None:
        """Count time from here on, after so many seconds of earlier parts."""
        self._began = time.monotonic() - seconds

    def write(self, clock: int, counted: Mapping[str, int], row: Mapping[str, float]) -> None:
        """A row of metrics, with what is `counted` by then."""
        self.metrics.append({**counted, **row, **counted})  # reward functions may report what is called so, too
        self.timing.append({"clock": clock, "seconds": round(self.seconds, 3)})
        for sink in self.sinks:
            sink.write(clock, row)

    def note(self, clock: int, examples: Sequence[Mapping[str, Any]]) -> None:
        """Some answers of an evaluation."""
        for example in examples:
            self.answers.append({"clock": clock, **example})

    def answered(self) -> int:
        """The bytes of answers; runs without any have no file for them."""
        return self.answers.position() if self.answers.path.exists() else 0

    def judged(self) -> int:
        """The bytes of judged answers."""
        return 0 if self.rounds is None else self.rounds.position()

    def cut(self, metrics: int = 0, timing: int = 0, answers: int = 0, rounds: int = 0) -> None:
        """Forget what was written after so many bytes of each table."""
        self.metrics.cut(metrics)
        self.timing.cut(timing)
        if self.answers.path.exists():
            self.answers.cut(answers)
        if self.rounds is not None:
            self.rounds.cut(rounds)

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()


def write_tallies(folder: Path, tallies: Tallies) -> None:
    """Write down what a method has counted, if that is anything. It is of the whole run each time, and a function of the
    method's state alone, so that a resumed run has nothing to cut off and ends with the same file."""
    if tallies:
        files.write_text(folder / TALLIES, json.dumps(tallies, indent=1) + "\n")


def read_tallies(folder: Path) -> Tallies:
    """What a run's method has counted.

    Raises:
        BadCheckpoint: the file holds something else.
    """
    path = folder / TALLIES
    content = files.read_json(path) if path.exists() else {}
    try:
        return {kind: [(str(name), int(count)) for name, count in most] for kind, most in content.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise BadCheckpoint(f"{path} holds no counts ({error})") from None
