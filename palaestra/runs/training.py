"""A run while it trains: the steps of its method, and what is logged, evaluated and saved between them."""

from __future__ import annotations

import json
import math
import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml

from palaestra.core import files
from palaestra.core.errors import BadCheckpoint, Diverged, PalaestraError, Unscored, require
from palaestra.core.method import Method
from palaestra.core.policy import Policy, parameters_finite
from palaestra.core.task import Evaluation
from palaestra.core.world import world
from palaestra.language.judges.notes import TrainerState, asked_by
from palaestra.language.records import recording
from palaestra.language.task import TextTask
from palaestra.nets.shards import gathered, whole
from palaestra.runs import checkpoint, threads
from palaestra.runs.interrupt import Flag, interruptible
from palaestra.runs.log import Log, write_tallies
from palaestra.runs.metrics import Meter, TensorBoard, WandB
from palaestra.runs.origin import command, versions
from palaestra.runs.progress import Progress
from palaestra.runs.watch import Watch
from palaestra.version import __version__

if TYPE_CHECKING:
    from palaestra.runs.run import Run

BEST = "best"
"""Where a run keeps the policy that its evaluations found best."""
SAMPLED = "sampled"
"""The measure that a policy in text is kept as the best by: the mean return of sampled answers."""
EPISODES = 10
"""Episodes per evaluation, unless the task says otherwise."""


def bound(run: Run, ready: Method) -> Method:
    """The method of a run, `ready` to be bound, at the start."""
    method = ready.bind(run.task, run.seed, run.budget)
    if run.engine.generation != "own":
        method.policy().generate_with(run.engine.generation)
    return method


def newest(run: Run) -> Path | None:
    """The newest checkpoint of a run, if it has any."""
    return world().alone(lambda: checkpoint.newest(run.folder / "checkpoints"))


