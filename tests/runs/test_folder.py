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


WRONG = pal.TD3()  # whose actions CartPole does not take
RIGHT = pal.PPO(network=(4,), num_envs=2, rollout_steps=8, minibatch=8)


def start(method: pal.Method, **options) -> pal.Run:
    return pal.train(method, "CartPole-v1", **{**BRIEF, "out": "run", **options})


def test_a_start_that_fails_before_its_first_step_leaves_no_folder():
    for wrong in (WRONG, pal.GRPO(model="tiny-16x1")):
        with pytest.raises(pal.PalaestraError):
            start(wrong)
        assert not Path("run").exists()
    start(RIGHT)


def test_an_engine_that_does_not_exist_leaves_no_folder_either():
    with pytest.raises(pal.PalaestraError, match="foo"):
        pal.train(pal.GRPO(model="tiny-16x1"), "sorting", updates=1, generation="foo", quiet=True)
    assert not Path("runs").exists()


def test_folders_that_others_use_by_now_stay_where_a_start_fails():
    Path("runs/sorting/mine").mkdir(parents=True)
    with pytest.raises(pal.PalaestraError):
        pal.train(WRONG, "CartPole-v1", **BRIEF)
    assert [path.name for path in Path("runs").iterdir()] == ["sorting"]


def test_what_was_in_a_folder_before_a_start_that_fails_stays():
    Path("run").mkdir()
    Path("run/notes.txt").write_text("mine")
    with pytest.raises(pal.PalaestraError):
        start(WRONG, resume=True)
    assert [path.name for path in Path("run").iterdir() if path.name != ".lock"] == ["notes.txt"]
    Path("run/notes.txt").unlink()
    with pytest.raises(pal.PalaestraError):
        start(WRONG)
    assert Path("run").is_dir()
    start(RIGHT)


def test_a_run_that_is_to_be_overwritten_by_a_start_that_fails_does_not_block_the_corrected_one():
    start(RIGHT)
    with pytest.raises(pal.PalaestraError):
        start(WRONG, overwrite=True)
    start(RIGHT)


def test_a_run_that_has_begun_keeps_its_folder_when_it_fails(monkeypatch):
    monkeypatch.setattr(pal.PPO, "step", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        start(RIGHT)
    assert pal.load_run("run").record["status"] == "failed"
    with pytest.raises(pal.PalaestraError, match="started before; add --resume"):
        start(RIGHT)
