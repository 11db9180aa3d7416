"""What several processes train together, written down for `test_together.py`; each process runs this file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import PalaestraError
from palaestra.core.method import make_method
from palaestra.core.world import joined, world
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.methods.language.language import LanguageMethod
from palaestra.methods.language.rounds import Rounds
from palaestra.methods.preference.leftover import PromptValue

QUIET: dict[str, Any] = {"quiet": True, "tensorboard": False, "evaluate_episodes": 5, "threads": 1, "log_every": 1}
ROUND = {"model": "tiny-32x2", "prompts": 7, "group": 4, "lr": 1e-3, "minibatches": 2, "micro_tokens": 40}
"""Seven prompts for two processes: neither prompts nor passes come out even."""
DRAWN = {"model": "tiny-32x2", "prompts": 7, "drawn": 3, "lr": 1e-3, "warmup": 0, "micro_tokens": 40}
FEW = NoisySort(train_rows=65)
"""One chunk of a pool, and a prompt that is one by itself."""
RUNS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "grpo": ("grpo", "bandit", ROUND),
    "lite-ppo": ("lite-ppo", "bandit", ROUND),
    "ppo-lm": ("ppo-lm", "bandit", {**ROUND, "prompts": 14, "group": 2, "centre": "batch"}),
    "recompute": ("grpo", "bandit", {**ROUND, "recompute": True}),
    "adapter": ("grpo", "bandit", {**ROUND, "adapter": 2}),
    "trpa": ("trpa", "bandit", ROUND),
    "spo-lm": ("spo-lm", FEW, ROUND),
    "sft": ("sft", "sorting", {"model": "tiny-32x2", "batch_size": 6, "micro_tokens": 40}),
    "dpo": ("dpo", FEW, DRAWN),
    "a-lol": ("a-lol", FEW, {**DRAWN, "value_prompts": 5}),
}
DIRECT = ["dpo", "a-lol"]
UPDATES = 4


def run(name: str, folder: Path, updates: int = UPDATES, **engine: Any) -> pal.Run:
    method, task, settings = RUNS[name]
    options = pal.Engine(**{**QUIET, "evaluate_every": 2, "checkpoint_every": 2, **engine})
    return pal.Run(make_method(method, settings), task, updates=updates, folder=folder / name, engine=options)


def answers_of(name: str, folder: Path) -> list[str]:
    """What was answered in a run's rounds, which it is trained on meanwhile."""
    said: list[str] = []
    answers = Rounds.answers

    def heard(self: Rounds, *args: Any, **kwargs: Any) -> Any:
        samples = answers(self, *args, **kwargs)
        said.extend(f"{sample.group} {sample.text} {sample.reward:g}" for sample in samples)
        return samples

    Rounds.answers = heard  # type: ignore[method-assign]
    try:
        run(name, folder).train()
    finally:
        Rounds.answers = answers  # type: ignore[method-assign]
    return said


def work_in(name: str, folder: Path) -> dict[str, int]:
    """How many answers this process judges in a run, and how many value heads it fits; it is trained meanwhile."""
    work = {"judged": 0, "fitted": 0}
    judged, fit = LanguageMethod.judged, PromptValue.fit

    def judges(self: LanguageMethod, samples: list[Any]) -> list[Any]:
        work["judged"] += len(samples)
        return judged(self, samples)

    def fits(self: PromptValue, *given: Any) -> None:
        work["fitted"] += 1
        fit(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanguageMethod, "judged", judges)
        patch.setattr(PromptValue, "fit", fits)
        run(name, folder).train()
    return work


def all_of_it(folder: Path) -> dict[str, Any]:
    """Every run, and what cannot be seen in their folders."""
    found: dict[str, Any] = {"answers": answers_of("grpo", folder)}
    found["work"] = {name: work_in(name, folder) for name in DIRECT}
    for name in RUNS:
        if name not in ("grpo", *DIRECT):
            run(name, folder).train()
    return found


def failing() -> None:
    raise PalaestraError(f"one of {world().size}, of rank {world().rank}")


def unexpected() -> None:
    raise ValueError("not foreseen")


def failures() -> list[str]:
    """How what one process does for all fails in this one."""
    said = []
    for act in (failing, unexpected):
        try:
            world().alone(act)
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    return said


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with joined():
        found = all_of_it(folder / "together")
        run("grpo", folder / "begun", updates=2).train()
        run("grpo", folder / "taken-up").train(resume=True)
        # Rounded, only the first process answers with the model's own passes, in the evaluation.
        run("sft", folder / "rounded", precision="bfloat16").train()
        try:
            pal.train(pal.PPO(network=(4,)), "CartPole-v1", steps=8, out=folder / "ppo", **QUIET)
        except PalaestraError as error:
            found["refused"] = str(error)
        found["failures"] = failures()
        found["once"] = world().alone(lambda: sys.argv[2])
        found["total"] = world().total(world().rank + 1)
        found["gathered"] = world().gather([world().rank])
    (folder / f"found-{sys.argv[2]}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
