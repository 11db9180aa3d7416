"""`palaestra study`: a grid of the user's own, described by a file."""

from __future__ import annotations

import csv
import io
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_origin

from palaestra.claims.claim import Claim, Records, Scale
from palaestra.claims.grid import START, Grid, Level
from palaestra.claims.reproduce import finish, trials
from palaestra.claims.result import table
from palaestra.core import files, registry
from palaestra.core.errors import BadSetting, require, unknown
from palaestra.core.hints import alternatives, check_value, fits, hints_of
from palaestra.core.method import Paper, make_method
from palaestra.core.task import as_task
from palaestra.runs.origin import versions

PAPER = Paper(
    "Unpacking DPO and PPO: Disentangling Best Practices for Learning from Preference Feedback", 2024, "2406.09279"
)
Cells = Literal["around", "all"]
"""Which cells a grid has: all data with all algorithms and, at the first data, one change of the first others; or all."""
VALUES = {"task": str, "seeds": int, "cells": Cells, "evaluate": tuple[str, ...]}
TABLES = ("settings", "start", "data", "algorithms", "rewards", "prompts")


def study(path: str | Path, workers: int | None = None, out: str | Path | None = None) -> tuple[Grid, Records, Path]:
    """Train what the grid in a file needs and write its tables to `<out>/<file>.md`, and every number to `.csv`.

    Runs are kept in `runs/studies/<file>`; called again, it goes on where it stopped, and trains what the file has more than
    before.

    Raises:
        BadSetting: the file describes no grid, something would be trained on prompts that all is evaluated on, or `runs/studies`
            holds runs of other settings under the same names.
        PalaestraError: a run failed.
    """
    path = Path(path)
    grid = read_grid(path)
    scale = Scale("", grid.arms(), lambda records: [], grid.tables)
    experiment = Claim("studies", PAPER, "", {path.stem: scale}, grid.measure, Path("runs"))
    grid.check()
    _check_evaluated(experiment.runs / experiment.name / path.stem / "evaluate.json", grid.evaluate)
    try:
        planned = trials(experiment, path.stem)
    except BadSetting as error:
        raise BadSetting(f"{error}, or give the level that was changed another name") from None
    todo = sum(not trial.measured for trial in planned)
    print(f"{path.stem}: {len(grid.cells())} cells in {len(planned)} runs, of which {todo} are to do", flush=True)
    records = finish(planned, workers)
    page = Path(out or "results") / f"{path.stem}.md"
    files.write_text(page, _page(path, grid, records))
    files.write_text(page.with_suffix(".csv"), _tidy(grid, records))
    return grid, records, page


def _check_evaluated(noted: Path, evaluate: tuple[str, ...]) -> None:
    """Refuse to go on where runs were measured on other tasks, which would stand beside each other."""
    before = tuple(files.read_json(noted)["evaluate"]) if noted.exists() else evaluate
    require(
        before == evaluate,
        f"runs in {noted.parent} were evaluated on {', '.join(before) or 'their own task'}; give the study's file another name",
    )
    noted.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(noted, json.dumps({"evaluate": evaluate}))


def read_grid(path: Path) -> Grid:
    """The grid that a TOML file describes."""
    if not path.exists():
        raise BadSetting(f"there is no file {path}")
    try:
        content = tomllib.loads(files.read_bytes(path).decode())
    except ValueError as error:
        raise BadSetting(f"{path} is not valid TOML: {error}") from None
    for key, value in content.items():
        if key not in (*VALUES, *TABLES):
            raise unknown("part of a study", key, (*VALUES, *TABLES))
        check_value(value, VALUES.get(key, Any), key)
    require("task" in content, f"{path} names no task")
    settings, start = content.get("settings", {}), content.get("start", {})
    _check_table(settings, "settings")
    _check_table(start, "start")
    task = as_task(content["task"], **settings)
    usual = {"updates": getattr(task, "updates", None) or 0}
    asked = {name: _tables(content, name) for name in TABLES[2:]}
    for name, given in [*asked["data"].items(), *asked["prompts"].items()]:
        check_value(given.get("task", ""), str, f"task of {name}")
    return Grid(
        content["task"],
        _level(START, "sft", {"updates": getattr(task, "start_updates", 0)} | start),
        asked["data"],
        {name: _level(name, name, usual | given, several=True) for name, given in asked["algorithms"].items()},
        {
            name: None if given == {"judge": True} else _level(name, "reward-model", {"model": START} | usual | given)
            for name, given in asked["rewards"].items()
        }
        or {"judge": None},
        asked["prompts"] or {"same": {}},
        settings,
        tuple(content.get("evaluate", ())),
        content.get("seeds", 3),
        content.get("cells") == "all",
    )


