"""What several seeds of the discrete offline agents cost: one after the other, against one learner that holds them all.

    python benchmarks/stacked.py

The nine agents of the claim `dataset-measures` with its small networks, or with `--paper` the paper's, on 20,000 random steps of
CartPole-v1's shape. The clock runs over updates alone, sampling included, after the first ones. Seeds one after the other take
as many times as long as one of them; that one and the stack each have the number of threads that suits them better. Writes
results/stacked.json and prints a table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from palaestra.claims.dataset_measures import agents
from palaestra.core.experience import Experience
from palaestra.core.method import Budget, Method
from palaestra.data.dataset import Dataset
from palaestra.data.task import DatasetTask
from palaestra.methods.offline.stack import Stack
from palaestra.nets.gradient import compiling
from palaestra.runs import threads

ROWS, EPISODE, OBSERVATIONS, ACTIONS = 20_000, 20, 4, 2
THREADS = (1, 2)


def task() -> DatasetTask:
    """Random steps in short episodes."""
    draw = torch.Generator().manual_seed(0)
    obs = torch.randn(ROWS, OBSERVATIONS, generator=draw)
    steps = Experience(
        obs=obs,
        action=torch.randint(ACTIONS, (ROWS,), generator=draw),
        reward=torch.ones(ROWS),
        next_obs=obs.roll(-1, 0),
        terminated=(torch.arange(1, ROWS + 1) % EPISODE == 0).float(),
        truncated=torch.zeros(ROWS),
    )
    spaces = gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATIONS,)), gymnasium.spaces.Discrete(ACTIONS)
    return DatasetTask(Dataset("random", steps, torch.arange(0, ROWS, EPISODE), *spaces))


def seconds(step: Callable[[], Any], updates: int, compiled: bool) -> float:
    """Per update, with the better number of threads."""
    best = float("inf")
    for count in THREADS:
        with threads.using(count), compiling(count if compiled else None):
            for _ in range(5):
                step()
            began = time.perf_counter()
            for _ in range(updates):
                step()
            best = min(best, (time.perf_counter() - began) / updates)
    return best


def measure(method: Method, on: DatasetTask, counts: list[int], updates: int, compiled: bool) -> dict[int, float]:
    """Seconds per update of one seed, under 1, and of a stack of each size."""
    found = {}
    for count in [1, *counts]:
        members: list[Any] = [method.bind(on, seed, Budget(updates=10**6)) for seed in range(count)]
        step = members[0].step if count == 1 else Stack(members).step
        found[count] = seconds(step, updates, compiled)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--paper", action="store_true")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    chosen = agents() if args.paper else agents(network=(64, 64), lr=3e-4)
    on = task()
    rounds = [
        {name: measure(m, on, args.seeds, args.updates, args.compile) for name, m in chosen.items()}
        for _ in range(args.rounds)
    ]
    result: dict[str, Any] = {"command": " ".join(["python", "benchmarks/stacked.py", *sys.argv[1:]]), "agents": {}}
    for name in chosen:
        times = {count: statistics.median(found[name][count] for found in rounds) for count in [1, *args.seeds]}
        gains = {
            count: statistics.median(count * found[name][1] / found[name][count] for found in rounds)
            for count in args.seeds
        }
        result["agents"][name] = {"milliseconds_per_update": {n: 1e3 * s for n, s in times.items()}, "gain": gains}
        print(f"{name:14s} {1e3 * times[1]:7.2f} ms", *(f"{n} seeds {g:5.2f}x" for n, g in gains.items()), sep="   ")
    result["all"] = {
        count: statistics.median(
            sum(count * found[name][1] for name in chosen) / sum(found[name][count] for name in chosen)
            for found in rounds
        )
        for count in args.seeds
    }
    print(f"{'all nine':14s}           ", *(f"{n} seeds {g:5.2f}x" for n, g in result["all"].items()), sep="   ")
    out = Path(__file__).parent.parent / "results" / "stacked.json"
    known = json.loads(out.read_text()) if out.exists() else {}
    kind = ("paper" if args.paper else "small") + (", compiled" if args.compile else "")
    out.write_text(json.dumps({**known, kind: result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
