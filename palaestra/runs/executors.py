"""Where many runs are trained: in processes of this machine, one thread each, or as tasks of a Ray cluster.

Processes are forked, so whatever the caller holds (a class of a notebook, an environment made by a closure, a script
without a main guard) is simply there, and a worker costs milliseconds and shares the memory of what is imported. One thread
each is what makes the fork safe after the caller has used several, and what makes n runs on n cores faster than one
after the other; results do not depend on how many run side by side.

A worker that dies loses nothing: its run is started again and goes on from its newest checkpoint.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import multiprocessing
import os
import signal
import sys
import traceback
from collections import deque
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch

from palaestra.core.errors import PalaestraError, require
from palaestra.report.text import number
from palaestra.runs import starts, threads
from palaestra.runs.progress import Progress
from palaestra.runs.run import Run

TRIES = 4
"""How often a run whose worker is killed is started in all."""
POLL_SECONDS = 0.5
INTERRUPTED = "interrupted"


def train_all(
    runs: list[Run], workers: int | None = None, ray: str | None = None, quiet: bool = False
) -> dict[Path, str]:
    """Train every run to the end of its budget, resuming what was begun; a run that fails does not sink the others.

    `workers` processes at a time (by default one per core), or tasks of the Ray cluster at `ray` ("local" starts one,
    "auto" joins the one of this machine). Returns why each run that failed did, one line by its folder.
    """
    require(workers is None or workers >= 1, f"workers must be at least 1, got {workers}")
    board = Board(runs, quiet)
    try:
        if ray is not None:
            from palaestra.runs.cluster import train_on_ray

            train_on_ray(runs, ray, board)
        elif len(runs) == 1 or not _may_fork(board):
            _train_here(runs, board)
        else:
            _train_in_processes(runs, min(len(runs), workers or threads.available()), board)
    finally:
        board.close()
    return {run.folder: board.failures[run.folder] for run in runs if run.folder in board.failures}


class Board:
    """What is known of the runs under way: one combined line of progress, in which the starts that they name count too, a line
    for each that ends, and the failures."""

    def __init__(self, runs: list[Run], quiet: bool = False):
        self.runs, self.quiet = runs, quiet
        self.ended: set[Path] = set()
        self.failures: dict[Path, str] = {}
        self.names = _names(runs)
        unit = "steps" if runs and runs[0].budget.steps else "updates"
        self.starts = starts.folders(runs) if unit == "updates" else {}
        total = sum(_goal(run) for run in runs) + sum(self.starts.values())
        self.progress = Progress("", max(1, total), unit, self._done())

    def show(self, force: bool = False) -> None:
        if not self.quiet:
            self.progress.label = f"{len(self.ended)}/{len(self.runs)} runs"
            self.progress.update(self._done(), {}, force)

    def end(self, run: Run, error: str | None) -> None:
        """Note that a run has finished, or failed with `error`."""
        self.ended.add(run.folder)
        if error is not None:
            self.failures[run.folder] = error
            self.say(f"{self.names[run.folder]} failed: {error}")
        else:
            last = [row["evaluation/return"] for row in run.metrics if "evaluation/return" in row][-1:]
            outcome = f", evaluation {number(last[0])}" if last else ""
            self.say(f"{self.names[run.folder]} finished in {run.record['seconds']:.0f} s{outcome}")

    def say(self, sentence: str) -> None:
        """A line of its own, above the live one."""
        if not self.quiet:
            self.progress.stream.write(f"\r\x1b[2K{sentence}\n" if self.progress.live else f"{sentence}\n")
            self.show(force=self.progress.live)

    def close(self) -> None:
        if not self.quiet:
            self.progress.close()

    def _done(self) -> int:
        begun, finished = sum(_clock(folder) for folder in self.starts), self.ended - self.failures.keys()
        return begun + sum(_goal(run) if run.folder in finished else _clock(run.folder) for run in self.runs)


def _names(runs: list[Run]) -> dict[Path, str]:
    """What to call each run: by its method's name alone, unless the runs include variants of it."""
    variants: dict[str, set[str]] = {}
    for run in runs:
        variants.setdefault(run.title, set()).add(run.config.label)
    return {
        run.folder: run.title
        if len(variants[run.title]) == 1
        else f"{run.config.label} {run.task.name} seed {run.seed}"
        for run in runs
    }


def _goal(run: Run) -> int:
    return run.budget.steps or run.budget.updates or 1


