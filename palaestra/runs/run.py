"""A run of one method on one task with one seed, and the folder that keeps everything it did."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from palaestra.core import files
from palaestra.core.devices import AUTO, placing
from palaestra.core.errors import BadCheckpoint, BadSetting, Diverged, require
from palaestra.core.method import Budget, Counters, Method
from palaestra.core.policy import Policy, load_policy
from palaestra.core.precision import multiplying
from palaestra.core.seeding import seed_for
from palaestra.core.task import Evaluation, Task, as_task
from palaestra.core.world import joined
from palaestra.nets.gradient import compiling
from palaestra.runs import threads
from palaestra.runs.divergence import traced
from palaestra.runs.engine import Engine
from palaestra.runs.folder import (
    LOCK,
    clear,
    default_folder,
    difference,
    load_config,
    lock,
    make_folder,
    plain_settings,
    read_record,
    undone_unless_begun,
)
from palaestra.runs.metrics import read_rows
from palaestra.runs.starts import ready
from palaestra.runs.training import Training, newest
from palaestra.runs.trust import seal
from palaestra.version import __version__


class Run:
    """One method on one task with one seed. `train()` works through the budget; everything is in `folder`."""

    def __init__(
        self,
        method: Method,
        task: Any,
        *,
        steps: float | None = None,
        updates: float | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
        engine: Engine | None = None,
    ):
        self.config = method
        self.task: Task = as_task(task)
        self.budget = Budget.of(steps, updates)
        require(isinstance(seed, int) and seed >= 0, f"the seed must be a whole number >= 0, got {seed!r}")
        self.seed = seed
        self.engine = (engine or Engine()).settled(self.budget)
        self.folder = Path(folder) if folder is not None else default_folder(self.task, method, seed)
        self.method: Method | None = None

    # What a user does with a run.

    def train(self, resume: bool = False, overwrite: bool = False) -> Run:
        """Train to the end of the budget; `resume` goes on from the newest checkpoint, if there is one.

        Processes that were started together by torchrun train together; the first keeps the folder.
        """
        require(
            self.engine.precision != "bfloat16" or self.config.learns_from == "prompts",
            "bfloat16 is what language models can compute in; precision medium rounds the factors of products to it",
        )
        require(
            self.engine.device in (AUTO, "cpu") or self.config.learns_from == "prompts",
            f"methods of control train on the processor, not on {self.engine.device}; leave device at auto",
        )
        device = self.engine.device if self.config.learns_from == "prompts" else "cpu"
        with joined() as group, placing(device):
            require(
                group.size == 1 or self.engine.generation == "own",
                f"several processes answer by themselves; leave generation at own, or train in one with {self.engine.generation}",
            )
            if group.rank == 0:
                self._train(resume, overwrite)
            else:
                self._follow(resume)
            if group.size > 1:
                self.method = None  # its weights are split; the policy is in the folder
                group.total(0)  # and is there once all are through
        return self

    def _follow(self, resume: bool) -> None:
        """Take part in a run whose folder another process keeps."""
        with TemporaryDirectory() as scratch:
            own = copy.copy(self)
            own.folder = Path(scratch)
            own.engine = dataclasses.replace(self.engine, quiet=True, tensorboard=False, wandb=False, video=False)
            own._train(resume, False)

    def _train(self, resume: bool, overwrite: bool) -> None:
        made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        if not made and not resume and not overwrite and any(p.name != LOCK for p in self.folder.iterdir()):
            state = "is finished" if self.finished else "was started before; add --resume to go on"
            raise BadSetting(
                f"{self.folder} {state}; add --overwrite to start again, or choose another folder with --out"
            )
        prepared = ready(self.config, self.task, self.seed, self.engine)
        make_folder(self.folder)
        count = self.engine.threads or threads.choose(prepared)
        compiled = compiling(count if self.engine.compile else None)
        with lock(self.folder), threads.using(count), multiplying(self.engine.precision), compiled:
            files.sweep(self.folder)
            if overwrite:
                clear(self.folder)
            if resume:
                self.check_same()
            with undone_unless_begun(self.folder, made):
                files.write_text(self.folder / "config.yaml", self.config_text())
                seal(self.folder, yaml.safe_load(self.config_text()))
                try:
                    Training(self, prepared).go(newest(self) if resume else None)
                    return
                except Diverged as error:
                    noticed = str(error)  # without its traceback, which keeps the whole state in memory
            raise traced(self, prepared, noticed)

    @property
    def policy(self) -> Policy:
        """The trained policy."""
        if self.method is not None:
            return self.method.policy().eval()
        return load_policy(self.folder / "policy")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`."""
        return read_rows(self.folder / "metrics.jsonl")

    @property
    def record(self) -> dict[str, Any]:
        """`run.json`: status, counters, seconds, versions, commit, command."""
        return read_record(self.folder)

    @property
    def finished(self) -> bool:
        """Whether the budget is used up; a finished run goes on when it is resumed with a larger one."""
        record = self.record
        try:
            return record.get("status") == "finished" and self.budget.spent(Counters(**record["counters"])) >= 1
        except (KeyError, TypeError) as error:
            raise BadCheckpoint(f"{self.folder / 'run.json'} does not describe a run ({error!r})") from None

    def evaluate(
        self,
        episodes: int = 10,
        seed: int | None = None,
        video: Path | None = None,
        policy: Policy | None = None,
    ) -> Evaluation:
        """Play fresh episodes with the trained policy, or with `policy`, such as it with another engine for its answers."""
        seed = seed_for(self.seed, "evaluate", -1) if seed is None else seed
        return self.evaluated_on.evaluate(self.policy if policy is None else policy, episodes, seed, video)

    def evaluate_at(self, clock: int, policy: Policy, episodes: int, video: Path | None = None) -> Evaluation:
        """Play the episodes of the evaluation at `clock`, on the way."""
        return self.evaluated_on.evaluate(policy, episodes, seed_for(self.seed, "evaluate", clock), video)

    @property
    def evaluated_on(self) -> Task:
        """The task with answers no longer than those that the method learns from."""
        limit = self.config.config.get("max_tokens")
        return self.task if limit is None else self.task.within(limit)  # type: ignore[attr-defined, no-any-return]

    # The folder.

    @property
    def title(self) -> str:
        """The run in a few words."""
        return f"{self.config.name.rpartition(':')[2]} {self.task.name} seed {self.seed}"

    def config_text(self) -> str:
        """What `config.yaml` says: everything that decides what is learnt, and how the run is driven."""
        content = {
            "palaestra": __version__,
            "method": self.config.name,
            "settings": plain_settings(self.config.config),
            "task": self.task.describe(),
            "budget": dataclasses.asdict(self.budget),
            "seed": self.seed,
            "engine": dataclasses.asdict(self.engine),
        }
        return yaml.safe_dump(content, sort_keys=False)

    def check_same(self, parts: tuple[str, ...] = ("method", "settings", "task", "seed")) -> None:
        """Raise `BadSetting` if the folder holds a run that was started with something else."""
        path = self.folder / "config.yaml"
        if not path.exists():
            return
        before, now = load_config(path), yaml.safe_load(self.config_text())
        if isinstance(before.get("settings"), dict):  # settings that are younger than the run had their defaults
            before["settings"] = plain_settings(self.config.defaults()) | self.config.as_now(before["settings"])
        for part in parts:
            if before.get(part) != now[part]:
                raise BadSetting(
                    f"{self.folder} was started with other {part}: {difference(before.get(part), now[part])}; "
                    "choose another folder with --out"
                )
