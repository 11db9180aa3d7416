"""How a report's runs were made: commands, versions, machine, settings and every run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from palaestra.report.html import Html, h, outside, table
from palaestra.report.text import clean, counted, duration, number
from palaestra.runs.record import VERSIONS, RunRecord


def provenance(records: Sequence[RunRecord], command: str) -> Html:
    """How it was made: commands, versions, machine, settings and every run."""

    def distinct(name: str) -> Html:
        values = dict.fromkeys(clean(record.versions.get(name) or "unknown", 80) for record in records)
        return outside(", ".join(values), 400)

    facts = [[h("dt", name), h("dd", distinct(name))] for name in VERSIONS]
    facts.append([h("dt", "threads"), h("dd", ", ".join(map(str, sorted({r.threads for r in records}))))])
    commands = dict.fromkeys(record.command for record in records)
    return h(
        "section",
        h("h2", "How it was made"),
        h("pre", outside(command, 2000)),
        h("dl", facts, class_="facts"),
        h("details", h("summary", "Settings"), _settings(records)),
        h("details", h("summary", counted(len(records), "run")), _runs(records)),
        h("details", h("summary", "The runs' own commands"), [h("pre", outside(c, 2000)) for c in commands]),
        class_="made",
    )


def _settings(records: Sequence[RunRecord]) -> Html:
    """A row per setting, a column per method; a setting that differs between tasks shows each of its values."""
    labels = list(dict.fromkeys(record.label for record in records))
    names = list(dict.fromkeys(name for record in records for name in record.settings))

    def cell(label: str, name: str) -> Html | str:
        values = [_plain(r.settings[name]) for r in records if r.label == label and name in r.settings]
        return outside(" / ".join(dict.fromkeys(values)), 200) if values else ""

    rows = [[outside(name, 60), *(cell(label, name) for label in labels)] for name in names]
    return table(["Setting", *(outside(label, 80) for label in labels)], rows, "small")


def _runs(records: Sequence[RunRecord]) -> Html:
    head = ["Folder", "Task", "Method", "Seed", "Status", "Score", "Steps", "Updates", "Evaluation steps", "Time"]
    rows = [
        [
            outside(record.folder),
            outside(record.task, 60),
            outside(record.label, 80),
            str(record.seed),
            outside(record.status, 20),
            number(record.score),
            *(f"{record.counters.get(name, 0):,}" for name in ("steps", "updates", "evaluation_steps")),
            duration(record.seconds),
        ]
        for record in records
    ]
    return table(head, rows, "small")


def _plain(value: Any) -> str:
    return clean(value if isinstance(value, str) else json.dumps(value, default=str))
