"""The numbers behind a report's charts, as JSON that the page's script draws.

Names from outside are values in lists, never keys, and everything is found by its position.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from palaestra.report.statistics import RESAMPLES, Band, mean_curve, performance_profile
from palaestra.report.summary import Entry, Group
from palaestra.report.text import clean
from palaestra.runs.record import RETURN

SEED_POINTS = 100
"""Points of one seed's line; longer ones are thinned."""
BAND_POINTS = 60
ASIDE_RESAMPLES = 400
"""Bootstrap samples for quantities other than the return, which only help to look inside."""
WAY = {"kl": "answers/kl_reference", "gold": "reward/gold", "proxy": "reward/mean"}
"""What a run that learns from a proxy logs in each round: how far it has gone, what is wanted of answers, what is learnt from."""
WAY_POINTS = 40
"""Points of one seed's way, means over as many parts of its rounds."""
PROFILE_POINTS = 200
"""Scores at which a profile is drawn; with fewer runs, at each of their scores."""


def as_json(groups: Sequence[Group], colours: dict[str, int]) -> str:
    """The charts of every group, safe to stand inside a `<script>` element."""
    content = [_group(group, colours) for group in groups]
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")


def _group(group: Group, colours: dict[str, int]) -> dict[str, Any]:
    overall = len(group.entries[0].strata) > 1
    places = _Places()
    return {
        "unit": group.unit,
        "methods": [{"label": clean(e.label, 80), "colour": colours[e.label]} for e in group.entries],
        "metrics": [] if overall else _metrics(group, places),
        "places": places.found,
        "scores": [_scores(entry) for entry in group.entries],
        "profile": _profile(group),
        "ways": [] if overall else [ways(entry) for entry in group.entries],
    }


class _Places:
    """Where seeds' lines have their points, each list kept once: a run logs most quantities at the same time."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self._index: dict[bytes, int] = {}

    def __call__(self, clock: np.ndarray, seconds: np.ndarray) -> int:
        key = clock.tobytes() + seconds.tobytes()
        if key not in self._index:
            self._index[key] = len(self.found)
            self.found.append({"clock": _list(clock), "seconds": _list(seconds)})
        return self._index[key]


def _metrics(group: Group, places: _Places) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for record in group.records for name in record.metrics)
    ordered = sorted(names, key=lambda name: (name != RETURN, not name.startswith("evaluation/"), name))
    return [
        {"name": clean(name, 80), "methods": [_curves(entry, name, group.unit, places) for entry in group.entries]}
        for name in ordered
    ]


def _curves(entry: Entry, name: str, unit: str, places: _Places) -> dict[str, Any] | None:
    """One metric of one method: its band against the budget's unit and against seconds, and every seed."""
    lines = {
        record.seed: _finite(*record.curve(name, unit), record.curve(name, "seconds")[0]) for record in entry.records
    }
    lines = {seed: line for seed, line in lines.items() if len(line[0])}
    if not lines:
        return None
    resamples = RESAMPLES if name == RETURN else ASIDE_RESAMPLES
    by_clock = [(clock, values) for clock, values, _ in lines.values()]
    by_time = [(seconds, values) for _, values, seconds in lines.values()]
    return {
        "clock": _band(mean_curve(by_clock, points=BAND_POINTS, resamples=resamples)),
        "seconds": _band(mean_curve(by_time, points=BAND_POINTS, resamples=resamples)),
        "seeds": [_seed(seed, line, places) for seed, line in lines.items()],
    }


def _seed(seed: int, line: list[np.ndarray], places: _Places) -> dict[str, Any]:
    clock, values, seconds = line
    kept = np.unique(np.linspace(0, len(clock) - 1, SEED_POINTS).round().astype(int))
    return {"seed": seed, "at": places(clock[kept], seconds[kept]), "y": _list(values[kept])}


def ways(entry: Entry) -> list[dict[str, Any]] | None:
    """How far each seed went from its reference, and what its answers were then worth; None where no seed says so."""
    found = []
    for record in entry.records:
        columns = [record.curve(name)[1] for name in WAY.values()]
        if len(columns[0]) and len({len(column) for column in columns}) == 1:
            parts = [np.array_split(column, min(WAY_POINTS, len(column))) for column in columns]
            means = {name: _list(part.mean() for part in column) for name, column in zip(WAY, parts)}
            found.append({"seed": record.seed, **means})
    return found or None


def _scores(entry: Entry) -> dict[str, Any]:
    value, low, high = _list(entry.iqm)
    return {"value": value, "low": low, "high": high, "runs": _list(entry.scores)}


def _profile(group: Group) -> list[dict[str, Any] | None]:
    scores = np.concatenate([entry.scores for entry in group.entries])
    if not len(scores):
        return [None for _ in group.entries]
    places = np.unique(scores)
    if len(places) > PROFILE_POINTS:
        places = np.linspace(places[0], places[-1], PROFILE_POINTS)
    margin = 0.04 * (places[-1] - places[0]) or 0.5
    thresholds = np.array([places[0] - margin, *places, places[-1] + margin])
    return [_band(performance_profile(e.strata, thresholds)) if len(e.scores) else None for e in group.entries]


def _band(band: Band) -> dict[str, Any]:
    return {"x": _list(band.x), "y": _list(band.value), "low": _list(band.low), "high": _list(band.high)}


def _finite(*columns: np.ndarray) -> list[np.ndarray]:
    fine = np.isfinite(columns).all(0)
    return [column[fine] for column in columns]


def _list(values: Any) -> list[float | None]:
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in map(float, values)]
