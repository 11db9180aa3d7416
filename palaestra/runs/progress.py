"""What a person sees while a run trains: one live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

from palaestra.report.text import number

PLAIN_EVERY = 10.0
LIVE_EVERY = 0.2

SHOWN = {"rollout/return": "return", "reward/mean": "reward", "evaluation/return": "evaluation"}
"""Metrics that the line ends with."""
SHOWN_IN_TEXT = {
    "length": ("answers/length",),
    "entropy": ("answers/entropy", "policy/entropy"),
    "kl": ("policy/kl_reference", "policy/kl"),
    "cut": ("answers/truncated",),
    "no spread": ("groups/without_spread",),
}
"""Those of language methods: the first of each that there is."""


class Progress:
    """Share done, speed, time left and the latest returns."""

    def __init__(self, label: str, total: int, unit: str, start: int = 0, stream: TextIO | None = None):
        self.label, self.total, self.unit = label, total, unit
        self.stream = stream if stream is not None else sys.stderr
        self.live = self.stream.isatty()
        self.begin(start)

    def begin(self, done: int) -> None:
        """Count from here on, with so much already done."""
        self.first = done
        self.began = self.shown = time.monotonic()

    def update(self, done: int, latest: dict[str, float], force: bool = False) -> None:
        """Show the state if it was not shown a moment ago."""
        now = time.monotonic()
        if done < self.first:  # a run that was cut off goes back to its checkpoint
            self.first, self.began = done, now
        if not force and now - self.shown < (LIVE_EVERY if self.live else PLAIN_EVERY):
            return
        self.shown = now
        line = self.line(done, now - self.began, latest)
        if self.live:  # a line that wraps could not be overwritten
            line = line[: shutil.get_terminal_size().columns - 1]
        self.stream.write(f"\r\x1b[2K{line}" if self.live else f"{line}\n")
        self.stream.flush()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.stream.write(f"\r\x1b[2K{text}\n" if self.live else f"{text}\n")
        self.stream.flush()

    def line(self, done: int, seconds: float, latest: dict[str, float]) -> str:
        """The line itself."""
        speed = (done - self.first) / seconds if seconds > 0 else 0.0
        left = max(0, self.total - done) / speed if speed > 0 else float("inf")
        share = min(1.0, done / self.total)
        bar = "█" * int(20 * share) + "░" * (20 - int(20 * share))
        parts = [
            self.label,
            f"{bar} {share:4.0%}" if self.live else f"{share:4.0%}",
            f"{_short(done)}/{_short(max(done, self.total))} {self.unit}",
            f"{_short(speed)}/s",
            f"{_clock(left)} left",
        ]
        parts += [f"{short} {number(latest[name])}" for name, short in SHOWN.items() if name in latest]
        found = {short: [latest[name] for name in names if name in latest] for short, names in SHOWN_IN_TEXT.items()}
        parts += [f"{short} {values[0]:.3g}" for short, values in found.items() if values]
        return "  ".join(parts)

    def close(self) -> None:
        if self.live:
            self.stream.write("\n")
            self.stream.flush()


def _short(count: float) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if count >= size:
            scaled = count / (1e3 if suffix == "k" else size)
            return f"{scaled:.3g}{suffix}"
    return f"{count:.0f}" if count >= 1 else f"{count:.1g}"


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
