"""A dataset's summary as text for a terminal, and as one self-contained HTML file."""

from __future__ import annotations

import textwrap
from pathlib import Path

from palaestra.core import files
from palaestra.data.summary import Spread, Summary
from palaestra.report.html import Html, document, h, outside, table
from palaestra.report.text import clean, number

WIDTH = 110
BAR = 40
"""Characters of the longest bar."""


def summary_text(summary: Summary) -> str:
    """The summary for a terminal."""
    lines = [clean(summary.name), *(f"  {name:<13} {text}" for name, text in _facts(summary))]
    for title, values in (("returns", summary.returns), ("lengths", summary.lengths)):
        lines += ["", f"{title}: {_in_words(values)}", *_bars(values)]
    lines += ["", *_columns(["sampler", "return as drawn", "effective steps"], _sampler_rows(summary)), ""]
    for name, text in _measures(summary):
        lines += textwrap.wrap(f"{name}: {text}", WIDTH, subsequent_indent="  ")
    lines += ["", *(f"note: {clean(note, 400)}" for note in summary.about.get("notes", []))]
    lines += [
        line for finding in summary.findings for line in textwrap.wrap(f"- {finding}", WIDTH, subsequent_indent="  ")
    ]
    if not summary.findings:
        lines.append("nothing wrong was found")
    return "\n".join(lines)


def write_summary(summary: Summary, out: str | Path, command: str) -> Path:
    """Write the summary as HTML and return its path; `command` is what would make it again."""
    out = Path(out)
    facts = table(["what", "value"], [[name, outside(text, 400)] for name, text in _facts(summary)])
    charts = [
        [h("h3", title.capitalize()), h("p", _in_words(values)), histogram(values, title)]
        for title, values in (("returns", summary.returns), ("lengths", summary.lengths))
    ]
    findings = [h("li", outside(finding, 1000)) for finding in summary.findings]
    notes = [h("li", outside(note, 1000)) for note in summary.about.get("notes", [])]
    body = [
        h("header", h("h1", outside(summary.name)), h("p", _size(summary), class_="lead")),
        h(
            "main",
            h(
                "section",
                h("h2", "What is wrong"),
                h("ul", findings) if findings else h("p", "Nothing wrong was found."),
            ),
            h("section", h("h2", "Episodes"), charts),
            h(
                "section",
                h("h2", "Measures"),
                table(["measure", "value"], [[name, text] for name, text in _measures(summary)]),
                h("h3", "Samplers"),
                table(["sampler", "return as drawn", "effective steps"], [list(row) for row in _sampler_rows(summary)]),
            ),
            h("section", h("h2", "Where it is from"), facts, h("ul", notes) if notes else None),
            h("p", "Made by ", h("code", command), class_="muted"),
        ),
    ]
    files.write_text(out, document(summary.name, Html("".join(body))))
    return out


def histogram(values: Spread, title: str, width: int = 640, height: int = 120) -> Html | None:
    """Bars as SVG, in the colour of the text around; None where all values are the same."""
    if len(values.counts) == 1:
        return None
    most, count = max(values.counts), len(values.counts)
    step = width / count
    bars = [
        h(
            "rect",
            h("title", f"{number(values.edges[i])} to {number(values.edges[i + 1])}: {n}"),
            x=f"{i * step + 1:.1f}",
            y=f"{height - height * n / most:.1f}",
            width=f"{step - 2:.1f}",
            height=f"{height * n / most:.1f}",
            fill="currentColor",
            opacity="0.75",
        )
        for i, n in enumerate(values.counts)
    ]
    ends = [
        h("text", number(values.edges[0]), x="0", y=height + 18, fill="currentColor", font_size="13"),
        h(
            "text",
            number(values.edges[-1]),
            x=width,
            y=height + 18,
            fill="currentColor",
            font_size="13",
            text_anchor="end",
        ),
    ]
    label = f"Histogram of {title}: {_in_words(values)}"
    return h("svg", bars, ends, viewBox=f"0 0 {width} {height + 24}", role="img", aria_label=label, width="100%")


def _size(summary: Summary) -> str:
    return f"{summary.steps:,} steps, {summary.episodes:,} episodes, {summary.bytes / 1e6:,.1f} MB"


def _facts(summary: Summary) -> list[tuple[str, str]]:
    made = summary.about.get("behaviour") or {}
    behaviour = ""
    if made:
        quality, seed = summary.about["quality"], summary.about["seed"]
        behaviour = f"{quality}: {made['method']}, {made['steps']:,} steps, seed {seed}"
    snapshot = summary.about.get("snapshot")
    if snapshot:
        behaviour += f"{', ' * bool(behaviour)}snapshot of step {snapshot[0]:,} at {number(snapshot[1])}"
    facts = [
        ("size", _size(summary)),
        ("observations", summary.observations),
        ("actions", summary.actions),
        ("environment", summary.env or "none named, so policies are not evaluated (--task ID)"),
        ("references", " and ".join(map(number, summary.references)) if summary.references else "none"),
        ("behaviour", behaviour),
        ("imported", str(summary.about.get("imported", ""))),
        ("mixed", ", ".join(f"{key} {value}" for key, value in (summary.about.get("mixed") or {}).items())),
        ("Minari", str((summary.about.get("minari") or {}).get("dataset_id", ""))),
    ]
    return [(name, " ".join(text.split())) for name, text in facts if text]


def _measures(summary: Summary) -> list[tuple[str, str]]:
    unmeasured = "needs a reference of the same size (--reference NAME), such as the whole replay"
    return [
        ("ends", f"{summary.terminated:,} episodes terminated, {summary.truncated:,} truncated"),
        ("trajectory quality (TQ)", "needs reference returns" if summary.quality is None else f"{summary.quality:.3f}"),
        (
            "coverage (SACo)",
            f"{summary.coverage:.3f} of {clean(summary.reference)}"
            + (f"; of the logarithms {summary.log_coverage:.3f}" if summary.log_coverage is not None else "")
            if summary.coverage is not None
            else unmeasured,
        ),
        (
            "distinct pairs of state and action",
            f"{summary.pairs:,.0f} (by HyperLogLog {summary.estimate:,.0f}), of states {summary.states:,.0f}",
        ),
        ("steps that are copies", f"{summary.copies:,}"),
        ("steps without reward", f"{summary.zero_rewards:.1%}"),
        ("positive-sided variance of returns", f"{number(summary.gain)}, what weighting episodes has to gain from"),
    ]


def _sampler_rows(summary: Summary) -> list[tuple[str, str, str]]:
    return [(kind, number(value), f"{size:,.0f}") for kind, (value, size) in summary.samplers.items()]


def _in_words(values: Spread) -> str:
    if values.low == values.high:
        return f"{number(values.mean)}, all of them"
    return (
        f"mean {number(values.mean)} ± {number(values.deviation)}, median {number(values.median)}, from {number(values.low)} to "
        f"{number(values.high)}"
    )


def _bars(values: Spread) -> list[str]:
    if len(values.counts) == 1:
        return []
    most = max(values.counts)
    starts = [number(edge) for edge in values.edges[:-1]]
    wide = max(map(len, starts))
    return [
        f"  {start:>{wide}} {'█' * max(round(BAR * n / most), n > 0)} {n}".rstrip()
        for start, n in zip(starts, values.counts)
    ]


def _columns(head: list[str], rows: list[tuple[str, str, str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    lines = [tuple(head), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:]))]) for line in lines
    ]
