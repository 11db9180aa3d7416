"""Weights & Biases, the real package in offline mode: a mirror of the metrics that a run never depends on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import palaestra as pal

from .processes import PATIENCE, wait_for_rows

TRAIN = [sys.executable, "-m", "palaestra", "train"]
SMALL = ["--method.network", "8", "--method.num-envs", "2", "--method.rollout-steps", "64"]
PPO = ["ppo", "--task", "CartPole-v1", *SMALL]
BRIEF = ["--log-every", "128", "--evaluate-every", "0", "--evaluate-episodes", "1", "--no-tensorboard", "--wandb"]
UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture
def wandb(monkeypatch) -> Any:
    """The package, offline, with all that it keeps for itself below the test's folder."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(Path("home").resolve()))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    return pytest.importorskip("wandb", reason="wandb is not installed")


def start(*arguments: str, **env: str) -> subprocess.Popen[str]:
    given = {**os.environ, **env}
    return subprocess.Popen([*TRAIN, *arguments], env=given, stdout=-1, stderr=-1, text=True)


def train(*arguments: str, code: int = 0, **env: str) -> str:
    """What the command line said on standard error."""
    process = start(*arguments, **env)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, err
    return err


def mirrored(folder: str) -> dict[str, Any]:
    """What W&B holds of a run: the ids and exit codes of its parts in the order of their times, and the rows of all."""
    ids, codes, rows = [], [], []
    for log in sorted(Path(folder, "wandb").glob("offline-run-*/run-*.wandb")):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
        for record in map(json.loads, said.splitlines()):
            match record["type"]:
                case "run":
                    ids.append(record["run"]["run_id"])
                case "exit":
                    codes.append(record["exit"].get("exit_code", 0))
                case "history":
                    item = record["history"]["item"]
                    rows.append({name: item[name] for name in item if name == "_step" or not name.startswith("_")})
    return {"ids": ids, "codes": codes, "rows": rows}


def logged(folder: str) -> list[dict[str, Any]]:
    """The rows of a run in W&B's form: what has the same step is one row."""
    run, rows = Path(folder), {}
    clocks = [json.loads(line)["clock"] for line in (run / "timing.jsonl").read_text().splitlines()]
    for clock, row in zip(clocks, map(json.loads, (run / "metrics.jsonl").read_text().splitlines()), strict=True):
        del row["steps"], row["updates"]
        rows.setdefault(clock, {"_step": clock}).update(row)
    return list(rows.values())


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_is_one_run_in_wandb_and_no_row_is_missing(wandb):
    process = start(*PPO, *BRIEF, "--steps", "1e7", "--no-compile", "--checkpoint-every", "128", "--out", "run")
    wait_for_rows(process, "run", 40)
    process.kill()
    process.communicate()
    steps = str(json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-2])["steps"] + 1280)
    train(*PPO, *BRIEF, "--steps", steps, "--out", "run", "--resume")
    held = mirrored("run")
    assert len(held["ids"]) == 2 and len(set(held["ids"])) == 1
    assert held["codes"] == [0]
    once = {row["_step"]: row for row in held["rows"]}  # what had reached the disk before the kill is there twice
    assert [once[step] for step in sorted(once)] == logged("run")
    assert all(row == once[row["_step"]] for row in held["rows"])
    assert {path.name for path in Path().iterdir()} == {"run", "home"}


def test_a_run_that_went_wrong_is_marked_so_and_what_it_had_logged_is_not_logged_again(wandb):
    Path("world.py").write_text(
        "import gymnasium\n"
        "class Breaks(gymnasium.Wrapper):\n"
        "    steps, limit = 0, int(open('limit').read())\n"
        "    def step(self, action):\n"
        "        Breaks.steps += 1\n"
        "        assert Breaks.steps < self.limit, 'the cart is gone'\n"
        "        return self.env.step(action)\n"
        "def make():\n"
        "    return Breaks(gymnasium.make('CartPole-v1'))\n"
    )
    Path("limit").write_text("900")
    what = ["ppo", "--task", "world.py:make", *SMALL, *BRIEF, "--steps", "1280", "--out", "run"]
    assert "the cart is gone" in train(*what, "--checkpoint-every", "640", code=2)
    Path("limit").write_text("1000000")
    train(*what, "--resume")
    held = mirrored("run")
    assert held["codes"] == [1, 0]
    assert held["rows"] == logged("run")


def test_started_again_with_overwrite_it_is_a_new_run_in_wandb(wandb):
    ids = []
    for _ in range(2):
        train(*PPO, *BRIEF, "--steps", "256", "--out", "run", "--overwrite", WANDB_SILENT="true")
        ids += mirrored("run")["ids"]
    assert len(set(ids)) == 2


@pytest.mark.slow
def test_a_server_that_does_not_answer_costs_nothing_but_the_wait(wandb):
    server = {"WANDB_MODE": "online", "WANDB_BASE_URL": UNREACHABLE, "WANDB_INIT_TIMEOUT": "1"}
    said = train(*PPO, *BRIEF, "--steps", "256", "--out", "run", WANDB_API_KEY="0" * 40, **server)
    assert "Weights & Biases cannot be reached" in said and "wandb sync" in said
    assert mirrored("run")["rows"] == logged("run")


def test_a_service_that_dies_does_not_take_the_run_with_it(wandb, monkeypatch):
    def die(self, *given, **options):
        raise ConnectionResetError("Connection lost")

    monkeypatch.setattr(wandb.Run, "log", die)
    settings = {"steps": 32, "quiet": True, "tensorboard": False, "evaluate_episodes": 1}
    with pytest.warns(UserWarning, match="Biases failed .Connection lost.; training goes on") as warned:
        run = pal.train(pal.A2C(network=(8,), num_envs=2), "CartPole-v1", wandb=True, out="run", **settings)
    assert run.record["status"] == "finished"
    assert len([w for w in warned if "Biases" in str(w.message)]) == 1


def test_without_an_account_it_says_what_to_do(wandb):
    server = {"WANDB_MODE": "online", "WANDB_BASE_URL": UNREACHABLE}
    said = train(*PPO, *BRIEF, "--steps", "256", "--out", "run", code=2, **server)
    assert "wandb login" in said and "WANDB_MODE=offline" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("found", [None, type(pytest)("wandb")], ids=["no package", "an empty folder of that name"])
def test_without_the_package_it_says_how_to_install_it(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", found)
    with pytest.raises(pal.PalaestraError, match=r"--wandb needs the wandb package: pip install 'palaestra\[wandb\]'"):
        pal.train("a2c", "CartPole-v1", steps=10, out="run", wandb=True, quiet=True, tensorboard=False)
