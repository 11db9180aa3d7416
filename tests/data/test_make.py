"""Datasets made here: each quality is what its name says, and the same again whatever happened in between."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadDataset, BadSetting, UnknownName, Unsupported
from palaestra.core.experience import tree_leaves
from palaestra.data import make as making
from palaestra.data.behaviour import Behaviour, Recipe
from palaestra.data.dataset import Dataset
from palaestra.data.load import load_dataset
from palaestra.data.make import make
from palaestra.data.mixture import mix, mixture
from palaestra.envs import lock
from palaestra.methods.online.dqn import DQN
from palaestra.methods.online.ppo import PPO
from palaestra.methods.online.sac import SAC

from .test_dataset import dataset


class Walk(gym.Env):
    """Right is rewarded; an episode ends after 5 to 12 steps, and is cut off after 9."""

    observation_space = gym.spaces.Box(-20, 20, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None):
        super().reset(seed=seed)
        self.clock, self.place, self.end = 0, 0, int(self.np_random.integers(5, 13))
        return self.seen(), {}

    def step(self, action: int):
        self.clock += 1
        self.place += 2 * int(action) - 1
        return self.seen(), float(action), self.clock == self.end, self.clock == 9 != self.end, {}

    def seen(self) -> np.ndarray:
        return np.array([self.place, self.clock], np.float32)


gym.register("PalaestraWalk-v0", Walk)
ENV = "PalaestraWalk-v0"
TINY = DQN(network=(8,), batch_size=8, buffer_size=400, warmup_steps=20, gamma=0.5, lr=3e-3, target_every=20)
PLAIN = ("random", "medium", "expert", "noisy", "medium-replay", "full-replay", "replay", "medium-expert", "mixed")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Where the behaviour that most tests need is trained once."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def qualities(home) -> dict[str, Dataset]:
    """Every quality once, from one behaviour."""
    with pytest.MonkeyPatch.context() as patch:
        small(patch, home)
        return {
            quality: made(quality)
            for quality in (*PLAIN, "random-medium-expert", "random-expert-0.1", "random-medium-.5")
        }


@pytest.fixture(autouse=True)
def _kept_here(qualities, home, tmp_path, monkeypatch):
    shutil.copytree(home / "behaviour", tmp_path / "kept" / "behaviour")
    small(monkeypatch, tmp_path / "kept")


def small(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("PALAESTRA_DATA", str(folder))
    patch.setattr("palaestra.data.behaviour.RANDOM_EPISODES", 20)
    patch.setattr("palaestra.data.behaviour.SNAPSHOTS", 8)


def made(quality: str, **changed) -> Dataset:
    return make(ENV, quality, **{"method": TINY, "steps": 400, "size": 300, "quiet": True, **changed})


def score(logs: Dataset) -> float:
    return logs.score(float(logs.returns.mean()))


def test_qualities_are_ordered_by_their_returns(qualities):
    scores = {name: score(logs) for name, logs in qualities.items()}
    assert scores["random"] == pytest.approx(0, abs=10)
    assert scores["expert"] == pytest.approx(100, abs=15)
    assert scores["random"] < scores["mixed"] < scores["noisy"] < scores["expert"]
    assert 20 < scores["medium"] <= scores["expert"]
    between = scores["medium"] - 1e-9 <= scores["medium-expert"] <= scores["expert"] + 1e-9
    assert between and scores["random"] < scores["random-expert-0.1"] < scores["expert"]


def test_medium_is_the_first_snapshot_a_third_of_the_way_and_expert_the_best(qualities):
    logs = qualities["medium"]
    low, high = logs.references
    snapshots = logs.about["snapshots"]
    assert high == max(value for _, value in snapshots)
    third = next([step, value] for step, value in snapshots if value >= low + (high - low) / 3)
    assert logs.about["snapshot"] == third
    assert qualities["expert"].about["snapshot"][1] == high
    assert qualities["random"].references == logs.references


def test_episodes_are_whole_and_steps_follow_each_other(qualities):
    for name, logs in qualities.items():
        for episode in itertools.islice(logs.episodes(), 50):
            assert torch.equal(episode.next_obs[:-1], episode.obs[1:]), name
            assert float((episode.terminated + episode.truncated)[:-1].sum()) == 0
            assert episode.obs[0].tolist() == [0, 0]
        lasts = logs.stops - 1
        cut_off = logs.steps.truncated[lasts] > 0
        ends = logs.lengths[cut_off]
        expected = (ends == 9) if "replay" not in name else (ends == 9)[:-1]  # collecting stops in the middle of one
        assert bool(expected.all()), name


def test_sizes_are_what_was_asked_for(qualities):
    for name in ("random", "medium", "expert", "noisy"):
        assert 300 <= len(qualities[name]) < 312
    assert 600 <= len(qualities["medium-expert"]) < 624
    thirds = [qualities[name] for name in ("random", "medium", "expert")]
    assert torch.equal(qualities["random-medium-expert"].returns, torch.cat([logs.returns for logs in thirds]))
    assert 300 <= len(qualities["mixed"]) < 324
    assert len(qualities["full-replay"]) == len(qualities["replay"]) == 400


def test_noisy_takes_one_action_in_five_at_random(qualities):
    expert, noisy = qualities["expert"], qualities["noisy"]
    assert float((expert.steps.action == 1).double().mean()) > 0.95
    wrong = float((noisy.steps.action != 1).double().mean())
    assert pytest.approx(wrong, abs=4 * (0.09 / len(noisy)) ** 0.5 + 0.02) == 0.1


def test_replay_is_what_the_learner_collected_in_order(qualities):
    replay, early = qualities["full-replay"], qualities["medium-replay"]
    step = early.about["snapshot"][0]
    assert len(early) == step < 400
    for a, b in zip(tree_leaves(early.steps.obs), tree_leaves(replay.steps.obs[:step]), strict=True):
        assert torch.equal(a, b)
    assert float(early.steps.truncated[-1] + early.steps.terminated[-1]) == 1


def test_mixtures_hold_the_share_of_good_steps_that_their_name_says(qualities):
    for quality, good, share in (("random-expert-0.1", "expert", 0.1), ("random-medium-.5", "medium", 0.5)):
        logs, pool = qualities[quality], qualities[good]
        known = {tuple(episode.action.tolist()) for episode in pool.episodes()}
        total, taken = len(pool), 0
        for episode in logs.episodes():
            if tuple(episode.action.tolist()) not in known or taken > share * total:
                break
            taken += len(episode)
        assert share * total < taken <= share * total + 12
        assert total < len(logs) <= total + 12


def test_whole_episodes_are_drawn_until_each_part_has_enough():
    pools = [list(dataset([n] * 4).episodes()) for n in (3, 5)]
    drawn = mixture(*pools, share=0.3, size=20, seed=0)
    assert [len(episode) for episode in drawn] == [3, 3, 3, 5, 5, 5]  # beyond 6, then beyond 20
    assert len(mixture(*pools, share=0.3, size=20, seed=0)) == 6


class Uneven(Walk):
    """Episodes of 2 or of 150 steps, one as often as the other."""

    def step(self, action: int):
        seen, reward, *_ = super().step(action)
        return seen, reward, self.clock == (2 if self.end < 9 else 150), False, {}


gym.register("PalaestraUneven-v0", Uneven)


def test_short_episodes_are_not_preferred_because_they_end_first():
    task, long = making.as_task("PalaestraUneven-v0"), 0
    for seed in range(8):
        behaviour = Behaviour(task, Recipe(TINY, 400, 60), seed, quiet=True)
        few = behaviour.play(None, episodes=8)
        long += sum(len(episode) == 150 for episode in few)
        assert [len(e) for e in behaviour.play(None, episodes=20)][:8] == [len(e) for e in few]
    assert long / 64 == pytest.approx(0.5, abs=4 * 0.5 / 64**0.5)


def test_the_same_again_whatever_was_made_before():
    first = {name: path.read_bytes() for name, path in columns(made("medium"))}
    shutil.rmtree("kept")
    again = dict(columns(made("medium")))
    assert {name: path.read_bytes() for name, path in again.items()} == first
    assert {name: path.read_bytes() for name, path in columns(made("medium", seed=1))} != first


def columns(logs: Dataset) -> list[tuple[str, Path]]:
    """The files of the one dataset that was saved last."""
    newest = max(Path("kept/local").rglob("dataset.json"), key=lambda path: path.stat().st_mtime_ns).parent
    return [(path.name, path) for path in sorted(newest.glob("*.npy"))]


def test_a_dataset_that_is_there_is_opened_and_not_made_again(monkeypatch):
    made("random")
    monkeypatch.setattr(Behaviour, "episodes", lambda *given: pytest.fail("made again"))
    assert len(made("random")) >= 300


def test_an_interrupted_behaviour_goes_on_where_it_was(monkeypatch):
    class Killed(BaseException):
        pass

    whole = {name: path.read_bytes() for name, path in columns(made("full-replay"))}
    shutil.rmtree("kept")
    step, calls = DQN.step, []

    def mortal(self):
        calls.append(None)
        if len(calls) == 300 // TINY.steps_per_round:
            raise Killed
        return step(self)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(DQN, "step", mortal)
        made("full-replay")
    calls.clear()
    monkeypatch.setattr(DQN, "step", lambda self: (calls.append(None), step(self))[1])
    resumed = {name: path.read_bytes() for name, path in columns(made("full-replay"))}
    assert resumed == whole
    assert 0 < len(calls) < 400 // TINY.steps_per_round


def test_a_name_that_holds_something_else_is_not_taken_for_what_was_asked():
    logs = made("random", name="mine")
    assert logs.name == "mine" and len(load_dataset("mine")) == len(logs)
    assert len(made("random", name="mine")) == len(logs)
    with pytest.raises(BadSetting, match="mine is there already and is something else"):
        made("expert", name="mine")


def test_recipes_that_are_not_the_usual_one_have_names_of_their_own(monkeypatch):
    monkeypatch.setattr(making, "recipe", lambda task: Recipe(TINY, 400, 300))
    usual = make(ENV, "random", quiet=True)
    assert usual.name == f"local:{ENV}/random"
    assert len(load_dataset(f"local:{ENV}/random")) == len(usual)
    larger = make(ENV, "random", size=600, quiet=True)
    assert len(larger) >= 600 and len(load_dataset(larger.name)) == len(larger)
    assert larger.name == f"local/{ENV}/random-size=600/seed0"
    assert make(ENV, "random", steps=350, size=20, quiet=True).name == f"local/{ENV}/random-steps=350-size=20/seed0"
    assert make(ENV, "random", seed=2, quiet=True).name == f"local:{ENV}/random/seed2"


def test_a_local_name_is_made_when_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(making, "recipe", lambda task: Recipe(TINY, 400, 300))
    task = pal.train("bc", f"local:{ENV}/random/seed3", updates=2, out="run", quiet=True, tensorboard=False).task
    assert task.dataset.about["seed"] == 3 and task.environment.name == ENV


def test_what_cannot_be_made_is_refused():
    with pytest.raises(UnknownName, match=re.escape("unknown quality 'good' (known: expert, full-replay")):
        made("good")
    for quality in ("random-expert", "random-expert-0.0", "random-expert-1.5", "medium-0.5"):
        with pytest.raises(UnknownName, match="unknown quality"):
            made(quality)
    with pytest.raises(BadSetting, match="local:Pendulum-v1/medium"):
        load_dataset("local:Pendulum-v1")
    with pytest.raises(Unsupported, match="buffer_size"):
        made("replay", method=DQN(network=(8,), batch_size=8, buffer_size=100, warmup_steps=20))
    with pytest.raises(Unsupported, match="num_envs=1"):
        made("replay", method=DQN(network=(8,), batch_size=8, buffer_size=400, warmup_steps=20, num_envs=2))
    with pytest.raises(Unsupported, match="replay buffer"):
        made("replay", method=PPO(network=(8,), num_envs=1, rollout_steps=50, minibatch=10))
    with pytest.raises(BadSetting, match="acting in an environment"):
        dataset().save("logs")
        make("logs", "random", quiet=True)


def test_more_steps_than_there_is_room_for_are_refused_before_anything_is_made(monkeypatch, tmp_path):
    """A step of the walk is 36 bytes: two observations of two floats, an action of 8 bytes, three floats."""
    monkeypatch.setenv("PALAESTRA_DATA", str(tmp_path / "not" / "yet"))
    with pytest.raises(
        BadSetting, match=r"1e\+99 steps of PalaestraWalk-v0 take 3\.6e\+91 GB, 36 bytes each, but the disk of"
    ):
        make(ENV, "medium", size=10**99, quiet=True)
    monkeypatch.setattr("palaestra.data.load.shutil.disk_usage", lambda place: SimpleNamespace(free=100 * 36))
    with pytest.raises(BadSetting, match=r"101 steps .* has 3\.6e-06 GB free"):
        make(ENV, "random", size=101, quiet=True)
    with pytest.raises(BadSetting, match="102 steps"):
        make(ENV, "medium-expert", size=51, quiet=True)
    with pytest.raises(BadSetting, match=r"113 steps of logs take .* 32 bytes each"):
        mix(dataset(), dataset(), 0.5, name="both", size=113)
    assert not (tmp_path / "not").exists()
    assert len(make(ENV, "random", method=TINY, steps=400, size=20, quiet=True)) >= 20


@pytest.mark.parametrize("size", [0, -3, 10.5, float("nan")])
def test_a_size_that_is_no_number_of_steps_is_refused(size):
    with pytest.raises(BadSetting, match="size must be a whole number of steps"):
        make(ENV, "random", size=size, quiet=True)
    with pytest.raises(BadSetting, match="size must be a whole number from 1 to"):
        mix(dataset(), dataset(), 0.5, name="both", size=size)


def test_a_behaviour_that_learnt_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(Behaviour, "random_return", 1e9)
    with pytest.raises(BadDataset, match=r"never did better than random .*train it longer"):
        made("medium")


def test_noise_is_for_discrete_policies(monkeypatch):
    tiny = SAC(network=(4,), batch_size=8, buffer_size=250, warmup_steps=220)
    monkeypatch.setattr(Behaviour, "references", (0.0, 1.0))
    with pytest.raises(BadDataset, match="noisy data are made with a discrete policy"):
        make("Pendulum-v1", "noisy", method=tiny, steps=225, size=200, quiet=True)


def test_two_datasets_are_mixed_by_whole_episodes():
    good, rest = dataset([3] * 10, references=(0.0, 5.0)), dataset([5] * 10)
    mixed = mix(good, rest, 0.2, name="both", size=40)
    assert mixed.lengths.tolist() == [3] * 3 + [5] * 7
    assert mixed.references == (0.0, 5.0)
    assert mixed.about["mixed"] == {"good": "logs", "rest": "logs", "share": 0.2, "seed": 0}
    assert len(load_dataset("both")) == len(mixed)
    with pytest.raises(BadSetting, match="is there already"):
        mix(good, rest, 0.2, name="both")
    with pytest.raises(BadSetting, match="share must be between 0 and 1"):
        mix(good, rest, 1.2, name="other")
    other = Dataset("other", rest.steps, rest.starts, rest.observation_space, gym.spaces.Box(-1, 1, (1,), np.float32))
    with pytest.raises(BadDataset, match=r"logs has the action space .* but other has"):
        mix(good, other, 0.2, name="third")


def test_an_environment_may_bring_behaviours_of_its_own(monkeypatch):
    monkeypatch.setattr(lock, "BEHAVIOURS", {"near-optimal-20k": 30})
    name = "palaestra/CombinationLock5-v0"
    found = load_dataset(f"local:{name}/near-optimal-20k/seed1")
    assert found.name == f"local:{name}/near-optimal-20k/seed1"
    assert (found.env, found.about) == (name, {"quality": "near-optimal-20k", "seed": 1})
    assert found.lengths.tolist() == [5] * 30
    again = make(name, "near-optimal-20k", seed=1)
    assert torch.equal(again.steps.obs, found.steps.obs)
    assert not torch.equal(make(name, "near-optimal-20k").steps.obs, found.steps.obs)
    assert len(make(name, "near-optimal-20k", name="mine")) == len(load_dataset("mine"))
    with pytest.raises(BadSetting, match="brings near-optimal-20k itself"):
        make(name, "near-optimal-20k", size=10)
    with pytest.raises(UnknownName, match="unknown quality"):
        make("CartPole-v1", "near-optimal-20k")