def _check_table(given: Any, name: str) -> None:
    require(isinstance(given, dict), f"{name} must be a table, got {given!r}")


def _tables(content: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """The tables of a factor's levels."""
    given = content.get(name, {})
    tabular = isinstance(given, dict) and all(isinstance(level, dict) for level in given.values())
    require(tabular, f"{name} must be tables, such as [{name}.first]")
    return given


def _level(name: str, method: str, given: Mapping[str, Any], several: bool = False) -> Level:
    """A level from its table: the method, its budget and its settings, of which a list is to be tried one by one, unless it is
    one value of a setting that is several numbers."""
    own = dict(given)
    method, updates, settings = own.pop("method", method), own.pop("updates"), own.pop("settings", {})
    check_value(method, str, f"method of {name}")
    check_value(updates, int, f"updates of {name}")
    _check_table(settings, f"settings of {name}")
    require(updates >= 1, f"{name} does not say how many updates; add updates = 300")
    hints = hints_of(registry.method_class(method)) if several else {}
    tried = {
        key: tuple(tuple(part) if isinstance(part, list) else part for part in value)
        for key, value in own.items()
        if several and isinstance(value, list) and not _is_tuple(value, hints.get(key))
    }
    require(all(tried.values()), f"{name} has a setting that is an empty list")
    fixed = {key: value for key, value in own.items() if key not in tried}
    first = make_method(method, fixed | {key: values[0] for key, values in tried.items()})
    return Level(first, updates, settings, tried)


def _is_tuple(value: list[Any], hint: Any) -> bool:
    """Whether a list is one value of a setting with this hint."""
    return any(get_origin(kind) is tuple and fits(value, kind) for kind in alternatives(hint))


def _page(path: Path, grid: Grid, records: Records) -> str:
    about = versions()
    lines = [f"# {path.stem}", ""]
    lines += [f"- command: `palaestra study {path}`", f"- machine: {about['machine']}"]
    lines += [f"- commit: {', '.join(sorted({record.commit or 'unknown' for record in records}))}"]
    lines += [f"- seeds: {grid.seeds}; intervals are 95% bootstrap intervals over them, differences are paired by seed"]
    for heading, rows in grid.tables(records).items():
        lines += ["", f"## {heading}", "", *table(rows)]
    return "\n".join(lines) + "\n"


def _tidy(grid: Grid, records: Records) -> str:
    """Every number of every run, a line each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "seed", "algorithm", "data", "reward", "prompts", "counts", "measure", "value"])
    cells = {label: (cell, label == grid.chosen(records, cell)) for cell in grid.cells() for label in grid.labels(cell)}
    for record in sorted(records, key=lambda record: (record.arm, record.seed)):
        cell, counts = cells.get(record.arm, (None, True))
        factors = [cell.algorithm, cell.data, cell.reward, cell.prompts] if cell else [""] * 4
        for name, value in _told(record):
            writer.writerow([record.arm, record.seed, *factors, int(counts), name, repr(value)])
    return text.getvalue()


def _told(record: Any) -> Iterator[tuple[str, float]]:
    if record.curve:
        yield "last evaluation", record.final
    yield from record.measures.items()
