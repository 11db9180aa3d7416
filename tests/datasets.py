"""Small datasets for tests, each made from nothing but a seed."""

from __future__ import annotations

from pathlib import Path

from palaestra.core import spaces
from palaestra.core.method import Budget, Counters
from palaestra.core.seeding import Streams
from palaestra.data.dataset import Dataset
from palaestra.data.episodes import assemble, cut
from palaestra.envs.rollout import Rollout
from palaestra.envs.task import EnvTask
from palaestra.methods.online.dqn import DQN
from palaestra.methods.online.sac import SAC

SMALL = {"buffer_size": 8, "batch_size": 8, "network": (4,)}


def random_dataset(env: str, steps: int, **about) -> Dataset:
    """Uniform actions; the last episode is cut off."""
    task = EnvTask(env)
    method = (SAC if spaces.kind(task.action_space) == "box" else DQN)(**SMALL)
    policy = method.bind(task, 0, Budget(steps=1)).policy()
    rollout = Rollout(task.envs(1, Streams(0), "data"), Streams(0), Counters())
    rows = rollout.collect(policy, steps, random=True).map(lambda x: x[:, 0])
    rows.truncated[-1] = 1.0 - rows.terminated[-1]
    *episodes, _ = cut(rows)
    return assemble(f"random {env}", episodes, task, **{"references": (-1200.0, -150.0), **about})


def save_tiny(env: str, folder: str) -> str:
    """A dataset of a few hundred steps in `folder`, by which a task names it."""
    if not (Path(folder) / "dataset.json").exists():
        random_dataset(env, 450).save(folder)
    return folder
