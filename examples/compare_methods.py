"""Compare methods with the same seeds and budget: a table with intervals, and a report for the browser.

python examples/compare_methods.py
"""

from __future__ import annotations

import argparse

import palaestra as pal

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()

    # Called again, it skips the runs that are finished and resumes those that are not.
    methods = [pal.PPO(), pal.PPO(lr=1e-3), pal.A2C()]
    comparison = pal.compare(methods, "CartPole-v1", seeds=given.seeds, steps=given.steps, out="runs/comparison")
    print(comparison.table())
    print("report:", comparison.report("report.html", title="PPO at two learning rates, and A2C"))
