"""A task's section of the report: its charts, tables, clips and answers."""

from __future__ import annotations

import base64
from typing import Any

from palaestra.language.readout import READOUT, Readout
from palaestra.report import clip, figures, likelihood, tokens
from palaestra.report.html import Html, h, join, outside, table
from palaestra.report.statistics import LEVEL, probability_of_improvement
from palaestra.report.summary import Entry, Group
from palaestra.report.text import clean, duration, number, seeds, span
from palaestra.runs.log import ANSWERS, read_tallies
from palaestra.runs.metrics import read_rows

ANSWERED = 3
"""Answers of each method that are shown."""
EXPLAINED = 6
"""Those that are shown token by token."""
PLOTS = ("curves", "scores", "profile", "gold", "proxy", "likelihood")
"""What `page.js` draws."""
COLOURS = 8
"""How many line colours there are; further methods repeat them with dashes."""


def section(group: Group, index: int, films: dict[tuple[str, str], bytes | str], colours: dict[str, int]) -> Html:
    """The section of a task, or of all tasks together; `films` has the clip of each task and method, or why there is none, and
    `colours` the number of each method's."""
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
        None if overall else _runs(group, films, colours),
        class_="task",
        id=f"task-{index}",
        data_index=index,
    )


def _runs(group: Group, films: dict[tuple[str, str], bytes | str], colours: dict[str, int]) -> list[Any]:
    """What runs of one task cost, and what the best of them do."""
    return [
        h("h3", "Cost of a run"),
        _cost(group, colours),
        _clips(group, films, colours),
        _answers(group, colours),
        _orders(group, colours),
        _tallies(group, colours),
        _tokens(group, colours),
    ]


def _titled(title: str, head: list[Any], rows: list[list[Any]]) -> list[Html] | None:
    """A table under its heading, unless it has no rows."""
    return [h("h3", title), table(head, rows)] if rows else None


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
    head = ["Method", "Prompt", "Answer", "Score"]
    return _titled("Answers of the best seed of each, in its last evaluation", head, rows)


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
    head = ["Method", "Pairs asked about in both orders", "Share for what was shown first", "Share the order decided"]
    return _titled("Pair judges and the order of answers", head, rows)


def _tallies(group: Group, colours: dict[str, int]) -> list[Html] | None:
    """What the best seed of each method counted; names are text, whatever they say."""

    def named(most: list[tuple[str, int]]) -> list[Html]:
        return [h("span", "“", h("bdi", tokens.visible(name)), f"” {count:,}  ") for name, count in most]

    rows = [
        [_name(entry.label, colours), outside(kind, 60), named(most)]
        for entry in group.entries
        for kind, most in read_tallies(entry.best.folder).items()
    ]
    return _titled("What the best seed of each counted", ["Method", "What", "Most often"], rows)


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
