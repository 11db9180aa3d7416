"""What several seeds cost: one after the other with the usual threads, against `compare` as it does by itself.

    python benchmarks/seeds.py --rounds 3

Writes results/speed-seeds.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import palaestra as pal

SEEDS = 4
ENGINE = {"evaluate_every": 0, "evaluate_episodes": 1, "checkpoint_every": 0, "tensorboard": False, "quiet": True}
CASES = {
    "sac": (pal.SAC(warmup_steps=300), "HalfCheetah-v5", 2500),
    "ppo": (pal.PPO(), "HalfCheetah-v5", 30_000),
}


def one_after_the_other(method: pal.Method, task: str, steps: int, out: str) -> float:
    began = time.perf_counter()
    for seed in range(SEEDS):
        pal.train(method, task, steps=steps, seed=seed, out=f"{out}/{seed}", **ENGINE)
    return time.perf_counter() - began


def compared(method: pal.Method, task: str, steps: int, out: str) -> float:
    began = time.perf_counter()
    pal.compare([method], task, seeds=SEEDS, steps=steps, out=out, **ENGINE)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    result = {"command": f"python benchmarks/seeds.py --rounds {args.rounds}", "seeds": SEEDS}
    for name, case in CASES.items():
        pairs = []
        for _ in range(args.rounds):
            with tempfile.TemporaryDirectory() as folder:
                pairs.append((one_after_the_other(*case, folder + "/a"), compared(*case, folder + "/b")))
        gain = statistics.median(alone / together for alone, together in pairs)
        result[name] = {
            "task": case[1],
            "steps": case[2],
            "seconds_one_after_the_other": [alone for alone, _ in pairs],
            "seconds_compare": [together for _, together in pairs],
            "gain": gain,
        }
        print(f"{name}: {SEEDS} seeds through compare are {gain:.2f}x as fast as one after the other")
    out = Path(__file__).parent.parent / "results" / "speed-seeds.json"
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to results/{out.name}")


if __name__ == "__main__":
    main()
