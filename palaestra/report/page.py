"""The report: one HTML file that needs no server, loads nothing and runs nothing but its own script.

Tables and sentences are written here; charts are drawn by `page.js` from numbers embedded as JSON. Whatever came from a run
(names, settings, reasons) is text: escaped here, set as text nodes there, and a content security policy allows no other
script or style than the two whose hashes it carries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from palaestra.core import files
from palaestra.report import clip, figures, likelihood, offline
from palaestra.report.html import Html, document, h, join, outside
from palaestra.report.provenance import provenance
from palaestra.report.section import section
from palaestra.report.statistics import LEVEL, RESAMPLES
from palaestra.report.summary import Group, across, by_task
from palaestra.report.text import counted, duration
from palaestra.runs.record import RunRecord

HELP = [
    (
        "Score",
        "of a run: its mean evaluation return over the last tenth of the budget. Evaluation plays whole episodes with the "
        "greedy policy on environments of their own; in text it asks held-out prompts, greedily unless the task samples.",
    ),
    (
        "IQM",
        "interquartile mean over seeds: the mean without the lowest and the highest quarter, rounded down to whole runs.",
    ),
    (
        "Interval",
        f"{LEVEL:.0%} percentile interval of {RESAMPLES:,} bootstrap samples, which redraw the seeds of each task. It speaks "
        "of the seeds' chance alone, and is too narrow where seeds are few.",
    ),
    (
        "Learning curve",
        "mean over seeds, with a pointwise interval as its band. A line ends where the first of its seeds ends.",
    ),
    (
        "Probability of improvement",
        "how likely a run of the row's method scores above a run of the column's; ties count half.",
    ),
    ("Performance profile", "the share of runs that score above each value; higher is better everywhere."),
    (
        "Over-optimisation",
        "where answers are learnt from by a proxy, their worth to the task and to the proxy by how far the policy has gone "
        "from its reference. Where the first falls while the second rises, the proxy is exploited.",
    ),
]


def write_report(records: Sequence[RunRecord], out: Path, *, title: str, command: str, clips: bool = True) -> Path:
    """Write the comparison of `records` as one self-contained HTML file and return its path.

    `command` is what the reader would type to make the page again. With `clips`, the best seed of each method is shown
    acting, where its environment can be rendered here.

    Raises:
        PalaestraError: there are no records, or the file cannot be written.
    """
    out = Path(out)
    groups = by_task(records)
    overall = across(groups)
    shown = [*groups, *([overall] if overall else [])]
    colours = {label: i for i, label in enumerate(dict.fromkeys(e.label for g in groups for e in g.entries))}
    films = clip.films(groups) if clips else {}
    sections = [section(group, i, films, colours) for i, group in enumerate(shown)]
    data = offline.section(groups)
    paired = any(likelihood.compares(record) for group in groups for record in group.records)
    content = [
        _header(title, groups),
        _contents(shown, data is not None) if len(shown) > 1 or data else None,
        h("noscript", h("p", "The charts need JavaScript; the tables below do not.", class_="note")),
        h(
            "main",
            data,
            sections,
            _reading([*(offline.HELP if data else []), *(likelihood.HELP if paired else [])]),
            provenance(records, command),
        ),
    ]
    files.write_text(out, document(title, join(*content), figures.as_json(shown, colours)))
    return out


def _header(title: str, groups: list[Group]) -> Html:
    runs = [record for group in groups for record in group.records]
    methods = {entry.label for group in groups for entry in group.entries}
    seconds = sum(record.seconds for record in runs)
    counts = [
        counted(len(methods), "method"),
        counted(len(groups), "task"),
        counted(len(runs), "run"),
        f"{duration(seconds)} of training",
    ]
    return h("header", h("h1", outside(title)), h("p", " · ".join(counts), class_="lead"))


def _contents(groups: list[Group], data: bool) -> Html:
    tasks = [h("a", outside(group.name, 60), href=f"#task-{i}") for i, group in enumerate(groups)]
    return h("nav", h("a", "Datasets", href="#datasets") if data else None, tasks)


def _reading(further: list[tuple[str, str]]) -> Html:
    terms = [[h("dt", term), h("dd", meaning)] for term, meaning in [*HELP, *further]]
    return h("section", h("h2", "How to read this"), h("dl", terms), class_="reading")
