"""Where a divergence began: the exact repetition of a run finds the step, since looking after every step would slow every run."""

from __future__ import annotations

from torch import nn

from palaestra.core.errors import Diverged
from palaestra.core.method import Method
from palaestra.core.policy import parameters_finite
from palaestra.runs.metrics import Meter


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
