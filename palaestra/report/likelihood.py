"""What becomes of the answers that a preference method learns from, and which of several things goes wrong first.

Chosen and rejected answers both become less likely where a model was fine-tuned on such answers first: the mean log-ratio of the
reference's own answers is minus its divergence from the policy (Rafailov et al. 2024, arXiv 2404.12358, eq. 16). That alone is no
fault. It is one where sampled answers become worse while margin and accuracy still grow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from palaestra.report.summary import Entry
from palaestra.runs.record import RETURN, RunRecord

SIDES = {"chosen": "preference/chosen", "rejected": "preference/rejected"}
NEIGHBOURS = 2
"""Rows on either side that a value is averaged with."""
FALLEN = 0.1
"""The share of its range that the score must lose to have fallen, and twice its noise."""

HELP = [
    (
        "Chosen and rejected",
        "how much likelier the answers of pairs are than under the reference, in nats. Both usually fall where the start was "
        "fine-tuned on such answers; their gap is the margin. What counts is the sampled score.",
    )
]


def compares(record: RunRecord) -> bool:
    """Whether a run logged what became of both sides of pairs."""
    return set(SIDES.values()) <= set(record.metrics)


def sentence(entry: Entry) -> str | None:
    """What happened to a method, in its order, at medians over the seeds to which it did; None where nothing was logged."""
    seen = [events(record) for record in entry.records if compares(record)]
    if not seen:
        return None
    told = []
    for name in dict.fromkeys(name for found in seen for name in found):
        clocks = [found[name] for found in seen if name in found]
        share = f" in {len(clocks)} of {len(seen)} seeds" if len(clocks) < len(seen) else ""
        told.append((float(np.median(clocks)), f"{name} from {np.median(clocks):,.0f} on{share}"))
    if not told:
        return "no answers have become less likely, and the score has not fallen."
    return f"{', then '.join(text for _, text in sorted(told))} ({entry.records[0].unit})."


def events(record: RunRecord) -> dict[str, float]:
    """From when on answers are less likely than under the reference, and the score falls, each only if it lasts to the end."""
    found = {}
    for side, name in SIDES.items():
        clock, values = record.curve(name)
        above = np.flatnonzero(smooth(values) >= 0)
        begin = above[-1] + 1 if len(above) else 0
        if begin < len(clock):
            found[f"{side} answers are less likely than under the reference"] = float(clock[begin])
    clock, values = record.curve(RETURN)
    if len(values) > 2 * NEIGHBOURS:
        level = smooth(values)
        best = int(level.argmax())
        least = max(FALLEN * (level.max() - level.min()), 2 * float(np.std(values - level)))
        if level[best] - level[-1] > least:
            found["the score falls"] = float(clock[best])
    return found


def smooth(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Each value `(T,)` as the mean of itself and its neighbours."""
    values = np.asarray(values, dtype=np.float64)
    return np.array([values[max(0, i - NEIGHBOURS) : i + NEIGHBOURS + 1].mean() for i in range(len(values))])
