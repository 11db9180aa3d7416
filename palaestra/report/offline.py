"""What a report says of the datasets that methods learnt from: scores by host and sampler side by side, and their map.

The map has the axes of Schweighofer et al. (arXiv 2111.04714): how good a dataset's behaviour was, and how much of the world it
shows. Datasets are measured where they lie on this machine; none is made or downloaded for it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from palaestra.core.errors import PalaestraError
from palaestra.data.dataset import Dataset
from palaestra.data.load import load_dataset
from palaestra.data.measures import coverages, trajectory_quality
from palaestra.data.sampling import Weighting, positive_sided_variance
from palaestra.report.html import Html, h, outside, table
from palaestra.report.statistics import Interval, bootstrap
from palaestra.report.summary import Entry, Group
from palaestra.report.text import clean, number, span

HELP = [
    (
        "Normalised score",
        "a score on the scale on which the dataset's own reference returns are 0 (random actions) and 100 (its expert).",
    ),
    (
        "Quality (TQ)",
        "the mean return of a dataset's episodes where its references are 0 and 1. Cloning gets about this much.",
    ),
    (
        "Coverage (SACo)",
        "the distinct pairs of state and action among equally many steps of each dataset of an environment, as a share of the "
        "most that any of them here shows. Q-learning without constraints needs it.",
    ),
    (
        "Positive-sided variance",
        "of returns above their mean: how much there is to gain from drawing good episodes more often.",
    ),
]

SCALE = (
    "On each dataset 0 is the return of random actions and 100 that of its expert. Below a score is its interval over seeds; "
    "what is best on a dataset is bold."
)

Scores = dict[tuple[str, str], dict[str, Interval]]
"""By host and sampler, then by dataset: the normalised score, an interquartile mean over seeds."""


@dataclass(frozen=True)
class Place:
    """A dataset on the map; None is what cannot be said of it."""

    steps: int
    episodes: int
    mean: float
    gain: float
    """Positive-sided variance of returns."""
    quality: float | None
    coverage: float


def learnt_from_data(groups: Sequence[Group]) -> list[Group]:
    """The tasks that are datasets."""
    return [group for group in groups if group.records[0].task_spec.get("kind") == "dataset"]


def section(groups: Sequence[Group]) -> Html | None:
    """The datasets that methods learnt from, if there are any, side by side."""
    groups = learnt_from_data(groups)
    if not groups:
        return None
    places, missing = measured(groups)
    names = dict(zip([group.name for group in groups], shortened([group.name for group in groups])))
    scores = normalised(groups)
    return h(
        "section",
        h("h2", "Datasets"),
        h("p", SCALE, class_="note") if scores else None,
        [h("h3", "Normalised scores"), _scores(scores, names, places)] if scores else None,
        h("h3", "What the data are like"),
        _datasets(places),
        _map(places, names, scores),
        [h("p", "Not measured: ", outside(reason, 300), ".", class_="note") for reason in missing],
        class_="datasets",
        id="datasets",
    )


def normalised(groups: Sequence[Group]) -> Scores:
    """Normalised scores of everything that was evaluated on data with references, samplers of a host together."""
    found: Scores = defaultdict(dict)
    for group in groups:
        for entry in group.entries:
            values = np.array([record.normalised for record in entry.records])
            values = values[np.isfinite(values)]
            if len(values):
                found[entry.records[0].host, _sampler(entry)][group.name] = bootstrap([values])
    known = list(get_args(Weighting))
    return dict(sorted(found.items(), key=lambda item: (item[0][0], *_rank(item[0][1], known))))


def measured(groups: Sequence[Group]) -> tuple[dict[str, Place], list[str]]:
    """The datasets by their names, coverage compared within an environment, and why others could not be measured."""
    found: dict[str, Dataset] = {}
    missing = []
    for group in groups:
        try:
            found[group.name] = load_dataset(str(group.records[0].task_spec.get("spec")), fetch=False)
        except (PalaestraError, OSError, ValueError) as error:  # also a name that no file can have
            missing.append(f"{group.name}: {error}")
    alike: dict[str, list[str]] = defaultdict(list)
    for name, data in found.items():
        alike[f"{data.env} {data.observation_space} {data.action_space}"].append(name)
    covered = {
        name: share
        for names in alike.values()
        for name, share in zip(names, coverages([found[name] for name in names]), strict=True)
    }
    return {name: _place(data, covered[name]) for name, data in found.items()}, missing


def shortened(names: Sequence[str]) -> list[str]:
    """Names without the folders that all of them begin with."""
    parts = [name.split("/") for name in names]
    shared = 0
    while all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    return ["/".join(part[shared:]) for part in parts]


def _place(data: Dataset, coverage: float) -> Place:
    low_high = data.references
    ordered = low_high is not None and low_high[1] > low_high[0] and math.isfinite(data.returns.sum())
    return Place(
        steps=len(data),
        episodes=len(data.starts),
        mean=float(data.returns.mean()),
        gain=float(positive_sided_variance(data.returns)),
        quality=trajectory_quality(data.returns, *low_high) if low_high is not None and ordered else None,
        coverage=coverage,
    )


def _sampler(entry: Entry) -> str:
    return str(entry.records[0].settings.get("sampler", "–"))


def _rank(sampler: str, known: list[str]) -> tuple[int, str]:
    kind = sampler.partition(":")[0]
    return (known.index(kind) if kind in known else len(known), sampler)


def _scores(scores: Scores, names: dict[str, str], places: dict[str, Place]) -> Html:
    """A row per host and sampler, a column per dataset, the best of each in bold; below, the data's own behaviour."""
    best = {name: max((row[name].value for row in scores.values() if name in row), default=np.nan) for name in names}

    def cell(row: dict[str, Interval], name: str) -> Html | str:
        if name not in row:
            return "–"
        value = row[name].value
        return h("span", h("strong" if value == best[name] else "span", number(value)), h("small", span(row[name])))

    rows: list[list[Any]] = [
        [outside(host, 80), outside(sampler, 20), *(cell(row, name) for name in names)]
        for (host, sampler), row in scores.items()
    ]
    behaviour = [
        number(100 * places[name].quality) if name in places and places[name].quality is not None else "–"
        for name in names
    ]
    rows.append([h("i", "the data's behaviour"), "", *behaviour])
    return table(["Method", "Sampler", *(outside(short, 60) for short in names.values())], rows, "beside")


