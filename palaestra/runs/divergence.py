"""Where a divergence began: the exact repetition of a run finds the step, since looking after every step would slow every run."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from palaestra.core.errors import Diverged
from palaestra.core.method import Method
from palaestra.core.policy import parameters_finite
from palaestra.core.world import world
from palaestra.runs import checkpoint
from palaestra.runs.metrics import Meter
from palaestra.runs.training import Training, bound, newest

if TYPE_CHECKING:
    from palaestra.runs.run import Run


def traced(run: Run, ready: Method, noticed: str) -> Diverged:
    """The error for a divergence that was noticed in a run.

    The steps since the newest checkpoint are repeated, which is exact, to find the one that broke something. The state
    before it is saved, so that its weights are kept and resuming repeats that one step.
    """
    assert run.method is not None
    what, counters, run.method = f"{run.config.name} on {run.task.name}", run.method.counters, None
    start = newest(run)
    since = int(start.name) if start is not None else 0
    if not run.engine.quiet:
        print(f"{noticed}; repeating the steps since {since} to find where it began", file=sys.stderr, flush=True)
    method = bound(run, ready)
    if start is not None:
        method.load_state_dict(world().alone(partial(checkpoint.load, start))[0]["method"])
    if world().size > 1:
        method.shard()
    found = first_broken_step(method, counters.steps, counters.updates)
    del method
    weights = run.folder / "policy"
    if found is None:
        kept = f"the weights of step {since} are in {weights}" if since else "nothing was saved yet"
        return Diverged(f"{what}: {noticed}; training stopped, and repeating it did not show that again; {kept}")
    good, error = found
    again = Training(run, ready)
    again.go(start, good)
    again.write_record("diverged", str(error))
    if again.clock == 0:
        return Diverged(f"{what}, in its first step: {error}")
    return Diverged(
        f"{what}, in the step after {again.clock}: {error}; training stopped before it, the weights are in {weights}, and "
        f"palaestra train --resume {shlex.quote(str(run.folder))} repeats that step"
    )


def first_broken_step(method: Method, steps: int, updates: int) -> tuple[int, Diverged] | None:
    """How many steps go well before one breaks, and what it breaks, looking at all that it logs and at every parameter.

    None if nothing has broken when the method's counters have passed `steps` and `updates`.
    """
    done = 0
    while method.counters.steps <= steps and method.counters.updates <= updates:
        try:
            meter = Meter()
            meter.add(method.step())
            meter.check()
            _check_parameters(method)
        except Diverged as error:
            return done, error
        done += 1
    return None


def _check_parameters(method: Method) -> None:
    for part, module in vars(method).items():
        broken = parameters_finite(module) if isinstance(module, nn.Module) else None
        if broken is not None:
            raise Diverged(f"the parameter {part}.{broken} is no longer finite")
