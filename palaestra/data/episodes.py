"""Whole episodes: played by a policy, cut out of steps in order, and laid end to end as a dataset."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from palaestra.core.experience import Experience
from palaestra.core.method import Counters
from palaestra.core.policy import Policy
from palaestra.core.seeding import Streams
from palaestra.data.dataset import COLUMNS, Dataset
from palaestra.envs.rollout import Rollout
from palaestra.envs.task import EnvTask

COLLECTORS = 8
"""Environments stepped side by side while collecting."""


def play(
    task: EnvTask,
    policy: Policy,
    seed: int,
    size: int = 0,
    episodes: int = 1,
    stream: str = "collect",
    random: bool = False,
) -> list[Experience]:
    """Whole episodes of a policy, or of uniform actions in its units, until there are `size` steps and `episodes` of them.

    They are in the order in which they began, and none that began before the last one is missing: taking those that end
    first would prefer short ones.
    """
    streams = Streams(seed)
    envs = task.envs(COLLECTORS, streams, f"{stream}/{'random' if random else 'policy'}")
    rollout = Rollout(envs, streams, Counters())
    open_rows: list[list[Experience]] = [[] for _ in range(COLLECTORS)]
    began, played = [0] * COLLECTORS, 0
    done: list[tuple[int, int, Experience]] = []
    while True:
        steps = rollout.collect(policy, 100, random)
        for i in range(COLLECTORS):
            open_rows[i].append(steps.map(lambda x, i=i: x[:, i]).chosen())  # type: ignore[misc]
            *whole, rest = cut(Experience.cat(open_rows[i]))
            for episode in whole:
                done.append((began[i], i, episode))
                began[i] += len(episode)
                played += len(episode)
            open_rows[i] = [rest] if len(rest) else []
        if len(done) >= episodes and played >= size:
            earliest_open = min((start, i) for i, start in enumerate(began))
            ready = sorted(((start, i, e) for start, i, e in done if (start, i) < earliest_open), key=lambda d: d[:2])
            total = list(itertools.accumulate(len(episode) for *_, episode in ready))
            enough = [n for n, steps_so_far in enumerate(total, 1) if n >= episodes and steps_so_far >= size]
            if enough:
                envs.close()
                return [episode for *_, episode in ready[: enough[0]]]


def cut(steps: Experience) -> list[Experience]:
    """Steps in order as episodes; the last element is what has not ended yet, possibly empty."""
    ends = ((steps.terminated + steps.truncated) > 0).nonzero().flatten() + 1
    bounds = [0, *ends.tolist(), len(steps)]
    return [steps[start:stop] for start, stop in itertools.pairwise(bounds)]


def assemble(name: str, episodes: Sequence[Experience], task: Any, **about: Any) -> Dataset:
    """Whole episodes, each with the columns of a dataset, laid end to end; `task` is the environment they are from, or another
    dataset with their spaces."""
    if isinstance(task, EnvTask):
        about = {"env": task.describe()["spec"], "env_kwargs": task.kwargs, **about}
    starts = torch.tensor([0, *(len(episode) for episode in episodes[:-1])]).cumsum(0)
    steps = Experience.cat([episode.only(*COLUMNS) for episode in episodes])
    return Dataset(name, steps, starts, task.observation_space, task.action_space, **about)