def _datasets(places: dict[str, Place]) -> Html:
    head = ["Dataset", "Steps", "Episodes", "Mean return", "Positive-sided variance", "Quality (TQ)", "Coverage (SACo)"]
    rows = [
        [
            outside(name, 80),
            f"{place.steps:,}",
            f"{place.episodes:,}",
            number(place.mean),
            number(place.gain),
            "–" if place.quality is None else f"{place.quality:.2f}".replace("-", "−"),
            f"{place.coverage:.2f}",
        ]
        for name, place in places.items()
    ]
    return table(head, rows)


WIDTH, HEIGHT = 640, 380
LEFT, RIGHT, TOP, BOTTOM = 62, 622, 12, 330
"""Of the map's frame, in units of the drawing."""
LINE = 30
"""Height of a point's two lines of text."""


def _map(places: dict[str, Place], names: dict[str, str], scores: Scores) -> Html | None:
    """A point per dataset at its coverage and quality, with what did best on it."""
    shown = {name: place for name, place in places.items() if place.quality is not None}
    if not shown:
        return None
    heights = [place.quality for place in shown.values() if place.quality is not None]
    low, high = min(0.0, *heights) - 0.08, max(1.0, *heights) + 0.08

    def x(coverage: float) -> float:
        return LEFT + coverage / 1.05 * (RIGHT - LEFT)

    def y(quality: float) -> float:
        return BOTTOM - (quality - low) / (high - low) * (BOTTOM - TOP)

    grid = []
    for i in range(5):
        at = x(i / 4)
        grid.append(h("line", class_="axis", x1=f"{at:.1f}", x2=f"{at:.1f}", y1=BOTTOM, y2=BOTTOM + 4))
        grid.append(h("text", f"{i / 4:g}", class_="middle", x=f"{at:.1f}", y=BOTTOM + 18))
    step = 0.25 * 2 ** max(0, math.ceil(math.log2((high - low) / 2)))
    for level in step * np.arange(math.ceil(low / step), math.floor(high / step) + 1):
        at = y(level)
        grid.append(h("line", class_="gridline", x1=LEFT, x2=RIGHT, y1=f"{at:.1f}", y2=f"{at:.1f}"))
        grid.append(h("text", f"{level + 0:g}".replace("-", "−"), class_="end", x=LEFT - 8, y=f"{at + 4:.1f}"))
    middle = (TOP + BOTTOM) / 2
    frame = [
        *grid,
        h("line", class_="axis", x1=LEFT, x2=RIGHT, y1=BOTTOM, y2=BOTTOM),
        h("text", "coverage (SACo)", class_="middle", x=(LEFT + RIGHT) / 2, y=BOTTOM + 38),
        h("text", "quality (TQ)", class_="middle", x=14, y=middle, transform=f"rotate(-90 14 {middle})"),
    ]
    points, below = [], dict.fromkeys(("start", "end"), -np.inf)
    for name, place in sorted(shown.items(), key=lambda item: -(item[1].quality or 0.0)):
        assert place.quality is not None
        across, down = x(place.coverage), y(place.quality)
        side = "start" if place.coverage < 0.5 else "end"
        at = below[side] = max(down, below[side] + LINE)  # text never covers the text above it
        beside = f"{across + (12 if side == 'start' else -12):.1f}"
        text = {"x": beside, "text_anchor": side}
        points.append(h("circle", class_="point c0", cx=f"{across:.1f}", cy=f"{down:.1f}", r=6))
        points.append(h("text", clean(names[name], 60), class_="strong", y=f"{at:.1f}", **text))
        points.append(h("text", _winner(name, scores), y=f"{at + 14:.1f}", **text))
    label = "Datasets by coverage and quality: " + "; ".join(
        f"{clean(names[name])} {place.coverage:.2f}, {place.quality:.2f}" for name, place in shown.items()
    )
    drawing = h("svg", frame, points, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)
    title = h("figcaption", "How good the behaviour was, and how much it shows")
    return h("figure", title, h("div", drawing, class_="scroll", tabindex="0"), class_="map")


def _winner(name: str, scores: Scores) -> str:
    """What has the highest normalised score on a dataset."""
    found = {key: row[name].value for key, row in scores.items() if name in row}
    if not found:
        return ""
    host, sampler = max(found, key=lambda key: found[key])
    return f"best: {clean(host, 40)}, {clean(sampler, 20)}, {number(found[host, sampler])}"
