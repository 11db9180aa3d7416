"""PRDC's update against the released code's, over rows: each in turn, several rounds, medians and ratios.

    git clone https://github.com/LAMDA-RL/PRDC OFFICIAL
    python benchmarks/prdc.py --official OFFICIAL

Both learn from the same HalfCheetah-v5 steps of a half-trained policy, which are made first (about five minutes), with batch
256 and 2x256 networks. The clock runs over whole updates, sampling included, after a warm-up in which the policy leaves its
initial weights; building trees and compiling come before. palaestra finds out, once for every row that it meets, how far
the nearest other state is: `palaestra` is timed when that is known of all rows, `palaestra-first` when it is of none.
Adds to results/prdc-speed.json and prints a table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
EPISODE = 1000
KINDS = ("palaestra", "palaestra-first", "official")
BEHAVIOUR = {"lr": 1e-3, "network": (64, 64), "batch_size": 128, "buffer_size": 20_000, "warmup_steps": 1_000}


def dataset(rows: int):
    """The first so many steps of a million."""
    import palaestra as pal
    from palaestra.data.make import make

    whole = make("HalfCheetah-v5", "medium", method=pal.SAC(**BEHAVIOUR), steps=20_000, size=1_000_000)
    return whole.first(rows // EPISODE)


def palaestra_method(rows: int, alpha: float, updates: int):
    """PRDC ready to `step`."""
    import palaestra as pal
    from palaestra.data.task import DatasetTask

    return pal.PRDC(alpha=alpha, beta=2.0).bind(DatasetTask(dataset(rows)), 0, pal.Budget(updates=updates))


def meet_all_rows(method) -> float:
    """Let the search find out what it remembers of every row; the seconds that takes."""
    import torch

    began = time.perf_counter()
    for row in torch.arange(len(method.pairs)).split(256):
        method.pairs.query(method.pairs.keys[row], 1, row)
    return time.perf_counter() - began


def forget(method) -> float:
    """Start the search anew."""
    from palaestra.data.neighbours import NearestPairs

    method.pairs = NearestPairs(method.pairs.keys, anchored=17)
    return 0.0


def own_actions(method, batches: int = 20) -> float:
    """How often the nearest pair has the action that was recorded at the same state, as TD3+BC's goal has always."""
    import torch

    drawn = [method.data.sample(256) for _ in range(batches)]
    return float(torch.cat([(method.goal(batch) == batch.action).all(1) for batch in drawn]).float().mean())


def official_update(folder: str, rows: int, alpha: float) -> Callable[[], object]:
    """One update of the released code, called as its main.py does."""
    import numpy as np

    sys.path.insert(0, folder)
    from prdc import PRDC
    from utils.buffer import ReplayBuffer

    data = dataset(rows)
    names = {"observations": "obs", "actions": "action", "next_observations": "next_obs", "rewards": "reward"}
    columns = {theirs: getattr(data.steps, ours).numpy() for theirs, ours in names.items()}
    buffer = ReplayBuffer(17, 6, "cpu", "", 1, 0, max_size=1)
    buffer.convert_D4RL(columns | {"terminals": data.steps.terminated.numpy()})
    buffer.normalize_states()
    beta = 2.0
    method = PRDC(np.hstack([beta * buffer.state, buffer.action]), 17, 6, 1.0, "cpu", alpha=alpha, beta=beta)
    return lambda: method.train(buffer, 256)


def worker(args: argparse.Namespace) -> None:
    """Time one kind in this process."""
    import torch

    from palaestra.nets.gradient import compiling
    from palaestra.runs import threads

    [rows], found = args.rows, {}
    if args.worker == "official":
        torch.set_num_threads(args.threads)
        update = official_update(args.official, rows, args.alpha)
        repeat(update, args.warmup)
        seconds = repeat(update, args.updates)
    else:
        with threads.using(args.threads), compiling(args.threads):
            method = palaestra_method(rows, args.alpha, args.warmup + args.updates)
            repeat(method.step, args.warmup)
            found["seconds_to_meet_all_rows"] = (meet_all_rows if args.worker == "palaestra" else forget)(method)
            seconds = repeat(method.step, args.updates)
            found["share_of_own_actions"] = own_actions(method)
    print(json.dumps({"milliseconds": 1e3 * seconds / args.updates, **found}))


def repeat(update: Callable[[], object], times: int) -> float:
    """The seconds that so many updates take."""
    began = time.perf_counter()
    for _ in range(times):
        update()
    return time.perf_counter() - began


def run(kind: str, rows: int, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--worker", kind, "--rows", str(rows), "--official", args.official]
    for name in ("alpha", "warmup", "updates", "threads"):
        command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{kind} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official", required=True, help="a checkout of the released code")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--alpha", type=float, default=40.0, help="the released code's value for HalfCheetah")
    parser.add_argument("--warmup", type=int, default=600)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args)
    out = HERE.parent / "results" / "prdc-speed.json"
    result = json.loads(out.read_text()) if out.exists() else {}
    for rows in args.rows:
        dataset(rows)
        found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for _ in range(args.rounds):
            for kind in KINDS:
                found[kind].append(run(kind, rows, args))
        speeds = {kind: [one["milliseconds"] for one in each] for kind, each in found.items()}
        ratios = {
            kind: statistics.median(b / a for a, b in zip(speeds[kind], speeds["official"], strict=True))
            for kind in KINDS[:-1]
        }
        result[f"{rows} rows, alpha {args.alpha:g}"] = {
            "command": " ".join(["python", "benchmarks/prdc.py", *sys.argv[1:]]).replace(args.official, "OFFICIAL"),
            "threads": args.threads,
            "milliseconds_per_update": speeds,
            "seconds_to_meet_all_rows": [one["seconds_to_meet_all_rows"] for one in found["palaestra"]],
            "share_of_own_actions": [one["share_of_own_actions"] for one in found["palaestra"]],
            "times_the_official_speed": ratios,
        }
        for kind, values in speeds.items():
            ratio = f"   {ratios[kind]:.2f}x" if kind in ratios else ""
            print(f"{rows:9,d} rows {kind:16s} {statistics.median(values):8.2f} ms{ratio}", flush=True)
        out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