def _clock(folder: Path) -> int:
    """How far the run in `folder` has come, by the last whole row it logged; read from outside, whoever trains it."""
    try:
        with open(folder / "timing.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 500))
            rows = file.read().split(b"\n")
        return int(json.loads(rows[-2])["clock"])
    except (OSError, IndexError, ValueError, KeyError):
        return 0


def attempt(run: Run) -> str | None:
    """Train `run` from wherever it stands; None, or why it failed in one line. The traceback of an error that nobody foresaw
    goes to stderr."""
    try:
        run.train(resume=True)
    except KeyboardInterrupt:
        return INTERRUPTED
    except PalaestraError as error:
        return " ".join(str(error).split())
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: " + " ".join(str(error).split())
    return None


def for_worker(run: Run) -> Run:
    """`run` as a worker trains it: silent, on one thread unless the user asked for more."""
    run.engine = dataclasses.replace(run.engine, quiet=True, threads=run.engine.threads or 1)
    return run


def _train_here(runs: list[Run], board: Board) -> None:
    """In this process, one after the other, with the usual threads and progress."""
    board.quiet, quiet = True, board.quiet
    for run in runs:
        run.engine = dataclasses.replace(run.engine, quiet=quiet)
        error = attempt(run)
        if error == INTERRUPTED:
            raise KeyboardInterrupt
        board.end(run, error)


def _may_fork(board: Board) -> bool:
    if not hasattr(os, "fork"):
        board.say("this system cannot fork processes: the runs are trained one after the other in this one")
        return False
    if torch.cuda.is_initialized():
        board.say("CUDA is in use in this process and cannot be forked: the runs are trained one after the other in it")
        return False
    return True


def _train_in_processes(runs: list[Run], workers: int, board: Board) -> None:
    waiting = deque((for_worker(run), 1) for run in runs)
    active: list[Worker] = []
    try:
        while waiting or active:
            while waiting and len(active) < workers:
                active.append(Worker(*waiting.popleft()))
            connection.wait([worker.process.sentinel for worker in active], POLL_SECONDS)
            for worker in [w for w in active if not w.process.is_alive()]:
                active.remove(worker)
                outcome = worker.outcome()
                if outcome.killed and worker.tries < TRIES:
                    board.say(
                        f"{board.names[worker.run.folder]}: {outcome.error}; starting it again from its last checkpoint"
                    )
                    waiting.append((worker.run, worker.tries + 1))
                else:
                    board.end(worker.run, outcome.error)
            board.show()
    except BaseException as error:
        _stop(active, patiently=isinstance(error, KeyboardInterrupt))
        raise


def _stop(active: list[Worker], patiently: bool) -> None:
    """Let every worker save and end; a second Ctrl-C ends them at once."""
    for worker in active:
        worker.process.terminate()
    try:
        for worker in active:
            worker.process.join(None if patiently else 10)
    except KeyboardInterrupt:
        pass
    for worker in active:
        worker.process.kill()
        worker.process.join()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a worker ended: well, with an error of its run's own, or killed from outside."""

    error: str | None
    killed: bool


class Worker:
    """A process that trains one run. What it prints goes to `output.log` in the run's folder."""

    def __init__(self, run: Run, tries: int):
        self.run, self.tries = run, tries
        context = multiprocessing.get_context("fork")
        self.reader, writer = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(run, writer, os.getpid()))
        # A terminal sends Ctrl-C to the whole group. Only the parent acts on it: it sends one SIGTERM, upon which a run
        # saves. Blocked before the fork, because libraries start threads of their own in the child.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        writer.close()

    def outcome(self) -> Outcome:
        """What the process that has ended said last, or how it was killed."""
        self.process.join()
        code = self.process.exitcode
        try:
            said: str = self.reader.recv_bytes().decode()
        except EOFError:
            reason = (
                f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
            )
            memory = " (out of memory?)" if code == -signal.SIGKILL else ""
            return Outcome(f"its worker {reason}{memory}; see {self.run.folder / 'output.log'}", True)
        finally:
            self.reader.close()
        return Outcome(said or None, said == INTERRUPTED)


def _work(run: Run, writer: Any, parent: int) -> None:
    _end_with(parent)
    torch.set_num_threads(1)
    _print_to(run.folder / "output.log")
    writer.send_bytes((attempt(run) or "").encode())


def _end_with(parent: int) -> None:
    """Ask the kernel for a SIGTERM should the parent die, so that no orphan keeps a folder locked."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
        if os.getppid() != parent:
            raise SystemExit


def _print_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    sys.stdout, sys.stderr = (open(fd, "w", buffering=1, closefd=False) for fd in (1, 2))  # noqa: SIM115
