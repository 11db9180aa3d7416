"""Datasets: what is refused, what a folder gives back, and that a task is what its data and environment agree on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadDataset, Unsupported
from palaestra.core.experience import Experience
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.data.dataset import Dataset, open_dataset
from palaestra.data.load import load_dataset, stored
from palaestra.data.task import DatasetTask
from palaestra.methods.offline.td3_bc import TD3BC
from palaestra.methods.online.sac import SAC
from tests.datasets import random_dataset
from tests.environments import ACTIONS, OBSERVATIONS, Spaces

OBS = gym.spaces.Box(-10, 10, (2,), np.float32)
BOX = gym.spaces.Box(-2, 2, (1,), np.float32)


def columns(lengths: list[int], rewards: list[float] | None = None) -> Experience:
    """Steps of episodes of these lengths; all but the first are cut off by the clock."""
    n = sum(lengths)
    ends = torch.tensor(lengths).cumsum(0) - 1
    terminated, truncated = torch.zeros(n), torch.zeros(n)
    terminated[ends[0]], truncated[ends[1:]] = 1.0, 1.0
    obs = torch.arange(2.0 * n).reshape(n, 2)
    reward = torch.ones(n) if rewards is None else torch.tensor(rewards)
    return Experience(obs, torch.zeros(n, 1), reward, obs + 2, terminated=terminated, truncated=truncated)


def dataset(lengths: list[int] = [3, 2, 4], rewards: list[float] | None = None, **about) -> Dataset:  # noqa: B006
    starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    return Dataset("logs", columns(lengths, rewards), starts, OBS, BOX, **about)


def test_episodes_their_lengths_and_returns_follow_from_the_boundaries():
    logs = dataset([3, 2, 4], [1, 2, 3, 10, 20, 0.5, 0.5, 0.5, 0.5])
    assert logs.lengths.tolist() == [3, 2, 4]
    assert logs.episode.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert logs.returns.tolist() == [6, 30, 2]
    assert [episode.reward.tolist() for episode in logs.episodes()] == [[1, 2, 3], [10, 20], [0.5] * 4]


def test_returns_are_summed_in_double_precision():
    assert dataset([3], [2.0**24, 1.0, 1.0]).returns.tolist() == [2.0**24 + 2]


def test_a_score_is_0_at_the_lower_reference_and_100_at_the_upper():
    logs = dataset(references=(-50.0, 150.0))
    assert [logs.score(value) for value in (-50.0, 150.0, 50.0, 250.0)] == [0, 100, 50, 150]
    with pytest.raises(BadDataset, match="names no reference returns"):
        dataset().score(1.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"next_obs": None}, "lacks next_obs"),
        ({"reward": torch.ones(8)}, r"columns of \[8, 9\] rows"),
        ({"reward": torch.ones(9, 1)}, r"reward holds \(1,\) float32"),
        ({"reward": torch.ones(9, dtype=torch.float64)}, r"reward holds \(\) float64"),
        ({"action": torch.zeros(9)}, r"action holds \(\) float32 a step, but \(1,\) float32 belongs there"),
        ({"obs": torch.zeros(9, 3)}, r"obs holds \(3,\)"),
        ({"truncated": torch.zeros(9)}, "the last step of episode 1 is neither terminated nor truncated"),
    ],
)
def test_columns_that_do_not_fit_are_refused(change, said):
    with pytest.raises(BadDataset, match=said):
        dataclasses.replace(dataset(), steps=columns([3, 2, 4]).replace(**change))


@pytest.mark.parametrize("starts", [[], [1, 3, 5], [0, 5, 3], [0, 3, 3], [0, 3, 9], [0.0, 3.0, 5.0]])
def test_boundaries_that_are_none_are_refused(starts):
    with pytest.raises(BadDataset, match="must rise from 0 to below 9"):
        dataclasses.replace(dataset(), starts=torch.tensor(starts))


def test_no_steps_at_all_are_refused():
    with pytest.raises(BadDataset, match=r"columns of \[0\] rows"):
        dataclasses.replace(dataset(), steps=columns([3, 2, 4])[:0])


def test_an_end_inside_an_episode_is_not_saved():
    logs = dataset()
    logs.steps.terminated[4 - 3] = 1.0
    with pytest.raises(BadDataset, match="4 steps end an episode, but it is cut into 3"):
        logs.save("logs")
    assert not Path("logs").exists()


def test_actions_that_no_policy_takes_are_refused():
    with pytest.raises(Unsupported, match="unbounded"):
        dataclasses.replace(dataset(), action_space=gym.spaces.Box(-np.inf, np.inf, (1,)))


@pytest.mark.parametrize("observations", OBSERVATIONS)
@pytest.mark.parametrize("actions", ACTIONS)
def test_any_dataset_comes_back_from_its_folder_as_it_was(observations, actions):
    made = filled(observations, actions)
    made.save("here/logs")
    found = open_dataset("here/logs")
    for (name, a), (_, b) in zip(made.steps.items(), found.steps.items(), strict=True):
        assert_equal(a, b, name)
    assert torch.equal(found.starts, made.starts)
    same = ("name", "observation_space", "action_space", "env", "env_kwargs", "references", "about")
    assert all(getattr(found, name) == getattr(made, name) for name in same)


def filled(observations: str, actions: str) -> Dataset:
    """Two episodes of five steps in any spaces."""
    from palaestra.core import spaces

    env = Spaces(observations, actions)
    rows = {name: [] for name in ("obs", "next_obs")}
    taken = []
    obs, _ = env.reset(seed=0)
    for _ in range(10):
        action = env.action_space.sample()
        next_obs, _, over, _, _ = env.step(action)
        taken.append(action)
        rows["obs"].append(obs)
        rows["next_obs"].append(next_obs)
        obs = env.reset()[0] if over else next_obs
    encoded = {
        name: spaces.encode_obs(env.observation_space, spaces.stack_obs(env.observation_space, part))
        for name, part in rows.items()
    }
    ends = torch.tensor([0.0, 0, 0, 0, 1] * 2)
    action = spaces.encode_action(env.action_space, np.array(taken))
    steps = Experience(**encoded, action=action, reward=torch.arange(10.0), terminated=ends, truncated=0 * ends)
    about = {"env": "Some-v0", "env_kwargs": {"size": 3}, "references": (0.0, 1.5), "about": {"made": [1, "x"]}}
    return Dataset("any", steps, torch.tensor([0, 5]), env.observation_space, env.action_space, **about)


def assert_equal(a, b, name):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key], f"{name}[{key}]")
    else:
        assert a.dtype == b.dtype and torch.equal(a, b), name


def test_actions_are_decoded_to_what_was_encoded():
    from palaestra.core import spaces

    for space in ACTIONS.values():
        space.seed(0)
        rows = np.array([space.sample() for _ in range(20)])
        back = spaces.decode_action(space, spaces.encode_action(space, rows))
        np.testing.assert_allclose(back, rows, atol=1e-6)
        assert all(space.contains(row) for row in back)


def test_opening_reads_no_column_and_writing_into_one_leaves_the_file_alone():
    dataset().save("logs")
    before = Path("logs/obs.npy").read_bytes()
    found = open_dataset("logs")
    mapped = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    assert {str(path.resolve()) for path in Path("logs").glob("*.npy") if path.name != "starts.npy"} <= set(mapped)
    found.steps.obs[0] = 99.0
    assert Path("logs/obs.npy").read_bytes() == before


def damage_json(folder: Path) -> None:
    (folder / "dataset.json").write_text("{")


def damage_space(folder: Path) -> None:
    about = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**about, "action_space": {"kind": "nothing"}}))


def damage_types(folder: Path) -> None:
    """Each part of the description in turn as something else."""
    about = json.loads((folder / "dataset.json").read_text())
    parts = {"name": [5, "\x1b[31m"], "env": [5], "env_kwargs": [4], "about": [3, {"notes": 5}], "columns": [[1]]}
    for key, values in parts.items():
        for value in values:
            (folder / "dataset.json").write_text(json.dumps({**about, key: value}))
            with pytest.raises(BadDataset, match="damaged"):
                open_dataset(folder)


def damage_column_name(folder: Path) -> None:
    about = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**about, "columns": {**about["columns"], "odd": "obs"}}))


def damage_missing(folder: Path) -> None:
    (folder / "reward.npy").unlink()


def damage_short(folder: Path) -> None:
    whole = (folder / "obs.npy").read_bytes()
    (folder / "obs.npy").write_bytes(whole[:-4])


def damage_empty(folder: Path) -> None:
    (folder / "starts.npy").write_bytes(b"")


def damage_pickle(folder: Path) -> None:
    np.save(folder / "starts.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


def damage_rows(folder: Path) -> None:
    np.save(folder / "reward.npy", np.zeros(7, np.float32))


def damage_starts(folder: Path) -> None:
    np.save(folder / "starts.npy", np.array([0, 1000]))


@pytest.mark.parametrize("damage", [f for name, f in sorted(globals().items()) if name.startswith("damage_")])
def test_a_damaged_folder_is_refused_in_one_line_that_names_it(damage):
    folder = dataset().save("logs")
    damage(folder)
    with pytest.raises(BadDataset, match="logs") as caught:
        open_dataset(folder)
    assert "\n" not in str(caught.value)


def test_a_column_cannot_be_read_from_outside_the_folder():
    dataset().save("logs")
    np.save("secret.npy", np.zeros(9, np.float32))
    about = json.loads(Path("logs/dataset.json").read_text())
    about["columns"]["reward"] = "../secret"
    Path("logs/dataset.json").write_text(json.dumps(about))
    with pytest.raises(BadDataset, match="damaged"):
        open_dataset("logs")


def test_names_lead_to_datasets(monkeypatch, tmp_path):
    monkeypatch.setenv("PALAESTRA_DATA", str(tmp_path / "kept"))
    made = dataset().save(tmp_path / "kept" / "mine")
    assert stored() == ["mine"]
    for spec in ("mine", "data:mine", str(made), made):
        assert load_dataset(spec).name == "logs"
    with pytest.raises(pal.PalaestraError, match="did you mean 'mine'"):
        load_dataset("mien")
    with pytest.raises(pal.PalaestraError, match="did you mean 'minari'"):
        load_dataset("minary:x")
    with pytest.raises(pal.PalaestraError, match=r"there is no folder \.\./elsewhere"):
        load_dataset("../elsewhere")
    for spec in ("local:Pendulum-v1/medium", "minari:far/off-v0"):
        with pytest.raises(BadDataset, match=f"{spec} is not on this machine"):
            load_dataset(spec, fetch=False)
    Path("logs.csv").write_text("")
    with pytest.raises(BadDataset, match=r"palaestra data import logs\.csv"):
        load_dataset("logs.csv")


# Datasets as tasks.


def test_without_an_environment_a_method_trains_and_is_not_evaluated():
    logs = dataset([30, 30])
    task = DatasetTask(logs)
    assert not task.evaluates and task.score(3.0) is None
    run = pal.train(TD3BC(network=(4,), batch_size=4), task, updates=6, out="run", quiet=True, tensorboard=False)
    assert run.record["status"] == "finished"
    assert not any("evaluation/return" in row for row in run.metrics)
    with pytest.raises(Unsupported, match="logs names no environment to act in; give one with --task"):
        task.evaluate(run.policy, 1, 0)


def test_a_dataset_is_a_task_wherever_one_is_expected():
    logs = random_dataset("Pendulum-v1", 250)
    assert as_task(logs).dataset is logs and as_task(logs, env="Pendulum-v1").evaluates


def test_the_environment_is_the_datasets_own_or_the_one_that_is_given():
    logs = random_dataset("Pendulum-v1", 250, env_kwargs={"g": 2.0})
    assert DatasetTask(logs).environment.kwargs == {"g": 2.0}
    assert DatasetTask(logs, env="Pendulum-v1").environment.kwargs == {}
    assert DatasetTask(logs).score(-150.0) == 100


def test_code_that_a_dataset_names_is_not_executed(tmp_path):
    """A dataset from elsewhere could bring a file, or name a function of any module."""
    (tmp_path / "own.py").write_text(f"import os; os.mkdir({str(tmp_path / 'executed')!r})")
    for env, kwargs in ((f"{tmp_path / 'own.py'}:make", {}), ("os:mkdir", {"path": str(tmp_path / "executed")})):
        logs = random_dataset("Pendulum-v1", 250, env_kwargs=kwargs)
        with pytest.warns(UserWarning, match="is code, which must be named with --task to be run"):
            task = DatasetTask(dataclasses.replace(logs, env=env))
        assert not task.evaluates and not (tmp_path / "executed").exists()


@pytest.mark.parametrize("env", ["logs", "data:logs", "local:os:mkdir/random", "minari:any/thing-v0"])
def test_a_dataset_is_no_environment_of_another(env):
    dataclasses.replace(random_dataset("Pendulum-v1", 250), env=env).save("logs")
    with pytest.warns(UserWarning, match=f"learnt from without evaluations: its environment {env} is a dataset"):
        assert not DatasetTask("logs").evaluates


def test_references_out_of_order_score_nothing():
    assert DatasetTask(dataset(references=(1.0, 1.0))).score(1.0) is None


def test_another_environment_is_refused_by_its_spaces():
    logs = dataclasses.replace(random_dataset("Pendulum-v1", 250), env=None)
    with pytest.raises(Unsupported, match=r"observation space .* CartPole-v1 has"):
        DatasetTask(logs, env="CartPole-v1")
    narrow = dataclasses.replace(logs, action_space=gym.spaces.Box(-1, 1, (1,), np.float32))
    with pytest.raises(Unsupported, match="action space"):
        DatasetTask(narrow, env="Pendulum-v1")
    wide = dataclasses.replace(logs, observation_space=gym.spaces.Box(-np.inf, np.inf, (3,), np.float32))
    assert DatasetTask(wide, env="Pendulum-v1").evaluates


def test_a_folder_is_remembered_by_its_whole_path_so_that_a_run_resumes_from_anywhere(tmp_path, monkeypatch):
    random_dataset("Pendulum-v1", 250).save("logs")
    assert as_task("logs").describe()["spec"] == str(tmp_path / "logs")
    assert DatasetTask(Path("logs")).describe()["spec"] == str(tmp_path / "logs")
    pal.train(TD3BC(network=(4,), batch_size=4), "logs", updates=4, out="run", quiet=True, tensorboard=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pal.load_run(tmp_path / "run").task.name == "random Pendulum-v1"


def test_an_online_method_refuses_data_and_an_offline_one_an_environment():
    with pytest.raises(Unsupported, match="sac learns by interaction, but logs is a dataset; use --task ID"):
        SAC().bind(DatasetTask(dataset()), 0, Budget(steps=1))
    with pytest.raises(Unsupported, match=r"td3-bc learns from data.*--dataset local:Pendulum-v1/medium"):
        TD3BC().bind(as_task("Pendulum-v1"), 0, Budget(updates=1))
