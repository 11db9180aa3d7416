"""Training speed against peers: each library in turn, several rounds, medians and ratios.

    python benchmarks/speed.py sac --task HalfCheetah-v5 --threads 2 --rounds 5 --peer-python PEERS/bin/python

`PEERS` is an environment with `pip install torch==2.13.0 stable-baselines3==2.9.2 sbx-rl==0.28.0 "gymnasium[mujoco]==1.4.0"
mujoco==3.8.1`. Writes results/speed-<method>-<task>.json and prints a table. The libraries take turns within a round, so
that a change in the machine's speed meets all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
STEPS = {"sac": 3000, "ppo": 30_000}


def matrix_product_rate(threads: int, size: int = 256) -> float:
    """GFLOP/s of a fp32 product of the size that a 2x256 network with batch 256 makes."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(50):
            a @ b
        best = min(best, (time.perf_counter() - began) / 50)
    return 2 * size**3 / best / 1e9


def sac_flops(obs: int, action: int, batch: int = 256, width: int = 256) -> float:
    """Multiplications and additions of the matrix products in one SAC update (two critics, their targets, the actor)."""
    critic = batch * ((obs + action) * width + width * width + width) * 2
    actor = batch * (obs * width + width * width + width * 2 * action) * 2
    first_layer, first_actor = batch * (obs + action) * width * 2, batch * obs * width * 2
    target = actor + 2 * critic
    critics = 2 * (3 * critic - first_layer)  # forward, weight gradients, input gradients but the first
    policy = (3 * actor - first_actor) + 2 * 2 * critic  # the critics are constants here: no weight gradients
    return target + critics + policy


def run(python: str, library: str, method: str, task: str, threads: int, steps: int) -> float:
    command = [python, str(HERE / "worker.py"), library, method, task, "--threads", str(threads), "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith("steps_per_second"):
            return float(line.split()[1])
    raise SystemExit(f"{library} failed:\n{done.stderr[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=sorted(STEPS))
    parser.add_argument("--task", default="HalfCheetah-v5")
    parser.add_argument("--threads", type=int, default=2, help="0: each library's own choice")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--peers", nargs="*", default=["sb3", "sbx"])
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--neighbour", action="store_true", help="keep one other process busy meanwhile")
    args = parser.parse_args()
    steps = args.steps or STEPS[args.method]
    speeds: dict[str, list[float]] = {name: [] for name in ("palaestra", "palaestra-plain", *args.peers)}
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if args.neighbour else None
    try:
        for _ in range(args.rounds):
            for library, values in speeds.items():
                python = sys.executable if library.startswith("palaestra") else args.peer_python
                values.append(run(python, library, args.method, args.task, args.threads, steps))
    finally:
        if busy is not None:
            busy.kill()
    medians = {library: statistics.median(values) for library, values in speeds.items()}
    ratios = {
        peer: statistics.median(a / b for a, b in zip(speeds["palaestra"], speeds[peer], strict=True))
        for peer in list(speeds)[1:]
    }
    result = {
        "command": " ".join(["python", "benchmarks/speed.py", *sys.argv[1:]]).replace(
            args.peer_python, "PEERS/bin/python"
        ),
        "method": args.method,
        "task": args.task,
        "threads": args.threads,
        "steps_per_second": speeds,
        "median": medians,
        "ratio_palaestra_to": ratios,
    }
    if args.method == "sac" and args.threads:
        import gymnasium

        env = gymnasium.make(args.task)
        flops = sac_flops(env.observation_space.shape[0], env.action_space.shape[0])
        rate = matrix_product_rate(args.threads)
        result["matrix_product"] = {
            "gflops_per_second": rate,
            "mflop_per_update": flops / 1e6,
            "limit_updates_per_second": rate * 1e9 / flops,
            "share_of_limit": {library: value * flops / rate / 1e9 for library, value in medians.items()},
        }
    name = f"speed-{args.method}-{args.task}-{args.threads or 'own'}threads{'-neighbour' * args.neighbour}.json"
    out = HERE.parent / "results" / name
    out.write_text(json.dumps(result, indent=2) + "\n")
    for library, value in medians.items():
        spread = f"{min(speeds[library]):.0f}-{max(speeds[library]):.0f}"
        ratio = "" if library == "palaestra" else f"   palaestra is {ratios[library]:.2f}x"
        print(f"{library:10s} {value:9.0f} steps/s  ({spread}){ratio}")
    print(f"written to results/{name}")


if __name__ == "__main__":
    main()
