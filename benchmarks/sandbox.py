"""What the sandbox costs, and what HumanEval and MBPP come to in it: solutions pass, mutated ones fail.

    python -m benchmarks.sandbox

The cost is that of a program with one test which it passes, one after the other, beside that of starting Python alone. Without
the data, which palaestra does not ship, only that is measured. Writes results/sandbox.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from palaestra.core.errors import BadDataset
from palaestra.language.sandbox import Job, Sandbox
from palaestra.language.sandbox.sandbox import cores
from palaestra.language.tasks.programs import MBPP, HumanEval, read_problems
from palaestra.language.verifiers.unit_tests import program_in
from tests.language.mutants import MUTATIONS, mutant


def milliseconds(times: list[float]) -> dict[str, float]:
    return {"median": round(1e3 * statistics.median(times), 1), "least": round(1e3 * min(times), 1)}


def timed(action, count: int) -> list[float]:
    times = []
    for i in range(count):
        began = time.perf_counter()
        action(i)
        times.append(time.perf_counter() - began)
    return times


def cost(count: int) -> dict:
    with Sandbox() as box:
        first = timed(lambda i: box.run("x = 1"), 1)
        each = timed(lambda i: box.run(f"def f(x): return x + {i}", f"assert f(1) == {i + 1}"), count)
        jobs = [Job(f"def f(x): return {i} + x", f"assert f(1) == {i + 1}") for i in range(count)]
        (together,) = timed(lambda i: box.run_many(jobs), 1)
    python = timed(lambda i: subprocess.run([sys._base_executable, "-I", "-S", "-c", "pass"], check=True), count)
    return {
        "first program, ms": milliseconds(first)["median"],
        "each further program, ms": milliseconds(each),
        f"each of {count} at once on {cores()} cores, ms": round(1e3 * together / count, 1),
        "python -I -S alone, ms": milliseconds(python),
    }


def verdicts(rows: list, seconds: float) -> dict:
    """Statuses of the solutions, and of each kind of mutant with the tasks whose mutant passes."""
    found = {}
    for kind in ("solutions", *MUTATIONS):
        jobs = {}
        for row in rows:
            code = program_in(row["completion"], row.get("prefix", ""), row["entry_point"])
            code = code if kind == "solutions" else mutant(code, row["entry_point"], kind)
            if code is not None:
                jobs[row["task_id"]] = Job(code, row["tests"], row["entry_point"])
        with Sandbox(seconds=60 if kind == "solutions" else seconds) as box:
            began = time.perf_counter()
            given = box.run_many(jobs.values())
            took = time.perf_counter() - began
        found[kind] = {"programs": len(jobs), "seconds": round(took, 1), **Counter(verdict.status for verdict in given)}
        odd = [name for name, verdict in zip(jobs, given) if verdict.passed != (kind == "solutions")]
        found[kind] |= {"unexpected": odd} if odd else {}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=2.0, help="limit of a mutant")
    args = parser.parse_args()
    command = " ".join(["python -m benchmarks.sandbox", *sys.argv[1:]])
    result = {"command": command, "load": os.getloadavg()[0], "cost": cost(args.programs)}
    for task in (HumanEval(), MBPP()):
        try:
            rows = [task.row(problem) for problem in read_problems(task.place())]
        except BadDataset as error:
            print(error)
            continue
        result[task.name] = verdicts(rows, args.seconds)
    print(json.dumps(result, indent=1))
    (Path(__file__).parents[1] / "results" / "sandbox.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
