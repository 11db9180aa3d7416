"""The engine: drives any method through its budget, and keeps everything it did in one folder."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml

from palaestra.core import files
from palaestra.core.devices import AUTO, placing
from palaestra.core.errors import BadCheckpoint, BadSetting, Diverged, PalaestraError, Unscored, require
from palaestra.core.method import Budget, Counters, Method
from palaestra.core.policy import Policy, load_policy, parameters_finite
from palaestra.core.precision import multiplying
from palaestra.core.seeding import seed_for
from palaestra.core.task import Evaluation, Task, as_task
from palaestra.core.world import joined, world
from palaestra.language.judges.notes import TrainerState, asked_by
from palaestra.language.records import recording
from palaestra.nets.gradient import compiling
from palaestra.nets.split import gathered, whole
from palaestra.runs import checkpoint, threads
from palaestra.runs.divergence import first_broken_step
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
from palaestra.runs.interrupt import Flag, interruptible
from palaestra.runs.log import Log, write_tallies
from palaestra.runs.metrics import Meter, TensorBoard, WandB, read_rows
from palaestra.runs.origin import command, versions
from palaestra.runs.progress import Progress
from palaestra.runs.starts import ready
from palaestra.runs.trust import seal
from palaestra.runs.watch import Watch
from palaestra.version import __version__

BEST = "best"
"""Where a run keeps the policy that its evaluations found best."""
EPISODES = 10
"""Episodes per evaluation, unless the task says otherwise."""


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
        made = not self.folder.exists()
        if not made and not resume and not overwrite and any(p.name != LOCK for p in self.folder.iterdir()):
            state = "is finished" if self.finished else "was started before; add --resume to go on"
            raise BadSetting(
                f"{self.folder} {state}; add --overwrite to start again, or choose another folder with --out"
            )
        self._ready = ready(self.config, self.task, self.seed, self.engine)
        make_folder(self.folder)
        count = self.engine.threads or threads.choose(self._ready)
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
                    self._drive(self._newest() if resume else None)
                    return
                except Diverged as error:
                    noticed = str(error)  # without its traceback, which keeps the whole state in memory
            raise self._traced(noticed)

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

    @property
    def evaluated_on(self) -> Task:
        """The task with answers no longer than those that the method learns from."""
        limit = self.config.config.get("max_tokens")
        return self.task if limit is None else self.task.within(limit)  # type: ignore[attr-defined, no-any-return]

    # The loop.

    def _drive(self, newest: Path | None, steps: float = math.inf) -> None:
        """Train from a checkpoint, or from the start, to the end of the budget, or for some steps of the method."""
        unit, total = ("steps", self.budget.steps) if self.budget.steps else ("updates", self.budget.updates or 1)
        progress, meter = Progress(self.title, total, unit), Meter()
        method = self._begin(newest, meter, progress)
        try:
            with interruptible() as interrupted, self._asking(progress):
                self._loop(method, meter, progress, interrupted, steps)
            if self.budget.spent(method.counters) >= 1:
                self._write_record("finished")
        except Diverged as last:
            error = meter.earliest(last)
            self._write_record("diverged", str(error))
            raise error from None
        except KeyboardInterrupt:
            self._write_record("interrupted")
            if not self.engine.quiet:
                progress.close()
                print(
                    f"stopped at {self._clock(method)}; go on with: palaestra train --resume {shlex.quote(str(self.folder))}"
                )
            raise
        except BaseException as error:
            with suppress(PalaestraError):  # the disk is full or gone: the error under way says so already
                self._write_record("failed", str(error))
            raise
        finally:
            if not self.engine.quiet:
                progress.close()
            self._log.close()

    def _begin(self, newest: Path | None, meter: Meter, progress: Progress) -> Method:
        """The method, ready to go on from a checkpoint, or to start."""
        self._log, seconds = Log(self.folder, self.engine.keep_answers), 0.0
        self._best: float | None = None
        self._owes = False  # an evaluation
        if newest is None:
            self._log.cut()
        with self._asking(progress):  # some methods have answers judged before the first step
            method = self.method = self._bind()
        if newest is not None:
            seconds = self._restore(newest, method, meter)
        if world().size > 1:
            method.spread()
        if self.engine.tensorboard:
            self._log.sinks.append(TensorBoard(self.folder / "tensorboard", self._clock(method)))
        if self.engine.wandb:
            self._log.sinks.append(WandB(self.title, yaml.safe_load(self.config_text()), self.folder))
        self._log.go_on(seconds)
        self._write_record("running")
        progress.begin(self._clock(method))
        return method

    def _loop(self, method: Method, meter: Meter, progress: Progress, interrupted: Flag, steps: float) -> None:
        """Step to the end of the budget, or so many times, and log, evaluate and save in between."""
        engine, watch, governor = self.engine, Watch(), threads.Governor(torch.get_num_threads())
        log_every, evaluate_every, checkpoint_every = engine.intervals(progress.total)
        clock, latest = self._clock(method), dict[str, float]()
        if self._owes:
            latest |= self._evaluate_or_save(clock, method, meter)
            self._save(clock, method, meter)
        while self.budget.spent(method.counters) < 1 and steps > 0:
            before, collected = clock, method.counters.steps
            steps -= 1
            metrics = method.step()
            meter.add(method.reported() | metrics)
            clock = self._clock(method)
            require(
                self.budget.updates is None or method.counters.updates > 0 or method.counters.steps > collected,
                f"{method.name}.step() neither collected nor learnt",
            )
            over = self.budget.spent(method.counters) >= 1
            stop = world().total(int(bool(interrupted))) > 0 or steps == 0
            if _due(before, clock, log_every) or over:
                row = self._write(clock, meter.flush() | method.measures)
                latest |= row
                for advice in [] if engine.quiet else watch.look(row):
                    progress.say(f"step {clock}: {advice}")
            if _due(before, clock, evaluate_every) or over:
                latest |= self._evaluate_or_save(clock, method, meter)
            if _due(before, clock, checkpoint_every) or over or stop:
                self._save(clock, method, meter)
            if not engine.quiet:
                progress.update(clock, latest, force=over)
            if engine.threads is None and method.any_threads:
                governor.adapt()
            if stop and steps > 0:
                raise KeyboardInterrupt

    def _traced(self, noticed: str) -> Diverged:
        """The error for a divergence that was noticed.

        The steps since the newest checkpoint are repeated, which is exact, to find the one that broke something. The state
        before it is saved, so that its weights are kept and resuming repeats that one step.
        """
        assert self.method is not None
        what, counters, self.method = f"{self.config.name} on {self.task.name}", self.method.counters, None
        newest = self._newest()
        since = int(newest.name) if newest is not None else 0
        if not self.engine.quiet:
            print(f"{noticed}; repeating the steps since {since} to find where it began", file=sys.stderr, flush=True)
        method = self._bind()
        if newest is not None:
            method.load_state_dict(world().alone(partial(checkpoint.load, newest))[0]["method"])
        if world().size > 1:
            method.spread()
        found = first_broken_step(method, counters.steps, counters.updates)
        del method
        if found is None:
            kept = f"the weights of step {since} are in {self.folder / 'policy'}" if since else "nothing was saved yet"
            return Diverged(f"{what}: {noticed}; training stopped, and repeating it did not show that again; {kept}")
        good, error = found
        self._drive(newest, good)
        self._write_record("diverged", str(error))
        clock = self._clock(self.method)
        if clock == 0:
            return Diverged(f"{what}, in its first step: {error}")
        return Diverged(
            f"{what}, in the step after {clock}: {error}; training stopped before it, the weights are in "
            f"{self.folder / 'policy'}, and palaestra train --resume {shlex.quote(str(self.folder))} repeats that step"
        )

    @contextmanager
    def _asking(self, progress: Progress) -> Iterator[None]:
        """Where judged answers go, who is told of judges that fail, and how far judges are told that training is."""
        tell = warnings.warn if self.engine.quiet else progress.say
        kept = self._log.rounds if self.engine.keep_answers else None
        with recording(kept.append) if kept is not None else nullcontext(), asked_by(tell, self._trainer_state):
            yield

    def _trainer_state(self) -> TrainerState:
        done = 0 if self.method is None else self.method.counters.updates
        return TrainerState(done, self.budget.updates or 0)

    def _bind(self) -> Method:
        method = self._ready.bind(self.task, self.seed, self.budget)
        if self.engine.generation != "own":
            method.policy().generate_with(self.engine.generation)
        return method

    def _newest(self) -> Path | None:
        return world().alone(lambda: checkpoint.newest(self.folder / "checkpoints"))

    def _clock(self, method: Method) -> int:
        return method.counters.steps if self.budget.steps is not None else method.counters.updates

    def _write(self, clock: int, row: dict[str, float]) -> dict[str, float]:
        assert self.method is not None
        counters = self.method.counters
        if row:
            self._log.write(clock, {"steps": counters.steps, "updates": counters.updates}, row)
        return row

    def _evaluate_or_save(self, clock: int, method: Method, meter: Meter) -> dict[str, float]:
        """Evaluate; where that fails, save what has been trained, so that a run which is resumed begins with the evaluation."""
        try:
            return self._evaluate(clock, method)
        except Diverged:
            raise
        except Exception:
            self._save(clock, method, meter, owes=True)
            raise

    def _evaluate(self, clock: int, method: Method) -> dict[str, float]:
        """Evaluate, and write down what was found. An evaluation that the judge cannot score is left out, but not the last."""
        # A generator of data does not act, and logs may come without an environment.
        if not method.evaluates_on(self.task):
            return {}
        video = self.folder / "videos" / f"{clock:012d}.gif" if self.engine.video else None
        policy = method.policy()
        policy.eval()
        episodes = self.engine.evaluate_episodes or getattr(self.task, "evaluation_episodes", EPISODES)
        with whole(policy):
            seed = seed_for(self.seed, "evaluate", clock)
            try:
                outcome = world().alone(lambda: self.evaluated_on.evaluate(policy, episodes, seed, video))
            except Unscored:
                if self.budget.spent(method.counters) >= 1:
                    raise
                return self._write(clock, {"evaluation/unscored": 1.0})
            finally:
                policy.train()
        method.counters.evaluation_steps += outcome.steps
        self._log.note(clock, outcome.examples)
        row = outcome.row()
        if self.engine.keep_best and (self._best is None or outcome.mean > self._best):
            self._best = outcome.mean
            policy.save(self.folder / BEST)
        score = self.task.score(outcome.mean) if hasattr(self.task, "score") else None
        if score is not None:
            row["evaluation/score"] = score
        return self._write(clock, row)

    def _save(self, clock: int, method: Method, meter: Meter, owes: bool = False) -> None:
        """Write a checkpoint, of a run that `owes` an evaluation or not."""
        meter.check()
        broken = parameters_finite(method.policy())
        if broken is not None:
            raise Diverged(f"the policy's parameter {broken} is no longer finite")
        for part in vars(method).values():
            if hasattr(part, "at_boundary"):
                part.at_boundary()
        method.policy().save(self.folder / "policy")
        write_tallies(self.folder, method.tallies())
        state = {
            "method": gathered(method.state_dict()),
            "meter": meter.state_dict(),
            "table": self._log.metrics.position(),
            "best": self._best,
            "owes": owes,
        }
        # Wall-clock times go to the manifest, so that the state itself is byte-equal between equal runs.
        about = {
            "config": self.config_text(),
            "counters": method.counters.state_dict(),
            "palaestra": __version__,
            "seconds": self._log.seconds,
            "timing": self._log.timing.position(),
            "answers": self._log.answered(),
            "rounds": self._log.judged(),
        }
        world().alone(lambda: checkpoint.save(self.folder / "checkpoints", clock, state, about))
        self._write_record("running")

    def _restore(self, newest: Path, method: Method, meter: Meter) -> float:
        """Go back to a checkpoint; how many seconds training had taken by then."""
        state, about = world().alone(lambda: checkpoint.load(newest))
        try:
            method.load_state_dict(state["method"])
            meter.load_state_dict(state["meter"])
            self._best, self._owes = state.get("best"), state.get("owes", False)
            seconds = float(about["seconds"])
            later = (int(about.get(name, 0)) for name in ("answers", "rounds"))
            positions = int(state["table"]), int(about["timing"]), *later
        except PalaestraError:
            raise
        except Exception as error:
            raise BadCheckpoint(f"{newest} is of another configuration ({error!r})") from error
        if not world().rank:
            self._log.cut(*positions)
        return seconds

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

    def _write_record(self, status: str, reason: str = "") -> None:
        assert self.method is not None
        record = {
            "status": status,
            "reason": reason,
            "method": self.config.name,
            "task": self.task.name,
            "seed": self.seed,
            "counters": self.method.counters.state_dict(),
            "failures": self.method.failures,
            "seconds": round(self._log.seconds, 3),
            "threads": torch.get_num_threads(),
            "processes": world().size,
            "command": command(),
            **versions(),
        }
        files.write_text(self.folder / "run.json", json.dumps(record, indent=2))


def _due(before: int, now: int, every: int) -> bool:
    """Whether a multiple of `every` was passed; 0 is never."""
    return every > 0 and now // every > before // every
