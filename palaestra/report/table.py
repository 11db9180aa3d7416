"""The comparison as plain text, for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from palaestra.report.summary import Entry, Group, by_task
from palaestra.report.text import clean, duration, number, seeds, span
from palaestra.runs.record import RunRecord

WIDTH = 110


def text_table(records: Sequence[RunRecord]) -> str:
    """A table per task: methods by their scores, with intervals over seeds and what a run costs.

    Raises:
        PalaestraError: there are no records.
    """
    return "\n\n".join(_table(group) for group in by_task(records))


def _table(group: Group) -> str:
    head = ["method", "seeds", "IQM", "95% interval", "mean", "best", group.unit, "time per run", f"{group.unit}/s"]
    rows = [head, *(_row(entry) for entry in group.entries)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    left = (0, 1, 3)
    lines = [
        "  ".join(
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "─" * max(map(len, lines)))
    notes = [line for note in group.notes for line in textwrap.wrap(note, WIDTH)]
    return "\n".join([clean(group.name), *lines, *notes])


def _row(entry: Entry) -> list[str]:
    scores = entry.scores
    return [
        clean(entry.label, 60),
        clean(seeds([r.seed for r in entry.records]), 20),
        number(entry.iqm.value),
        span(entry.iqm) or "–",
        number(scores.mean() if len(scores) else None),
        number(scores.max() if len(scores) else None),
        f"{entry.steps:,.0f}",
        duration(entry.seconds),
        number(entry.speed),
    ]