class Training:
    """What a run has while it trains, and has no longer afterwards: a meter, a log, the best evaluation so far."""

    def __init__(self, run: Run, ready: Method):
        self.run, self.ready, self.engine, self.budget = run, ready, run.engine, run.budget
        unit, total = ("steps", run.budget.steps) if run.budget.steps else ("updates", run.budget.updates or 1)
        self.progress, self.meter = Progress(run.title, total, unit), Meter()
        self.log = Log(run.folder, run.engine.keep_answers)
        self.best: float | None = None
        self.owes = False
        """Whether an evaluation failed at the checkpoint that training goes on from, and is to be done first."""

    @property
    def method(self) -> Method:
        assert self.run.method is not None
        return self.run.method

    @property
    def clock(self) -> int:
        counters = self.method.counters
        return counters.steps if self.budget.steps is not None else counters.updates

    @property
    def over(self) -> bool:
        """Whether the budget is used up."""
        return self.budget.spent(self.method.counters) >= 1

    def go(self, start: Path | None, steps: float = math.inf) -> None:
        """Train from a checkpoint, or from the start, to the end of the budget, or for some steps of the method."""
        self._begin(start)
        with interruptible() as interrupted:  # until the record says how it ended
            try:
                self.write_record("running")
                with self._asking():
                    self._loop(interrupted, steps)
                if self.over:
                    self.write_record("finished")
            except Diverged as last:
                error = self.meter.earliest(last)
                self.write_record("diverged", str(error))
                raise error from None
            except KeyboardInterrupt:
                self.write_record("interrupted")
                if not self.engine.quiet:
                    self.progress.close()
                    again = f"palaestra train --resume {shlex.quote(str(self.run.folder))}"
                    print(f"stopped at {self.clock}; go on with: {again}")
                raise
            except BaseException as error:
                with suppress(PalaestraError):  # the disk is full or gone: the error under way says so already
                    self.write_record("failed", str(error))
                raise
            finally:
                if not self.engine.quiet:
                    self.progress.close()
                self.log.close()

    def write_record(self, status: str, reason: str = "") -> None:
        """Write `run.json`: how the run stands, and what of."""
        record = {
            "status": status,
            "reason": reason,
            "method": self.run.config.name,
            "task": self.run.task.name,
            "seed": self.run.seed,
            "counters": self.method.counters.state_dict(),
            "failures": self.method.failures,
            "seconds": round(self.log.seconds, 3),
            "threads": torch.get_num_threads(),
            "processes": world().size,
            "command": command(),
            **versions(),
        }
        files.write_text(self.run.folder / "run.json", json.dumps(record, indent=2))

    def _begin(self, start: Path | None) -> None:
        """Make the method, and let it and the log go on from a checkpoint, if there is one."""
        seconds = 0.0
        if start is None:
            self.log.cut()
        with self._asking():  # some methods have answers judged before the first step
            self.run.method = bound(self.run, self.ready)
        if start is not None:
            seconds = self._restore(start)
        if world().size > 1:
            self.method.shard()
        if self.engine.tensorboard:
            self.log.sinks.append(TensorBoard(self.run.folder / "tensorboard", self.clock))
        if self.engine.wandb:
            self.log.sinks.append(WandB(self.run.title, yaml.safe_load(self.run.config_text()), self.run.folder))
        self.log.go_on(seconds)
        self.progress.begin(self.clock)

    def _loop(self, interrupted: Flag, steps: float) -> None:
        """Step to the end of the budget, or so many times, and log, evaluate and save in between."""
        method, engine, watch = self.method, self.engine, Watch(self.method.config)
        governor = threads.Governor(torch.get_num_threads())
        log_every, evaluate_every, checkpoint_every = engine.intervals(self.progress.total)
        latest = dict[str, float]()
        if self.owes:
            latest |= self._evaluate_or_save()
            self._save()
        while not self.over and steps > 0:
            before, collected = self.clock, method.counters.steps
            steps -= 1
            metrics = method.step()
            self.meter.add(method.reported() | metrics)
            clock, over = self.clock, self.over
            require(
                self.budget.updates is None or method.counters.updates > 0 or method.counters.steps > collected,
                f"{method.name}.step() neither collected nor learnt",
            )
            stop = world().total(int(bool(interrupted))) > 0 or steps == 0
            if _due(before, clock, log_every) or over:
                row = self._write(self.meter.flush() | method.measures)
                latest |= row
                for advice in [] if engine.quiet else watch.look(row):
                    self.progress.say(f"step {clock}: {advice}")
            if _due(before, clock, evaluate_every) or over:
                latest |= self._evaluate_or_save()
            if _due(before, clock, checkpoint_every) or over or stop:
                self._save()
            if not engine.quiet:
                self.progress.update(clock, latest, force=over)
            if engine.threads is None and method.any_threads:
                governor.adapt()
            if stop and steps > 0:
                raise KeyboardInterrupt

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Where judged answers go, who is told of judges that fail, and how far judges are told that training is."""
        tell = warnings.warn if self.engine.quiet else self.progress.say
        kept = self.log.rounds if self.engine.keep_answers else None
        with recording(kept.append) if kept is not None else nullcontext(), asked_by(tell, self._trainer_state):
            yield

    def _trainer_state(self) -> TrainerState:
        done = 0 if self.run.method is None else self.run.method.counters.updates
        return TrainerState(done, self.budget.updates or 0)

    def _write(self, row: dict[str, float]) -> dict[str, float]:
        counters = self.method.counters
        if row:
            self.log.write(self.clock, {"steps": counters.steps, "updates": counters.updates}, row)
        return row

    def _evaluate_or_save(self) -> dict[str, float]:
        """Evaluate; where that fails, save what has been trained, so that a run which is resumed begins with the evaluation."""
        try:
            return self._evaluate()
        except Diverged:
            raise
        except Exception:
            self._save(owes=True)
            raise

    def _evaluate(self) -> dict[str, float]:
        """Evaluate, and write down what was found. An evaluation that the judge cannot score is left out, but not the last."""
        run, method, clock = self.run, self.method, self.clock
        # A generator of data does not act, and logs may come without an environment.
        if not method.evaluates_on(run.task):
            return {}
        video = run.folder / "videos" / f"{clock:012d}.gif" if self.engine.video else None
        policy = method.policy()
        policy.eval()
        episodes = self.engine.evaluate_episodes or getattr(run.task, "evaluation_episodes", EPISODES)
        with whole(policy):
            try:
                outcome = world().alone(lambda: self._looked_at(policy, episodes, video))
            except Unscored:
                if self.over:
                    raise
                return self._write({"evaluation/unscored": 1.0})
            finally:
                policy.train()
        method.counters.evaluation_steps += outcome.steps
        self.log.note(clock, outcome.examples)
        row = outcome.row()
        found = outcome.measures.get(SAMPLED, outcome.mean)
        if self.engine.keep_best and (self.best is None or found > self.best):
            self.best = found
            policy.save(run.folder / BEST)
        score = run.task.score(outcome.mean) if hasattr(run.task, "score") else None
        if score is not None:
            row["evaluation/score"] = score
        return self._write(row)

    def _looked_at(self, policy: Policy, episodes: int, video: Path | None) -> Evaluation:
        """An evaluation; where it takes the likeliest answers and the best policy is kept, with what sampled ones score, too."""
        run, task = self.run, self.run.evaluated_on
        outcome = self.method.looked_at(run.evaluate_at(self.clock, policy, episodes, video))
        answers = not hasattr(policy, "agreement")  # and does not score them
        if self.engine.keep_best and answers and isinstance(task, TextTask) and not task.sampled:
            sampled = task.sampling().evaluate(policy, episodes, outcome.seed)
            outcome.measures[SAMPLED] = sampled.mean
            self.method.counters.evaluation_steps += sampled.steps
        return outcome

    def _save(self, owes: bool = False) -> None:
        """Write a checkpoint, of a run that `owes` an evaluation or not."""
        run, method, clock = self.run, self.method, self.clock
        self.meter.check()
        broken = parameters_finite(method.policy())
        if broken is not None:
            raise Diverged(f"the policy's parameter {broken} is no longer finite")
        for part in vars(method).values():
            if hasattr(part, "at_boundary"):
                part.at_boundary()
        method.policy().save(run.folder / "policy")
        write_tallies(run.folder, method.tallies())
        state = {
            "method": gathered(method.state_dict()),
            "meter": self.meter.state_dict(),
            "table": self.log.metrics.position(),
            "best": self.best,
            "owes": owes,
        }
        # Wall-clock times go to the manifest, so that the state itself is byte-equal between equal runs.
        about = {
            "config": run.config_text(),
            "counters": method.counters.state_dict(),
            "palaestra": __version__,
            "seconds": self.log.seconds,
            "timing": self.log.timing.position(),
            "answers": self.log.answered(),
            "rounds": self.log.judged(),
        }
        world().alone(lambda: checkpoint.save(run.folder / "checkpoints", clock, state, about))
        self.write_record("running")

    def _restore(self, start: Path) -> float:
        """Go back to a checkpoint; how many seconds training had taken by then."""
        state, about = world().alone(lambda: checkpoint.load(start))
        try:
            self.method.load_state_dict(state["method"])
            self.meter.load_state_dict(state["meter"])
            self.best, self.owes = state.get("best"), state.get("owes", False)
            seconds = float(about["seconds"])
            later = (int(about.get(name, 0)) for name in ("answers", "rounds"))
            positions = int(state["table"]), int(about["timing"]), *later
        except PalaestraError:
            raise
        except Exception as error:
            raise BadCheckpoint(f"{start} is of another configuration ({error!r})") from error
        if not world().rank:
            self.log.cut(*positions)
        return seconds


def _due(before: int, now: int, every: int) -> bool:
    """Whether a multiple of `every` was passed; 0 is never."""
    return every > 0 and now // every > before // every
