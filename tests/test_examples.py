"""The examples run as they are shipped, with smaller budgets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

# name: (arguments, what it must have said)
RUNS = {
    "own_environment": (["--steps", "600"], "after   600 steps: return"),
    "own_network": (["--steps", "2048"], "before saving"),
    "own_method": (["--steps", "2048"], "SPO CartPole-v1 seed 0: return"),
    "compare_methods": (["--steps", "2048", "--seeds", "1"], "report: report.html"),
    "pendulum_logs": (["--episodes", "3"], "logs.csv: 3 episodes"),
    "deploy_policy": (["--steps", "2048"], "one episode with the loaded policy"),
}


def run(*command: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tried():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_the_example_runs(name):
    arguments, says = RUNS[name]
    assert says in run(sys.executable, str(EXAMPLES / f"{name}.py"), *arguments)


def test_the_command_line_trains_ones_own_method_on_ones_own_environment():
    method, task = f"{EXAMPLES / 'own_method.py'}:SPO", f"{EXAMPLES / 'own_environment.py'}:PointMass"
    train = [sys.executable, "-m", "palaestra", "train", method, "--task", task, "--steps", "2e3", "--quiet"]
    assert "finished SPO" in run(*train, "--method.rollout-steps", "64")
