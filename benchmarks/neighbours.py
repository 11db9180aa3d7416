"""How long 256 nearest neighbours take, by a tree and by products, over rows, dimensions and how far queries are from rows.

    python benchmarks/neighbours.py

Keys are twice a standard normal state and a uniform action, of the sizes of Pendulum, Hopper, HalfCheetah, Ant and Adroit's pen;
a query is a stored row whose action was moved by a given distance. Writes results/neighbours.json and prints a table.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from palaestra.data.neighbours import NearestPairs
from palaestra.runs import threads

SIZES = {"Pendulum": (3, 1), "Hopper": (11, 3), "HalfCheetah": (17, 6), "Ant": (27, 8), "pen": (45, 24)}
REACHES = (0.5, 1.5, 3.0)
QUERIES = 256


def milliseconds(pairs: NearestPairs, q: torch.Tensor) -> float:
    """The fastest of three queries; one that takes long is not repeated."""
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        pairs.query(q)
        best = min(best, time.perf_counter() - began)
        if best > 1:
            break
    return 1e3 * best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, nargs="+", default=[1e4, 1e5, 1e6])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    found = []
    with threads.using(args.threads):
        for name, (states, actions) in SIZES.items():
            for rows in map(int, args.rows):
                g = torch.Generator().manual_seed(0)
                keys = torch.cat(
                    [2 * torch.randn(rows, states, generator=g), torch.rand(rows, actions, generator=g) * 2 - 1], 1
                )
                row = torch.randint(rows, (QUERIES,), generator=g)
                away = torch.nn.functional.normalize(torch.randn(QUERIES, actions, generator=g))
                built = {}
                ways = {}
                for way in ("tree", "products"):
                    began = time.perf_counter()
                    ways[way] = NearestPairs(keys, search=way)
                    built[way] = time.perf_counter() - began
                for reach in REACHES:
                    q = torch.cat([keys[row, :states], keys[row, states:] + reach * away], 1)
                    taken = {way: round(milliseconds(pairs, q), 2) for way, pairs in ways.items()}
                    found.append({"size": name, "dimensions": states + actions, "rows": rows, "reach": reach, **taken})
                    print(f"{name:12s} {states + actions:3d} {rows:9,d} {reach:4.1f}", taken, flush=True)
                found[-1]["seconds to build"] = {way: round(seconds, 3) for way, seconds in built.items()}
    command = " ".join(["python", "benchmarks/neighbours.py", *sys.argv[1:]])
    out = Path(__file__).parent.parent / "results" / "neighbours.json"
    out.write_text(json.dumps({"command": command, "threads": args.threads, "milliseconds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
