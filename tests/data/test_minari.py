"""Minari's datasets in and out: what goes through comes back, and is converted once."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadDataset, BadSetting
from palaestra.data import minari as ours
from palaestra.data.load import load_dataset
from palaestra.data.minari import read_minari, write_minari
from palaestra.data.task import DatasetTask
from tests.datasets import random_dataset
from tests.environments import ACTIONS, OBSERVATIONS

from .test_dataset import assert_equal, dataset, filled

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")

from minari.data_collector.episode_buffer import EpisodeBuffer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")  # about authors and links that are not given


@pytest.fixture(autouse=True)
def _kept_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PALAESTRA_DATA", str(tmp_path / "kept"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def created(name: str, lengths: list[int], last: str = "truncations", **about):
    """A dataset as another program would write it: observations count the rows, in double precision."""
    buffers, row = [], 0
    for n in lengths:
        flags = {kind: [False] * n for kind in ("terminations", "truncations")}
        if last:
            flags[last][-1] = True
        obs = np.stack([np.arange(row, row + n + 1), np.full(n + 1, n)], 1).astype(np.float64)
        buffers.append(
            EpisodeBuffer(
                observations=obs, actions=np.linspace(-2, 2, n)[:, None], rewards=[1.0] * n, infos={"x": obs}, **flags
            )
        )
        row += n + 1
    spaces = {
        "observation_space": gym.spaces.Box(-np.inf, np.inf, (2,), np.float64),
        "action_space": gym.spaces.Box(-2, 2, (1,), np.float64),
    }
    return minari.create_dataset_from_buffers(name, buffers, **{**spaces, **about})


def test_steps_arrive_with_their_true_next_observations_and_scaled_actions():
    created("logs/walk-v0", [3, 2])
    logs = load_dataset("minari:logs/walk-v0")
    assert logs.name == "minari:logs/walk-v0"
    assert logs.lengths.tolist() == [3, 2] and logs.returns.tolist() == [3, 2]
    assert logs.steps.obs[:, 0].tolist() == [0, 1, 2, 4, 5]
    assert logs.steps.next_obs[:, 0].tolist() == [1, 2, 3, 5, 6]
    assert logs.steps.action[:, 0].tolist() == [-1, 0, 1, -1, 1]
    assert logs.steps.truncated.tolist() == [0, 0, 1, 0, 1] and not logs.steps.terminated.any()


def test_terminated_and_truncated_are_kept_apart():
    created("ends-v0", [3, 2], last="terminations")
    logs = read_minari("ends-v0")
    assert logs.steps.terminated.tolist() == [0, 0, 1, 0, 1] and not logs.steps.truncated.any()


@pytest.mark.parametrize("observations", OBSERVATIONS)
@pytest.mark.parametrize("actions", ACTIONS)
def test_any_dataset_comes_back_from_minari_as_it_was(observations, actions):
    made = filled(observations, actions)
    write_minari(made, "made/any-v0")
    found = read_minari("made/any-v0")
    for (name, a), (_, b) in zip(made.steps.items(), found.steps.items(), strict=True):
        if name == "action" and a.is_floating_point():
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
        elif name == "next_obs":  # that of the last step of an episode, elsewhere the following observation
            assert_equal(made.steps[made.stops - 1].next_obs, found.steps[found.stops - 1].next_obs, name)
        else:
            assert_equal(a, b, name)
    assert found.observation_space == made.observation_space and found.action_space == made.action_space
    assert found.references == made.references and found.about == made.about


def test_images_that_minari_compresses_can_be_read():
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 255, (4, 4, 1)), np.ones((8, 8, 3))).astype(np.uint8)
    buffer = EpisodeBuffer(
        observations=np.stack([picture] * 3),
        actions=np.array([0, 1]),
        rewards=[0.0, 1.0],
        terminations=[False, True],
        truncations=[False, False],
    )
    spaces = {
        "observation_space": gym.spaces.Box(0, 255, (32, 32, 3), np.uint8),
        "action_space": gym.spaces.Discrete(2),
    }
    minari.create_dataset_from_buffers("pixels-v0", [buffer], **spaces)
    logs = read_minari("pixels-v0")
    assert logs.steps.obs.shape == (2, 32, 32, 3) and logs.steps.obs.dtype == torch.uint8
    assert float((logs.steps.obs[0].float() - torch.from_numpy(picture).float()).abs().mean()) < 10


def test_it_is_converted_when_first_opened_and_when_it_was_written_since(monkeypatch):
    created("logs/walk-v0", [3, 2])
    first = read_minari("logs/walk-v0")
    with monkeypatch.context() as patch:
        patch.setattr(ours, "_convert", lambda *given: pytest.fail("converted again"))
        assert torch.equal(read_minari("logs/walk-v0").steps.obs, first.steps.obs)
    file = Path("minari/logs/walk-v0/data/main_data.hdf5")
    os.utime(file, ns=(0, 0))
    assert len(read_minari("logs/walk-v0")) == 5
    assert len(list(Path("kept/cache/minari").rglob("dataset.json"))) == 2


def test_a_conversion_that_fails_leaves_nothing_that_looks_whole(monkeypatch):
    created("logs/walk-v0", [3, 2])
    with monkeypatch.context() as patch:
        patch.setattr(ours, "encode", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            read_minari("logs/walk-v0")
    assert not list(Path("kept").rglob("dataset.json"))
    assert len(read_minari("logs/walk-v0")) == 5


def test_an_episode_that_does_not_say_how_it_ended_was_cut_off_and_that_is_stated():
    created("open-v0", [3, 2], last="")
    logs = read_minari("open-v0")
    assert logs.steps.truncated.tolist() == [0, 0, 1, 0, 1]
    assert logs.about["notes"] == ["2 episodes end without saying how: their last steps count as truncated"]


def test_what_cannot_be_learnt_from_is_refused_in_one_line():
    broken = EpisodeBuffer(
        observations=np.zeros((4, 2)),
        actions=np.zeros((3, 1)),
        rewards=[0.0] * 3,
        terminations=[False, True, False],
        truncations=[False, False, True],
    )
    created("some-v0", [2])
    minari.load_dataset("some-v0").storage.update_episodes([broken])
    with pytest.raises(BadDataset, match=r"minari:some-v0 .*episode 1 ends at step 1, but has 3 steps"):
        read_minari("some-v0")
    wild = dataclasses.replace(broken, actions=np.full((3, 1), 5.0), terminations=[False] * 3)
    created("wild-v0", [2])
    minari.load_dataset("wild-v0").storage.update_episodes([wild])
    with pytest.raises(BadDataset, match=r"3 actions are outside Box\(-2\.0, 2\.0.*the first in row 2"):
        read_minari("wild-v0")


def test_a_damaged_file_is_named():
    created("torn-v0", [3])
    Path("minari/torn-v0/data/main_data.hdf5").write_bytes(b"nothing")
    with pytest.raises(BadDataset, match="minari:torn-v0 cannot be read"):
        read_minari("torn-v0")
    Path("minari/torn-v0/data/metadata.json").unlink()
    with pytest.raises(BadDataset, match="minari:torn-v0 cannot be read"):
        read_minari("torn-v0")


def test_one_that_is_not_here_is_downloaded_by_minari(monkeypatch):
    monkeypatch.setattr(minari, "download_dataset", lambda dataset_id: created(dataset_id, [4]))
    assert len(read_minari("far/away-v0")) == 4
    monkeypatch.setattr(minari, "download_dataset", lambda dataset_id: (_ for _ in ()).throw(OSError("no\nnetwork")))
    with pytest.raises(BadDataset, match=r"no Minari dataset far/off-v0 in .*cannot be downloaded: no network"):
        read_minari("far/off-v0")
    with pytest.raises(BadSetting, match="an id of Minari's is NAME-vN"):
        read_minari("../far-v0")


def test_its_environment_is_the_one_to_evaluate_on():
    env = gym.make("Pendulum-v1", g=5.0, max_episode_steps=50)
    created("pendulum-v0", [3], env=env, observation_space=gym.spaces.Box(-np.inf, np.inf, (2,), np.float64))
    logs = read_minari("pendulum-v0")
    assert logs.env == "Pendulum-v1" and logs.env_kwargs == {"g": 5.0, "max_episode_steps": 50}
    made = random_dataset("Pendulum-v1", 250, env_kwargs={"g": 5.0, "max_episode_steps": 50})
    write_minari(made, "made-v0")
    task = DatasetTask("minari:made-v0")
    assert task.environment.kwargs == {"g": 5.0, "max_episode_steps": 50}
    assert minari.load_dataset("made-v0").recover_environment().spec.max_episode_steps == 50
    run = pal.train("bc", "minari:made-v0", updates=2, out="run", quiet=True, tensorboard=False, evaluate_episodes=1)
    assert run.metrics[-1]["evaluation/length"] == 50


def test_an_environment_that_is_not_installed_costs_the_evaluations_only():
    logs = dataclasses.replace(random_dataset("Pendulum-v1", 250), env="NotHere-v3")
    with pytest.warns(UserWarning, match=r"learnt from without evaluations: unknown task 'NotHere-v3'"):
        task = DatasetTask(logs)
    assert not task.evaluates


def test_a_wrapped_environment_is_not_taken_for_the_plain_one():
    env = gym.wrappers.ClipReward(gym.make("Pendulum-v1"), -1.0, 1.0)
    created("wrapped-v0", [3], env=env, observation_space=gym.spaces.Box(-np.inf, np.inf, (2,), np.float64))
    logs = read_minari("wrapped-v0")
    assert logs.env is None and "Pendulum-v1 was wrapped (ClipReward)" in logs.about["notes"][0]


def test_other_programs_can_read_what_is_written():
    made = dataset([3, 2], references=(-1.0, 2.0))
    write_minari(made, "mine/logs-v0")
    found = minari.load_dataset("mine/logs-v0")
    first, second = found.iterate_episodes()
    assert first.observations.shape == (4, 2) and second.actions.shape == (2, 1)
    assert first.terminations.tolist() == [False, False, True] and second.truncations.tolist() == [False, True]
    assert found.storage.metadata["ref_min_score"] == -1 and found.storage.metadata["ref_max_score"] == 2
    with pytest.raises(BadSetting, match="a Minari dataset mine/logs-v0 already"):
        write_minari(made, "mine/logs-v0")


def test_an_id_that_minari_does_not_take_is_refused_and_leaves_nothing():
    with pytest.raises(BadDataset, match="Minari does not take logs as a/b-v0"):  # names of one letter
        write_minari(dataset(), "a/b-v0")
    assert not Path("minari/a/b-v0").exists()
    with pytest.raises(BadSetting, match="an id of Minari's is NAME-vN"):
        write_minari(dataset(), "no version")
