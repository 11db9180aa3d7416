"""Runs read back from their folders."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import palaestra as pal
from palaestra.core.errors import BadCheckpoint, PalaestraError
from palaestra.runs.record import load_records

from .made_runs import write_comparison, write_run


def test_a_trained_run_is_read_back_as_it_was():
    settings = {"network": (8, 8), "num_envs": 2, "rollout_steps": 16, "minibatch": 8, "epochs": 1}
    run = pal.train(
        pal.PPO(**settings),
        "CartPole-v1",
        steps=192,
        seed=3,
        out="run",
        quiet=True,
        tensorboard=False,
        evaluate_episodes=2,
    )
    (record,) = load_records("run")
    assert (record.method, record.label, record.task, record.seed) == ("ppo", "ppo", "CartPole-v1", 3)
    assert record.status == "finished" and record.settings["minibatch"] == 8
    assert record.counters["steps"] == 192 and record.threads >= 1 and record.seconds > 0
    steps, returns = record.curve("evaluation/return")
    assert steps[-1] == 192 and len(returns) == len(steps)
    assert returns[-1] == run.metrics[-1]["evaluation/return"]
    seconds, _ = record.curve("evaluation/return", "seconds")
    assert len(seconds) == len(steps) and (np.diff(seconds) >= 0).all()


def test_the_score_is_the_mean_over_the_last_tenth_of_the_budget():
    write_run(
        "run", [float(i) for i in range(20)]
    )  # the last tenth holds evaluations 18, 19 and the one at its edge, 17
    assert load_records("run")[0].score == pytest.approx((17 + 18 + 19) / 3)


def test_the_score_is_at_least_the_last_evaluation():
    folder = write_run("run", [1.0, 2.0, 3.0])
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text(f"{lines[0]}\n")  # interrupted at a third of its budget
    assert load_records("run")[0].score == 1.0


def test_a_run_that_was_never_evaluated_has_no_score():
    folder = write_run("run", [1.0])
    (folder / "metrics.jsonl").write_text("")
    (record,) = load_records("run")
    assert math.isnan(record.score)
    assert all(len(part) == 0 for part in record.curve("evaluation/return"))


def test_runs_are_found_at_any_depth_and_once():
    write_comparison("all", seeds=2)
    assert len(load_records(["all", "all/Pendulum-v1/good/seed0", Path("all").resolve()])) == 4


def test_a_method_with_one_setting_goes_by_its_name_and_variants_by_what_differs():
    write_run("a", [1.0], settings={"lr": 0.1, "tau": 1})
    write_run("b", [1.0], settings={"lr": 0.2, "tau": 1})
    write_run("c", [1.0], method="td3", settings={"lr": 0.1})
    assert [r.label for r in load_records(["a", "b", "c"])] == ["sac (lr=0.1)", "sac (lr=0.2)", "td3"]


def test_budgets_tell_variants_apart_too():
    write_run("a", [1.0], steps=100)
    write_run("b", [1.0], steps=200)
    assert [r.label for r in load_records(["a", "b"])] == ["sac (budget in steps=100)", "sac (budget in steps=200)"]


def test_tasks_with_other_arguments_are_other_tasks():
    write_run("a", [1.0], kwargs={"g": 9.8})
    write_run("b", [1.0])
    assert [r.task for r in load_records(["a", "b"])] == ["Pendulum-v1 (g=9.8)", "Pendulum-v1"]


def test_the_same_training_twice_is_refused():
    write_run("a", [1.0])
    write_run("b", [1.0])
    with pytest.raises(PalaestraError, match="a and b are the same training"):
        load_records(["a", "b"])


def test_a_torn_last_line_is_left_out():
    folder = write_run("run", [1.0, 2.0])
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"steps": 12')
    assert len(load_records("run")[0].rows) == 2


@pytest.mark.parametrize("bad", ["{not json}\n", "[1, 2]\n", "\xff\n"])
def test_a_damaged_line_is_named(bad):
    folder = write_run("run", [1.0])
    (folder / "metrics.jsonl").write_text(bad, encoding="latin-1")
    with pytest.raises(BadCheckpoint, match="line 1, is damaged"):
        load_records("run")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.json", "{"),
        ("run.json", "{}"),
        ("run.json", "[1]"),
        ("config.yaml", "settings: ["),
        ("config.yaml", "7"),
        ("config.yaml", "task: 3\nsettings: 4"),
        ("timing.jsonl", None),
        ("metrics.jsonl", None),
    ],
)
def test_broken_files_are_one_line_errors_that_name_the_run(name, text):
    folder = write_run("some-run", [1.0])
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(PalaestraError, match="some-run") as caught:
        load_records("some-run")
    assert "\n" not in str(caught.value)


def test_places_without_runs_are_named():
    Path("empty").mkdir()
    with pytest.raises(PalaestraError, match="empty holds no runs"):
        load_records("empty")
    with pytest.raises(PalaestraError, match="there is no folder nowhere"):
        load_records(["nowhere"])
    with pytest.raises(PalaestraError, match="no run folders"):
        load_records([])
