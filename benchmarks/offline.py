"""Offline training speed against d3rlpy: each library in turn, several rounds, medians and ratios.

    python benchmarks/offline.py --threads 2 --rounds 5 --peer-python PEERS/bin/python

`PEERS` is an environment with `pip install torch==2.13.0`, then `pip install d3rlpy==2.8.1`. Writes results/offline-
speed.json and prints a table. Both libraries learn from the same random arrays, 17-dimensional observations and 6
actions, with the same settings: batch 256, networks of 2x256, two critics. The clock runs over gradient steps alone, after the
first ones, in the whole engine of each library, its sampling and logging included; evaluations and checkpoints are
left out for both alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
UPDATES = {"td3-bc": 1500, "iql": 1000, "cql": 250}
SETTLE = 0.2
"""Share of the updates before the clock starts: compilation and the first touch of memory."""
EPISODE = 1000
OBSERVATIONS, ACTIONS = 17, 6
LIBRARIES = ("palaestra", "palaestra-plain", "palaestra-medium", "d3rlpy", "d3rlpy-medium")
"""With losses compiled, as every long run has them; left to autograd; and either with `precision="medium"`."""


def arrays(rows: int) -> dict[str, Any]:
    """Random steps in episodes of equal length."""
    import numpy as np

    draw = np.random.default_rng(0)
    return {
        "observations": draw.standard_normal((rows, OBSERVATIONS), dtype=np.float32),
        "actions": draw.uniform(-1, 1, (rows, ACTIONS)).astype(np.float32),
        "rewards": draw.standard_normal(rows, dtype=np.float32),
        "timeouts": np.arange(1, rows + 1) % EPISODE == 0,
    }


def palaestra_run(method: str, rows: int, threads: int, updates: int, **engine: Any) -> list[float]:
    """When each update ended, in the whole engine; the data are memory-mapped files, as a user's are."""
    import gymnasium
    import numpy as np
    import torch

    import palaestra as pal
    from palaestra.core.experience import Experience
    from palaestra.core.registry import method_class
    from palaestra.data.dataset import Dataset, open_dataset
    from palaestra.data.task import DatasetTask

    ticks: list[float] = []

    class Timed(method_class(method)):  # type: ignore[misc]
        def step(self) -> dict[str, torch.Tensor]:
            metrics = super().step()
            ticks.append(time.perf_counter())
            return metrics

    made = {name: torch.from_numpy(column) for name, column in arrays(rows).items()}
    obs = made["observations"]
    steps = Experience(
        obs=obs,
        action=made["actions"],
        reward=made["rewards"],
        next_obs=obs.roll(-1, 0),
        terminated=torch.zeros(rows),
        truncated=made["timeouts"].float(),
    )
    spaces = [gymnasium.spaces.Box(-limit, limit, (n,)) for limit, n in ((np.inf, OBSERVATIONS), (1.0, ACTIONS))]
    with tempfile.TemporaryDirectory() as folder:
        Dataset("random", steps, torch.arange(0, rows, EPISODE), *spaces).save(f"{folder}/data")
        task = DatasetTask(open_dataset(f"{folder}/data"))
        options = {"checkpoint_every": 0, "tensorboard": False, "quiet": True, "threads": threads, **engine}
        pal.train(Timed(), task, updates=updates, out=f"{folder}/run", **options)
    return ticks


def d3rlpy_run(method: str, rows: int, threads: int, updates: int, precision: str) -> list[float]:
    """The same with d3rlpy's `fit`."""
    import d3rlpy
    import torch

    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    made = arrays(rows)
    dataset = d3rlpy.dataset.MDPDataset(
        observations=made["observations"],
        actions=made["actions"],
        rewards=made["rewards"],
        terminals=made["timeouts"] & False,
        timeouts=made["timeouts"],
        action_space=d3rlpy.ActionSpace.CONTINUOUS,
    )
    rates = {"actor_learning_rate": 3e-4, "critic_learning_rate": 3e-4, "batch_size": 256}
    config = {
        "td3-bc": lambda: d3rlpy.algos.TD3PlusBCConfig(
            **rates, observation_scaler=d3rlpy.preprocessing.StandardObservationScaler()
        ),
        "iql": lambda: d3rlpy.algos.IQLConfig(**rates),
        "cql": lambda: d3rlpy.algos.CQLConfig(**rates, temp_learning_rate=3e-4, alpha_learning_rate=0.0),
    }[method]()
    ticks: list[float] = []
    config.create(device=False).fit(
        dataset,
        n_steps=updates,
        n_steps_per_epoch=updates,
        callback=lambda *_: ticks.append(time.perf_counter()),
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )
    return ticks


def speed(ticks: list[float]) -> float:
    """Updates per second over the part of the run that counts."""
    first = int(SETTLE * len(ticks))
    return (len(ticks) - 1 - first) / (ticks[-1] - ticks[first])


def work(library: str, method: str, rows: int, threads: int, updates: int) -> None:
    """One timed run in this process."""
    name, _, kind = library.partition("-")
    precision = "medium" if kind == "medium" else "highest"
    if name == "d3rlpy":
        ticks = d3rlpy_run(method, rows, threads, updates, precision)
    else:
        ticks = palaestra_run(method, rows, threads, updates, compile=kind != "plain", precision=precision)
    print(f"updates_per_second {speed(ticks):.2f}")


def run(python: str, *arguments: Any) -> float:
    """The same in a process of its own."""
    done = subprocess.run([python, __file__, "--work", *map(str, arguments)], capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith("updates_per_second"):
            return float(line.split()[1])
    raise SystemExit(f"{arguments} failed:\n{done.stderr[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--methods", nargs="*", default=list(UPDATES), choices=list(UPDATES))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--out", default=str(HERE.parent / "results" / "offline-speed.json"))
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        library, method, *numbers = args.work
        return work(library, method, *map(int, numbers))
    found = {}
    for method in args.methods:
        speeds: dict[str, list[float]] = {library: [] for library in LIBRARIES}
        for _ in range(args.rounds):
            for library, values in speeds.items():
                python = args.peer_python if library.startswith("d3rlpy") else sys.executable
                values.append(run(python, library, method, args.rows, args.threads, UPDATES[method]))
        medians = {library: statistics.median(values) for library, values in speeds.items()}
        ratios = {
            f"{ours} to {theirs}": statistics.median(a / b for a, b in zip(speeds[ours], speeds[theirs], strict=True))
            for ours in LIBRARIES[:3]
            for theirs in LIBRARIES[3:]
        }
        found[method] = {"updates_per_second": speeds, "median": medians, "ratio": ratios}
        for library, value in medians.items():
            spread = f"{min(speeds[library]):.1f}-{max(speeds[library]):.1f}"
            print(f"{method:7s} {library:16s} {value:7.1f} updates/s  ({spread})")
        print(*(f"{value:.2f} {pair}" for pair, value in ratios.items()), sep="; ", flush=True)
    command = " ".join(["python", "benchmarks/offline.py", *sys.argv[1:]])
    result = {
        "command": command.replace(args.peer_python, "PEERS/bin/python"),
        "rows": args.rows,
        "threads": args.threads,
        "methods": found,
    }
    Path(args.out).write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
