"""The same runs as tasks of a Ray cluster whose machines share the results folder."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any

from palaestra.core import registry
from palaestra.core.errors import PalaestraError
from palaestra.runs.run import Run

if TYPE_CHECKING:
    from palaestra.runs.executors import Board


def train_on_ray(runs: list[Run], address: str, board: Board) -> None:
    """Train every run as a task with one processor; Ray starts a task again if its worker or machine is lost.

    `address` "local" starts a cluster on this machine for the time being, "auto" joins the one that runs here, anything
    else is that of a cluster elsewhere.
    """
    try:
        import ray
    except ImportError:
        raise PalaestraError("--ray needs Ray: pip install 'palaestra[ray]'") from None
    from palaestra.runs.executors import POLL_SECONDS, TRIES, for_worker

    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise PalaestraError(f"no Ray cluster at '{address}': {_one_line(error)}") from None
    for name, module in sys.modules.items():
        if name.startswith(registry.USER_PREFIX):  # loaded from a file by path, which workers could not import by name
            ray.cloudpickle.register_pickle_by_value(module)
    own = [
        os.path.abspath(p) for p in sys.path if not p.startswith((sys.prefix, sys.base_prefix))
    ]  # the user's modules
    surroundings = {"env_vars": {"PYTHONPATH": os.pathsep.join(own)}}
    train = ray.remote(_train).options(num_cpus=1, max_retries=TRIES - 1, runtime_env=surroundings)
    # Workers have a current folder of their own, hence the place that relative folders start from.
    tasks: dict[Any, Run] = {train.remote(for_worker(run), os.getcwd(), sys.argv): run for run in runs}
    waiting = list(tasks)
    try:
        while waiting:
            done, waiting = ray.wait(waiting, timeout=POLL_SECONDS)
            for task in done:
                try:
                    board.end(tasks[task], ray.get(task))
                except ray.exceptions.RayError as error:
                    board.end(tasks[task], f"its worker was lost: {_one_line(error)}")
            board.show()
    except KeyboardInterrupt:
        for task in waiting:
            ray.cancel(task)  # interrupts the run, which saves
        ray.wait(waiting, num_returns=len(waiting))
        raise
    finally:
        if ours:
            ray.shutdown()


def _train(run: Run, folder: str, argv: list[str]) -> str | None:
    from palaestra.runs.executors import attempt

    os.chdir(folder)
    sys.argv = argv  # what a run notes down as its command
    return attempt(run)


def _one_line(error: BaseException) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    return " ".join(plain.split())[:300]
