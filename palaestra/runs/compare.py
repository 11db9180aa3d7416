"""Comparisons: several methods on the same tasks with the same seeds and budget."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palaestra.core.errors import PalaestraError, require
from palaestra.core.method import Method, make_method
from palaestra.core.task import as_task
from palaestra.language.kept import keeping, sweep
from palaestra.runs.engine import make_engine
from palaestra.runs.executors import train_all
from palaestra.runs.folder import default_folder
from palaestra.runs.record import RunRecord, load_records
from palaestra.runs.run import Run
from palaestra.runs.starts import told

if TYPE_CHECKING:
    from palaestra.core.task import Task

SAME = ("method", "settings", "task", "seed", "budget")


@dataclass
class Comparison:
    """The runs of a comparison, and what can be made of them."""

    records: list[RunRecord]
    failures: dict[Path, str] = field(default_factory=dict)
    """Why each run that failed did, by its folder."""

    def table(self) -> str:
        """Final scores with intervals over seeds, as text."""
        from palaestra.report.table import text_table

        return text_table(self.records)

    def report(self, path: str | Path = "report.html", title: str | None = None, command: str | None = None) -> Path:
        """Write the whole comparison as one self-contained HTML file; `command` is what would make it again."""
        from palaestra.report.page import write_report

        methods, tasks = (dict.fromkeys(getattr(r, name) for r in self.records) for name in ("host", "task"))
        title = title or f"{', '.join(methods)} on {', '.join(tasks)}"
        command = command or shlex.join(
            ["palaestra", "report", *(str(r.folder) for r in self.records), "-o", str(path)]
        )
        return write_report(self.records, Path(path), title=title, command=command)

    def __str__(self) -> str:
        return self.table()


def compare(
    methods: Sequence[Method | str] | Method | str,
    task: Any,
    *,
    seeds: int | Sequence[int] = 5,
    steps: float | None = None,
    updates: float | None = None,
    workers: int | None = None,
    ray: str | None = None,
    out: str | Path = "runs",
    **engine: Any,
) -> Comparison:
    """Train every method on every task with every seed, and return what came out.

    `methods` are instances such as `SAC(lr=1e-3)` or names; `task` is one task or a list of them; `seeds` their number
    or a list; `workers` how many runs train at a time (by default one per core, each on one thread); `ray` the address of
    a Ray cluster; the other keyword arguments are those of `Engine`.

    Each run is in `<out>/<task>/<method>/seed<k>`. Called again, it skips the runs that are finished and resumes those
    that are not. A run that fails does not sink the others; it is in `failures`.

    Raises:
        BadSetting: a setting makes no sense, or a folder holds a run with other settings or another budget.
        Unsupported: one of the methods cannot learn from one of the tasks; nothing is trained then.
        PalaestraError: every run failed.
    """
    answers = Path(out) / "answers"  # of frozen models, which methods may share
    runs = plan(methods, task, seeds, steps, updates, out, engine)
    unscored = [run.task for run in runs if run.config.evaluates and not run.config.evaluates_on(run.task)]
    for reason in dict.fromkeys(map(_unscored, unscored)):
        warnings.warn(reason, stacklevel=2)
    quiet = runs[0].engine.quiet
    waiting = [run for run in runs if not run.finished]
    if len(waiting) < len(runs) and not quiet:
        print(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished already", file=sys.stderr)
    for start in dict.fromkeys(start for run in waiting for start in told(run.config, run.task)):
        if not quiet:
            print(f"made first for each seed, unless it is there: {start}", file=sys.stderr)
    try:
        with keeping(answers):
            failures = train_all(waiting, workers, ray, quiet)
    except KeyboardInterrupt:
        if not quiet:
            print(f"stopped, and saved in {out}; the same command goes on from there", file=sys.stderr)
        raise
    if not failures:  # which are resumed
        sweep(answers)
    begun = [run.folder for run in runs if run.record]
    if not begun:
        raise PalaestraError(f"every run failed; the first: {next(iter(failures.values()))}")
    return Comparison(load_records(begun), failures)


def plan(
    methods: Sequence[Method | str] | Method | str,
    task: Any,
    seeds: int | Sequence[int],
    steps: float | None,
    updates: float | None,
    out: str | Path,
    engine: dict[str, Any],
) -> list[Run]:
    """The runs of a comparison, seed by seed, none of them started.

    Settings that make no sense, methods that a task does not fit, and folders that hold something else are refused.
    """
    chosen = [make_method(m) if isinstance(m, str) else m for m in _listed(methods)]
    tasks: list[Task] = [as_task(t) for t in _listed(task)]
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    require(bool(chosen), "a comparison needs at least one method")
    require(bool(tasks), "a comparison needs at least one task")
    require(bool(numbers), "a comparison needs at least one seed")
    for method in chosen:
        method.check()
        for t in tasks:
            method.check_task(t)
    runs = []
    for seed in numbers:
        for t in tasks:
            for method in chosen:
                folder = default_folder(t, method, seed, out)
                runs.append(
                    Run(method, t, steps=steps, updates=updates, seed=seed, folder=folder, engine=make_engine(engine))
                )
    twice = [run for i, run in enumerate(runs) if run.folder in {other.folder for other in runs[:i]}]
    require(not twice, f"{twice[0].title} is in the comparison twice" if twice else "")
    for run in runs:
        run.check_same(SAME)
    return runs


def _unscored(task: Task) -> str:
    """Why runs on a task have no scores, and what would give them some."""
    if getattr(task, "offers", "env") == "prompts":
        lacks = "a reward (--task.reward FILE:FUNCTION) and held-out prompts"
    else:
        lacks = "an environment to evaluate on (--task ID)"
    return f"the table will have no scores of runs on {task.name}: they need {lacks}"


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, (list, tuple)) else [given]
