"""The numbers behind a report's charts, as JSON that the page's script draws.

Names from outside are values in lists, never keys, and everything is found by its position.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from palaestra.report.statistics import Band, mean_curve, performance_profile
from palaestra.report.summary import Entry, Group
from palaestra.report.text import clean
from palaestra.runs.record import RETURN, RunRecord

SEED_POINTS = 120
"""Points of one seed's line; longer ones are thinned."""
PROFILE_POINTS = 200
"""Scores at which a profile is drawn; with fewer runs, at each of their scores."""


def as_json(groups: Sequence[Group], colours: dict[str, int]) -> str:
    """The charts of every group, safe to stand inside a `<script>` element."""
    content = [_group(group, colours) for group in groups]
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")


def _group(group: Group, colours: dict[str, int]) -> dict[str, Any]:
    overall = len(group.entries[0].strata) > 1
    return {
        "unit": group.unit,
        "methods": [{"label": clean(e.label, 80), "colour": colours[e.label]} for e in group.entries],
        "metrics": [] if overall else _metrics(group),
        "scores": [_scores(entry) for entry in group.entries],
        "profile": _profile(group),
    }


def _metrics(group: Group) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for record in group.records for name in record.metrics)
    ordered = sorted(names, key=lambda name: (name != RETURN, not name.startswith("evaluation/"), name))
    return [
        {"name": clean(name, 80), "methods": [_curves(e, name, group.unit) for e in group.entries]} for name in ordered
    ]


def _curves(entry: Entry, name: str, unit: str) -> dict[str, Any] | None:
    runs = [record for record in entry.records if len(record.curve(name)[0])]
    if not runs:
        return None
    axes = {axis: [_finite(*record.curve(name, axis)) for record in runs] for axis in (unit, "seconds")}
    if not all(len(x) for curves in axes.values() for x, _ in curves):
        return None
    return {
        "clock": _band(mean_curve(axes[unit])),
        "seconds": _band(mean_curve(axes["seconds"])),
        "seeds": [_seed(*parts) for parts in zip(runs, axes[unit], axes["seconds"])],
    }


def _seed(record: RunRecord, by_clock: tuple[np.ndarray, ...], by_time: tuple[np.ndarray, ...]) -> dict[str, Any]:
    (clock, values), (seconds, _) = by_clock, by_time
    kept = np.unique(np.linspace(0, len(clock) - 1, SEED_POINTS).round().astype(int))
    return {"seed": record.seed, "clock": _list(clock[kept]), "seconds": _list(seconds[kept]), "y": _list(values[kept])}


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


def _finite(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    fine = np.isfinite(x) & np.isfinite(y)
    return x[fine], y[fine]


def _list(values: Any) -> list[float | None]:
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in map(float, values)]
