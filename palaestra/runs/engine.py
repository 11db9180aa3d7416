"""How a run is driven."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from palaestra.core.devices import AUTO
from palaestra.core.errors import unknown
from palaestra.core.method import Budget
from palaestra.core.precision import Precision
from palaestra.nets.gradient import compiler

LONG = 100_000
"""A budget that repays the quarter of a minute that compiling takes."""


@dataclass
class Engine:
    """How a run is driven; none of this changes what is learnt, except `compile`, `precision` and `device` by rounding,
    `generation` by other random numbers, and `checkpoint_every` on environments whose state cannot be restored (they start fresh
    episodes there)."""

    log_every: int | None = None
    """Steps between rows of metrics; by default 200 rows a run."""
    evaluate_every: int | None = None
    """Steps between evaluations; by default 20 a run; 0 evaluates at the end only."""
    evaluate_episodes: int | None = None
    """Episodes per evaluation, with the greedy policy; by default 10, or prompts as many as the task of text says."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; by default 20 a run; 0 saves at the end only."""
    keep_best: bool = False
    """Also keep the policy of the evaluation with the highest mean return, the first of several, in the folder `best`; in text
    that of sampled answers: where evaluations take the likeliest, each is followed by one that samples (`evaluation/sampled`)."""
    keep_answers: bool = False
    """Also keep all answers that a language method has judged, in `rounds.jsonl`, as rows that another run can learn from."""
    threads: int | None = None
    """Processor threads; by default chosen by the size of the work, and fewer while other processes need the cores."""
    compile: bool | None = None
    """Compile losses and their gradients, which rounds differently; by default from a budget of 100,000 on, where there is a
    C++ compiler."""
    precision: Precision = "highest"
    """Of the factors of matrix products: medium rounds them to bfloat16, which processors with AMX multiply several times as
    fast, and high to TensorFloat-32, where a GPU has it. With bfloat16 language models' passes are in it, their weights not."""
    device: str = AUTO
    """Where language models are: cpu, cuda, cuda:1; by default on a GPU where there is one. All else is with the processor."""
    generation: str = "own"
    """What gives a language model's answers: own, vllm in this process, or a server's vllm:http://HOST:PORT."""
    tensorboard: bool = True
    """Also write TensorBoard event files."""
    wandb: bool = False
    """Also log to Weights & Biases."""
    video: bool = False
    """Film one episode at every evaluation."""
    quiet: bool = False
    """No progress line."""

    def settled(self, budget: Budget) -> Engine:
        """The engine of a run, for which it is decided whether losses are compiled."""
        repaid = max(budget.steps or 0, budget.updates or 0) >= LONG
        return dataclasses.replace(self, compile=repaid and compiler() is not None) if self.compile is None else self

    def intervals(self, total: int) -> tuple[int, int, int]:
        """How often a run of so many steps logs, evaluates and saves; 0 is at its end alone."""
        usual = (self.log_every, 200), (self.evaluate_every, 20), (self.checkpoint_every, 20)
        log, evaluate, save = (max(1, total // times) if every is None else every for every, times in usual)
        return log, evaluate, save


def make_engine(options: Mapping[str, Any]) -> Engine:
    """The engine with some options changed; an unknown one is refused, naming the nearest."""
    known = [f.name for f in dataclasses.fields(Engine)]
    for name in options:
        if name not in known:
            raise unknown("option", name, known)
    return Engine(**options)
