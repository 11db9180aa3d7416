"""The report: one HTML file that needs no server, loads nothing and runs nothing but its own script.

Tables and sentences are written here; charts are drawn by `page.js` from numbers embedded as JSON. Whatever came from a run
(names, settings, reasons) is text: escaped here, set as text nodes there, and a content security policy allows no other
script or style than the two whose hashes it carries.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from palaestra.core import files
from palaestra.core.errors import PalaestraError
from palaestra.language.readout import READOUT, Readout
from palaestra.report import clip, figures, likelihood, offline, tokens
from palaestra.report.html import Html, h, join, outside, table
from palaestra.report.statistics import LEVEL, RESAMPLES, probability_of_improvement
from palaestra.report.summary import Entry, Group, across, by_task
from palaestra.report.text import clean, duration, number, seeds, span
from palaestra.runs.log import ANSWERS, read_tallies
from palaestra.runs.metrics import read_rows
from palaestra.runs.record import VERSIONS, RunRecord

ANSWERED = 3
"""Answers of each method that are shown."""
EXPLAINED = 6
"""Those that are shown token by token."""
PLOTS = ("curves", "scores", "profile", "gold", "proxy", "likelihood")
"""What `page.js` draws."""
COLOURS = 8
"""How many line colours there are; further methods repeat them with dashes."""

HELP = [
    (
        "Score",
        "of a run: its mean evaluation return over the last tenth of the budget. Evaluation plays whole episodes with the "
        "greedy policy on environments of their own.",
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
    films = _films(groups) if clips else {}
    sections = [_section(group, i, films, colours) for i, group in enumerate(shown)]
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
            _provenance(records, command),
        ),
    ]
    files.write_text(out, document(title, join(*content), figures.as_json(shown, colours)))
    return out


def document(title: str, body: Html, data: str | None = None) -> str:
    """A whole page in the style of the report; with `data`, the JSON of its charts, also its script."""
    here = Path(__file__).parent
    style, script = ((here / name).read_text() for name in ("page.css", "page.js"))
    allowed = f"script-src '{_hash(script)}'; " if data is not None else ""
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; {allowed}base-uri 'none'; form-action 'none'"
    )
    head = h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", http_equiv="Content-Security-Policy", content=policy),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h("meta", name="color-scheme", content="light dark"),
        h("title", clean(title)),
        h("style", Html(style)),
    )
    scripts = [h("script", Html(data), type="application/json", id="data"), h("script", Html(script))] if data else None
    return f"<!doctype html>\n{h('html', head, h('body', body, scripts), lang='en')}\n"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _header(title: str, groups: list[Group]) -> Html:
    runs = [record for group in groups for record in group.records]
    methods = {entry.label for group in groups for entry in group.entries}
    seconds = sum(record.seconds for record in runs)
    counts = [
        _count(len(methods), "method"),
        _count(len(groups), "task"),
        f"{_count(len(runs), 'run')}",
        f"{duration(seconds)} of training",
    ]
    return h("header", h("h1", outside(title)), h("p", " · ".join(counts), class_="lead"))


def _contents(groups: list[Group], data: bool) -> Html:
    tasks = [h("a", outside(group.name, 60), href=f"#task-{i}") for i, group in enumerate(groups)]
    return h("nav", h("a", "Datasets", href="#datasets") if data else None, tasks)


def _section(group: Group, index: int, films: dict[tuple[str, str], bytes | str], colours: dict[str, int]) -> Html:
    overall = len(group.entries[0].strata) > 1
    about = "Scores of each task are scaled so that its lowest run is 0 and its highest 1." if overall else None
    plot = {name: h("div", class_="plot", data_plot=name) for name in PLOTS}
    proxied = not overall and any(figures.ways(entry) for entry in group.entries)
    paired = not overall and any(map(likelihood.compares, group.records))
    several = len(group.scored) > 1
    return h(
        "section",
        h("h2", outside(group.name)),
        h("p", group.finding, class_="finding"),
        h("p", about, class_="note") if about else None,
        [h("p", note, class_="note") for note in group.notes],
        h("div", class_="legend"),
        None if overall else _figure("Learning curves", h("div", class_="toolbar"), plot["curves"], class_="wide"),
        h(
            "div",
            _figure("Scores: IQM, interval and every seed", plot["scores"]),
            _figure("Performance profile: share of runs above a score", plot["profile"]),
            class_="pair",
        ),
        h(
            "div",
            _figure("What the task wants of answers, by divergence from the reference", plot["gold"]),
            _figure("What is learnt from, by divergence from the reference", plot["proxy"]),
            class_="pair",
        )
        if proxied
        else None,
        _likelihood(group, plot["likelihood"], colours) if paired else None,
        h("h3", "Results"),
        _results(group, colours),
        [h("h3", "Probability of improvement"), _improvement(group, colours)] if several else None,
        None if overall else [h("h3", "Cost of a run"), _cost(group, colours)],
        None if overall else _clips(group, films, colours),
        None if overall else _answers(group, colours),
        None if overall else _orders(group, colours),
        None if overall else _tallies(group, colours),
        None if overall else _tokens(group, colours),
        class_="task",
        id=f"task-{index}",
        data_index=index,
    )


def _figure(title: str, *content: Any, class_: str | None = None) -> Html:
    return h("figure", h("figcaption", title), *content, class_=class_)


def _name(label: str, colours: dict[str, int]) -> Html:
    return h("span", h("i", class_=f"dot c{colours[label] % COLOURS}"), outside(label, 80), class_="name")


def _results(group: Group, colours: dict[str, int]) -> Html:
    head = ["Method", "Seeds", "IQM", f"{LEVEL:.0%} interval", "Mean", "Best", "Worst"]
    rows = []
    for entry in group.entries:
        scores, trained = entry.scores, sorted({record.seed for record in entry.records})
        values = (scores.mean(), scores.max(), scores.min()) if len(scores) else (None, None, None)
        rows.append(
            [
                _name(entry.label, colours),
                clean(seeds(trained), 30),
                h("strong", number(entry.iqm.value)),
                span(entry.iqm) or "–",
                *map(number, values),
            ]
        )
    return table(head, rows)


def _improvement(group: Group, colours: dict[str, int]) -> Html:
    def cell(row: Entry, column: Entry) -> Html:
        if row is column:
            return h("span", "–", class_="muted")
        better = probability_of_improvement(row.strata, column.strata)
        tint = f"tint p{round(10 * better.value)}"
        limits = f"{better.low:.2f}–{better.high:.2f}" if better.low == better.low else "one seed"
        return h("span", h("strong", f"{better.value:.2f}"), h("small", limits), class_=tint)

    entries = group.scored
    head = ["Row beats column", *(_name(e.label, colours) for e in entries)]
    return table(head, [[_name(r.label, colours), *(cell(r, c) for c in entries)] for r in entries], "matrix")


def _cost(group: Group, colours: dict[str, int]) -> Html:
    head = [
        "Method",
        "Wall-clock time",
        f"{group.unit.capitalize()}/s",
        "Steps",
        "Updates",
        "Episodes",
        "Evaluation steps",
    ]
    rows = [
        [
            _name(entry.label, colours),
            duration(entry.seconds),
            number(entry.speed),
            *(f"{entry.median(name):,.0f}" for name in ("steps", "updates", "episodes", "evaluation_steps")),
        ]
        for entry in group.entries
    ]
    return table(head, rows)


def _films(groups: list[Group]) -> dict[tuple[str, str], bytes | str]:
    """By task and method, the clip of the best seed, or why there is none. Two are rendered at a time."""

    def film(entry: Entry) -> bytes | str:
        try:
            return clip.clip(entry.best)
        except PalaestraError as error:
            return str(error)

    entries = {
        (group.name, entry.label): entry
        for group in groups
        for entry in group.entries
        if entry.best.task_spec.get("kind") != "prompts"  # of text there is no film
    }
    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(entries, pool.map(film, entries.values())))


def _clips(group: Group, films: dict[tuple[str, str], bytes | str], colours: dict[str, int]) -> list[Html] | None:
    shown, missing = [], []
    for entry in group.entries:
        made = films.get((group.name, entry.label))
        if made is None:
            continue
        best = entry.best
        if isinstance(made, str):
            missing.append(h("p", "No clip of ", outside(entry.label), ": ", outside(made, 300), ".", class_="note"))
            continue
        source = f"data:image/webp;base64,{base64.b64encode(made).decode()}"
        caption = join(_name(entry.label, colours), h("small", f"seed {best.seed}, score {number(best.score)}"))
        picture = h("img", src=source, alt=f"{clean(entry.label)} acting on {clean(group.name)}", width=clip.WIDTH)
        shown.append(h("figure", picture, h("figcaption", caption), class_="clip"))
    if not shown and not missing:
        return None
    return [h("h3", "The best seed of each, acting greedily"), h("div", shown, class_="clips"), *missing]


def _answers(group: Group, colours: dict[str, int]) -> list[Html] | None:
    """What the best seed of each method answered in its last evaluation; as text, whatever it says."""
    rows = []
    for entry in group.entries:
        path = entry.best.folder / ANSWERS
        for answer in read_rows(path)[-ANSWERED:] if path.exists() else []:
            said = [h("pre", outside(answer.get(name, ""), 600), class_="said") for name in ("prompt", "answer")]
            score = answer.get("score")
            rows.append([_name(entry.label, colours), *said, number(score if isinstance(score, float) else None)])
    if not rows:
        return None
    return [
        h("h3", "Answers of the best seed of each, in its last evaluation"),
        table(["Method", "Prompt", "Answer", "Score"], rows),
    ]


def _orders(group: Group, colours: dict[str, int]) -> list[Html] | None:
    """How much the pair judge of the best seed of each method went by the order in which answers were shown."""
    rows = []
    for entry in group.entries:
        said = [row for row in entry.best.rows if "judge/turned" in row][-1:]
        for row in said:
            shares = (row.get(name) for name in ("judge/first_shown", "judge/turned"))
            pairs = f"{entry.best.counters.get('both_orders', 0):,}"
            rows.append(
                [_name(entry.label, colours), pairs, *(number(x if isinstance(x, float) else None) for x in shares)]
            )
    if not rows:
        return None
    head = ["Method", "Pairs asked about in both orders", "Share for what was shown first", "Share the order decided"]
    return [h("h3", "Pair judges and the order of answers"), table(head, rows)]


def _tallies(group: Group, colours: dict[str, int]) -> list[Html] | None:
    """What the best seed of each method counted; names are text, whatever they say."""

    def named(most: list[tuple[str, int]]) -> list[Html]:
        return [h("span", "“", h("bdi", tokens.visible(name)), f"” {count:,}  ") for name, count in most]

    rows = [
        [_name(entry.label, colours), outside(kind, 60), named(most)]
        for entry in group.entries
        for kind, most in read_tallies(entry.best.folder).items()
    ]
    if not rows:
        return None
    return [h("h3", "What the best seed of each counted"), table(["Method", "What", "Most often"], rows)]


def _likelihood(group: Group, plot: Html, colours: dict[str, int]) -> list[Html]:
    """What became of chosen and of rejected answers, and in which order things went."""
    told = [(entry, likelihood.sentence(entry)) for entry in group.entries]
    return [
        _figure(
            "How much likelier chosen (solid) and rejected answers (dashed) are than under the reference",
            plot,
            class_="wide",
        ),
        *(h("p", _name(entry.label, colours), " ", text, class_="note") for entry, text in told if text),
    ]


def _tokens(group: Group, colours: dict[str, int]) -> list[Html] | None:
    """What the tokens of answers are worth to the best seed of each method, where `palaestra explain` has been asked."""
    paths = [(entry.label, entry.best.folder / READOUT) for entry in group.entries]
    found = [(label, Readout.load(path)) for label, path in paths if path.exists()]
    if not found:
        return None
    parts = [[h("p", _name(label, colours)), tokens.drawn(readout, EXPLAINED)] for label, readout in found]
    return [
        h("h3", "What tokens are worth to the best seed of each"),
        h("p", tokens.ABOUT, class_="note"),
        *map(join, parts),
    ]


def _reading(further: list[tuple[str, str]]) -> Html:
    terms = [[h("dt", term), h("dd", meaning)] for term, meaning in [*HELP, *further]]
    return h("section", h("h2", "How to read this"), h("dl", terms), class_="reading")


def _provenance(records: Sequence[RunRecord], command: str) -> Html:
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
        h("details", h("summary", f"{_count(len(records), 'run')}"), _runs(records)),
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


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
