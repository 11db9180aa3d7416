"""Where a run goes by default: what tells two trainings apart is in the name of their folder."""

from __future__ import annotations

from pathlib import Path

import pytest

import palaestra as pal

from ..environments import Spaces

BRIEF = {"steps": 20, "quiet": True, "tensorboard": False, "evaluate_episodes": 1, "evaluate_every": 0}


def folder(task: str | type, method: pal.Method | None = None, **kwargs) -> str:
    return str(pal.Run(method or pal.PPO(), pal.EnvTask(task, kwargs), steps=10).folder)


def test_a_task_as_it_comes_is_its_name():
    assert folder("CartPole-v1") == "runs/CartPole-v1/ppo/seed0"


@pytest.mark.parametrize(
    ("task", "kwargs", "name"),
    [
        ("FrozenLake-v1", {"map_name": "8x8", "is_slippery": False}, "FrozenLake-v1-map_name=8x8-is_slippery=False"),
        ("Pendulum-v1", {"g": 9.81}, "Pendulum-v1-g=9.81"),
        (Spaces, {"length": 3}, "Spaces-length=3"),
        ("FrozenLake-v1", {"desc": ["SF", "FG"]}, "FrozenLake-v1-desc=SFxFG"),
    ],
)
def test_keyword_arguments_of_a_task_are_in_its_part_of_the_folder(task, kwargs, name):
    assert folder(task, **kwargs) == f"runs/{name}/ppo/seed0"


def test_a_long_name_is_cut_and_still_its_own():
    maps = [["S" + "F" * 20] * 4 + ["F" * 20 + last] for last in "GH"]
    first, second = (Path(folder("FrozenLake-v1", desc=[*rows, "G" * 21])).parts[1] for rows in maps)
    assert first != second
    assert len(first) < 100 and first.startswith("FrozenLake-v1-desc=SFFF")


def test_method_and_task_keep_their_settings_apart():
    assert folder("Pendulum-v1", pal.SAC(lr=1e-3), g=5) == "runs/Pendulum-v1-g=5/sac-lr=0.001/seed0"


def test_runs_of_one_task_with_different_arguments_do_not_meet():
    for length in (3, 4):
        pal.train(pal.A2C(network=(4,)), pal.EnvTask(Spaces, {"length": length}), **BRIEF)
    assert sorted(path.name for path in Path("runs").iterdir()) == ["Spaces-length=3", "Spaces-length=4"]


def test_one_task_with_different_arguments_can_be_compared():
    tasks = [pal.EnvTask(Spaces, {"length": length}) for length in (3, 4)]
    done = pal.compare(pal.A2C(network=(4,)), tasks, seeds=1, workers=1, **BRIEF)
    assert [record.task for record in done.records] == ["Spaces (length=3)", "Spaces (length=4)"]
