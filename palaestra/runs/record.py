"""Finished (or still running) runs read back from their folders: what comparisons and reports are made from."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from palaestra.core.errors import BadCheckpoint, PalaestraError
from palaestra.runs.folder import load_config, read_record

RETURN = "evaluation/return"
NORMALISED = "evaluation/score"
"""The same on the scale on which a dataset's references are 0 and 100."""
FINAL_SHARE = 0.1
"""The share of the budget, at its end, whose evaluations make up the score."""
VERSIONS = ("palaestra", "commit", "python", "torch", "numpy", "machine")


@dataclass
class RunRecord:
    """One run as its folder tells it."""

    folder: Path
    method: str
    label: str
    """What the run was called (its method, unless said otherwise), and the settings that tell it from another variant
    under the same name, where there is one."""
    host: str
    """The label but for the sampler that draws from a dataset."""
    task: str
    seed: int
    status: str
    reason: str
    """Why the run did not finish, if it did not."""
    settings: dict[str, Any]
    task_spec: dict[str, Any]
    """The task as `Task.describe` gave it."""
    budget: dict[str, int | None]
    counters: dict[str, int]
    seconds: float
    """Wall-clock time of training with its evaluations."""
    threads: int
    versions: dict[str, Any]
    """palaestra, commit, python, torch, numpy and machine."""
    command: str
    rows: list[dict[str, Any]] = field(repr=False)
    """`metrics.jsonl`."""
    times: list[float] = field(repr=False)
    """Seconds since the start, for each of `rows`."""

    @property
    def unit(self) -> str:
        """What the budget counts: `steps` of the environment or `updates`."""
        return "steps" if self.budget.get("steps") else "updates"

    @cached_property
    def metrics(self) -> list[str]:
        """The names of the logged quantities, evaluation first."""
        names = {name for row in self.rows for name, value in row.items() if _is_number(value)} - {"steps", "updates"}
        return sorted(names, key=lambda name: (not name.startswith("evaluation/"), name))

    def curve(self, name: str, against: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The values `(T,)` of a metric and where they were logged, `(T,)`: in the budget's unit, or in `against`
        (`steps`, `updates` or `seconds`). Empty for a metric that was never logged."""
        against = against or self.unit
        where = self.times if against == "seconds" else [row.get(against, 0) for row in self.rows]
        points = [(x, row[name]) for x, row in zip(where, self.rows) if _is_number(row.get(name))]
        xs, ys = zip(*points) if points else ((), ())
        return np.asarray(xs, dtype=np.float64), np.asarray(ys, dtype=np.float64)

    @cached_property
    def score(self) -> float:
        """Mean evaluation return over the last tenth of the budget, at least the last evaluation; NaN before the first."""
        return self._late(RETURN)

    @cached_property
    def normalised(self) -> float:
        """The score on the scale on which the references of the run's dataset are 0 and 100; NaN if it has none."""
        return self._late(NORMALISED)

    def _late(self, name: str) -> float:
        """The mean of a metric over the last tenth of the budget, at least its last value; NaN before the first."""
        clock, values = self.curve(name)
        if not len(values):
            return float("nan")
        total = self.budget.get(self.unit) or clock[-1]
        late = clock >= (1 - FINAL_SHARE) * total
        late[-1] = True
        return float(values[late].mean())


def load_records(paths: Iterable[str | Path] | str | Path) -> list[RunRecord]:
    """The runs in `paths`, each a run's folder or a folder with runs at any depth, in the order of their folders.

    Raises:
        PalaestraError: a path that does not exist or holds no runs, or the same training found twice.
        BadCheckpoint: a run whose files are damaged, named.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    folders = {folder.resolve(): folder for path in paths for folder in _run_folders(Path(path))}
    if not folders:
        raise PalaestraError("no run folders were given")
    records = [_read(folder) for folder in folders.values()]
    _label(records)
    _refuse_twins(records)
    return records


def _run_folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise PalaestraError(f"there is no folder {path}")
    found = []
    for here, below, names in os.walk(path):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if "run.json" in names:
            found.append(Path(here))
            below.clear()
    if not found:
        raise PalaestraError(f"{path} holds no runs (no run.json in it or below it)")
    return found


def _read(folder: Path) -> RunRecord:
    try:
        record, config = read_record(folder), load_config(folder / "config.yaml")
        rows, timing = _rows(folder / "metrics.jsonl"), _rows(folder / "timing.jsonl")
        task = dict(config["task"])
        return RunRecord(
            folder=folder,
            method=str(record["method"]),
            label=(name := str(record["method"]).rpartition(":")[2]),  # without the path of a user's file
            host=name,
            # The name of a task in text has those of its settings in it that are not the default ones.
            task=str(record["task"]) + _bracketed({} if task.get("kind") == "prompts" else task.get("kwargs") or {}),
            seed=int(record["seed"]),
            status=str(record["status"]),
            reason=str(record.get("reason") or ""),
            settings=dict(config["settings"]),
            task_spec=task,
            budget={unit: _whole(config["budget"].get(unit)) for unit in ("steps", "updates")},
            counters={str(name): int(count) for name, count in record["counters"].items()},
            seconds=float(record["seconds"]),
            threads=int(record["threads"]),
            versions={name: record.get(name) for name in VERSIONS},
            command=str(record.get("command", "")),
            rows=rows[: len(timing)],
            times=[float(row["seconds"]) for row in timing[: len(rows)]],
        )
    except KeyError as error:
        raise BadCheckpoint(f"{folder} is not a whole run: {error} is missing from its files") from None
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadCheckpoint(f"{folder} is not a whole run: {error}") from None


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file. The last line may be torn, since a run may be writing it; any other must be whole."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise BadCheckpoint(f"{path} is missing") from None
    rows = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is empty or torn
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise BadCheckpoint(f"{path}, line {number}, is damaged; move the run away or train it again")
        rows.append(row)
    return rows


def _label(records: Sequence[RunRecord]) -> None:
    """Add the settings that differ between variants of one name on one task."""
    together: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        together[record.task, record.label].append(record)
    for group in together.values():
        variants = [_variant(record) for record in group]
        names = dict.fromkeys(name for variant in variants for name in variant)
        changed = [n for n in names if any(v.get(n) != variants[0].get(n) for v in variants)]
        for record, variant in zip(group, variants):
            record.label += _bracketed({name: variant.get(name) for name in changed})
            record.host += _bracketed({name: variant.get(name) for name in changed if name != "sampler"})


def _variant(record: RunRecord) -> dict[str, Any]:
    budget = {f"budget in {unit}": size for unit, size in record.budget.items() if size is not None}
    return {"method": record.method, **record.settings, **budget}


def _refuse_twins(records: Sequence[RunRecord]) -> None:
    """A run counted twice would make every interval too narrow."""
    seen: dict[tuple[str, str, int], RunRecord] = {}
    for record in records:
        twin = seen.setdefault((record.task, record.label, record.seed), record)
        if twin is not record:
            raise PalaestraError(
                f"{twin.folder} and {record.folder} are the same training "
                f"({record.label} on {record.task}, seed {record.seed}); leave one of them out"
            )


def _bracketed(settings: dict[str, Any]) -> str:
    return f" ({', '.join(f'{name}={value}' for name, value in settings.items())})" if settings else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)
