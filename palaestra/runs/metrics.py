"""Metrics: a plain table on disk, mirrored to TensorBoard and, by flag, to Weights & Biases.

`metrics.jsonl` holds nothing but what training computed, so that it is byte-equal between an interrupted run and an
uninterrupted one; wall-clock times are in `timing.jsonl`.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from palaestra.core import files
from palaestra.core.errors import EXPLODED, BadCheckpoint, Diverged, PalaestraError
from palaestra.runs.folder import read_record


class Meter:
    """Collects what `step` returns, as tensors; averages and checks it when it is time to log."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        for name, value in metrics.items():
            self.values.setdefault(name, []).append(value)

    def check(self) -> dict[str, Tensor]:
        """All values since the last flush, by name; raises `Diverged` naming the quantity that went wrong first."""
        table = {name: torch.stack(list(values)).float() for name, values in self.values.items()}
        first_bad: tuple[int, str, float] | None = None
        for name, column in table.items():
            bad = ~(torch.isfinite(column) & (column.abs() < EXPLODED))
            if bool(bad.any()):
                row = int(bad.nonzero()[0])
                age = len(column) - row  # columns may have started at different steps but end together
                if first_bad is None or age > first_bad[0]:
                    first_bad = (age, name, float(column[row]))
        if first_bad is not None:
            age, name, value = first_bad
            when = "" if age == 1 else f" {age - 1} steps before the last"
            raise Diverged(f"{name} became {value:g}{when}")
        return table

    def earliest(self, error: Diverged) -> Diverged:
        """What went wrong first: a quantity measured before the present `error`, if there is one."""
        try:
            self.check()
        except Diverged as earlier:
            return earlier
        return error

    def flush(self) -> dict[str, float]:
        """The means since the last flush, after `check`."""
        table = self.check()
        self.values.clear()
        return {name: float(column.double().mean()) for name, column in table.items()}

    def state_dict(self) -> dict[str, Tensor]:
        return {name: torch.stack(values) for name, values in self.values.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.values = {name: list(column.unbind(0)) for name, column in state.items()}


class Table:
    """An append-only file of JSON rows that can be cut back to where a checkpoint saw it."""

    def __init__(self, path: Path):
        self.path = path
        path.touch()

    def append(self, row: Mapping[str, Any]) -> None:
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise files.disk_error(error, self.path) from error

    def position(self) -> int:
        """The bytes written so far, which by then are on the disk: a checkpoint will count on them."""
        with open(self.path, "a") as file:
            os.fsync(file.fileno())
            return file.tell()

    def cut(self, position: int) -> None:
        """Forget all rows after `position` bytes."""
        if self.position() < position:
            raise BadCheckpoint(f"{self.path} is shorter than its checkpoint says; it was altered or is of another run")
        os.truncate(self.path, position)

    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file; a torn last line (a run that is still writing) is left out."""
    rows = []
    for line in files.read_bytes(path).decode(errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class TensorBoard:
    """Mirrors rows to TensorBoard event files, if TensorBoard is installed."""

    def __init__(self, folder: Path, from_clock: int):
        self.folder = folder
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.writer = None
            return
        self.writer = SummaryWriter(str(folder), purge_step=from_clock or None)  # type: ignore[no-untyped-call]

    def write(self, clock: int, row: Mapping[str, float]) -> None:
        if self.writer is not None:
            for name, value in row.items():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    self._do(self.writer.add_scalar, name, value, clock)

    def close(self) -> None:
        if self.writer is not None:
            with suppress(PalaestraError):  # every row is in metrics.jsonl already
                self._do(self.writer.close)

    def _do(self, act: Callable[..., Any], *values: Any) -> None:
        try:
            act(*values)
        except OSError as error:  # its writing thread met a full disk
            raise files.disk_error(error, self.folder) from error


class WandB:
    """Mirrors rows to Weights & Biases; asked for by flag only. Its files are in the run's folder.

    Whatever happens to W&B once it has begun, training goes on, since every row is in `metrics.jsonl`. A run that is resumed
    goes on under its id, from the rows that W&B surely has: it holds some back, which a kill takes with it.
    """

    def __init__(self, name: str, config: Mapping[str, Any], folder: Path):
        try:
            from wandb import init  # by name: an empty folder called wandb is a package too
            from wandb.errors import AuthenticationError, UsageError
        except ImportError:
            raise PalaestraError("--wandb needs the wandb package: pip install 'palaestra[wandb]'") from None
        self.folder, self.note = folder, folder / "wandb" / "palaestra.json"
        before = files.read_json(self.note) if self.note.exists() else {}
        self.sent, self.rows = before.get("rows", 0), 0
        begin = partial(
            init,
            project=os.environ.get("WANDB_PROJECT", "palaestra"),
            name=name,
            config=dict(config),
            dir=str(folder.resolve()),
            id=before.get("id"),
            resume="allow",
            reinit="create_new",  # a run that the caller has open is not ours to write to, nor to end
        )
        self.run: Any = None
        try:
            self.run = begin()
        except (AuthenticationError, UsageError) as error:
            raise PalaestraError(
                f"--wandb: {error} WANDB_MODE=offline logs to the run's folder, without an account"
            ) from None
        except Exception as error:
            self._warn(f"cannot be reached ({error}); rows go to {folder / 'wandb'}, and wandb sync sends them")
            self.run = self._do(begin, mode="offline")
        self._take_note()
        for time, row in zip(read_rows(folder / "timing.jsonl"), read_rows(folder / "metrics.jsonl")):
            self.write(time["clock"], {name: row[name] for name in row if name not in ("steps", "updates")})

    def write(self, clock: int, row: Mapping[str, float]) -> None:
        self.rows += 1
        if self.run is not None and self.rows > self.sent and clock >= self.run.starting_step:
            self._do(self.run.log, dict(row), step=clock)

    def close(self) -> None:
        if self.run is not None:
            finished = read_record(self.folder).get("status") == "finished"
            self._do(self.run.finish, exit_code=0 if finished else 1)
            self.sent = max(self.sent, self.rows)
            with suppress(PalaestraError):  # without it the next start sends some rows again
                self._take_note()

    def _take_note(self) -> None:
        if self.run is not None:
            files.write_text(self.note, json.dumps({"id": self.run.id, "rows": self.sent}))

    def _do(self, act: Callable[..., Any], *values: Any, **options: Any) -> Any:
        try:
            return act(*values, **options)
        except Exception as error:
            self._warn(f"failed ({error}); training goes on without it, and all rows are in metrics.jsonl")
            self.run = None

    def _warn(self, what: str) -> None:
        warnings.warn(f"Weights & Biases {' '.join(what.split())}", stacklevel=2)
