"""Datasets made here: a behaviour policy is trained online, and its snapshots, or its own experience, become data.

- `random`: uniform actions. `expert`: the best snapshot. `medium`: the first snapshot whose return is a third of the way from
  random to expert. `noisy`: the expert with a fifth of its actions random (discrete actions).
- `medium-replay`: all that the learner collected up to the medium snapshot; `full-replay` (or `replay`): all of it.
- `medium-expert`: equal parts; `random-medium-X`, `random-expert-X`: a share X of steps from good episodes, the rest from random
  ones (Hong et al., arXiv 2306.13085); `mixed`: four fifths random, one fifth expert (Schweighofer et al., arXiv 2111.04714).

Everything is a function of environment, quality, sizes and seed, is kept under `root()`, and goes on where it was interrupted.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from palaestra.core import spaces
from palaestra.core.errors import BadDataset, require
from palaestra.core.experience import Experience
from palaestra.core.method import Counters, Method
from palaestra.core.policy import Policy, load_policy
from palaestra.core.seeding import Streams
from palaestra.data.dataset import COLUMNS, Dataset, open_dataset
from palaestra.data.load import root
from palaestra.envs.rollout import Rollout
from palaestra.envs.task import EnvTask
from palaestra.runs.run import Engine, Run

QUALITIES = (
    "random",
    "medium",
    "expert",
    "noisy",
    "medium-replay",
    "full-replay",
    "replay",
    "medium-expert",
    "random-medium-X",
    "random-expert-X",
    "mixed",
)
MEDIUM = 1 / 3
"""Of the way from random to expert, where the medium snapshot stands."""
SNAPSHOTS = 50
RANDOM_EPISODES = 100
"""Episodes behind the random reference return."""
NOISE = 0.2
COLLECTORS = 8
"""Environments stepped side by side while collecting."""


@dataclass(frozen=True)
class Recipe:
    """How behaviour is trained on an environment, and how many steps a dataset has."""

    method: Method
    steps: int
    size: int


def recipe(task: EnvTask) -> Recipe:
    """The recipe for an environment: small for the small ones, the method's defaults elsewhere."""
    from palaestra.methods.online.dqn import DQN
    from palaestra.methods.online.sac import SAC

    if task.name == "Pendulum-v1":
        small = SAC(lr=1e-3, gamma=0.98, network=(64, 64), batch_size=128, buffer_size=5_000, warmup_steps=1_000)
        return Recipe(small, 5_000, 10_000)
    if spaces.kind(task.action_space) == "discrete":
        # the online agent of Schweighofer et al., whose exploration falls over a twentieth of the budget
        settings = {
            "lr": 3e-4,
            "gamma": 0.95,
            "network": (64, 64),
            "batch_size": 32,
            "buffer_size": 50_000,
            "double": True,
        }
        schedule = {
            "warmup_steps": 32,
            "steps_per_round": 1,
            "target_every": 100,
            "epsilon_end": 0.01,
            "epsilon_share": 0.05,
        }
        return Recipe(DQN(**settings, **schedule), 20_000, 20_000)
    return Recipe(SAC(), 1_000_000, 100_000)


def local(name: str) -> Dataset:
    """The dataset `ENV/QUALITY` or `ENV/QUALITY/seedK`, made first if it is not there."""
    found = re.fullmatch(r"(.+?)/([^/]+)(?:/seed(\d+))?", name)
    require(found is not None, f"a local dataset is ENV/QUALITY, such as local:Pendulum-v1/medium, got {name!r}")
    assert found is not None
    env, quality, seed = found.groups()
    return make(env, quality, seed=int(seed or 0))


def make(
    env: str,
    quality: str,
    *,
    seed: int = 0,
    size: int | None = None,
    method: Method | None = None,
    steps: int | None = None,
    out: Path | None = None,
) -> Dataset:
    """The dataset of a quality on an environment; one that is there already is opened.

    `size` is how many steps it has at least, `method` and `steps` how behaviour is trained; by default those of `recipe`. The
    folder is `out`, by default one under `root()` that is named after all of these.

    Raises:
        BadSetting: there is no such quality.
        BadDataset: behaviour never became better than random.
    """
    task = EnvTask(env)
    kind, share = _parse(quality)
    usual = recipe(task)
    chosen = Recipe(method or usual.method, steps or usual.steps, size or usual.size)
    changed = "" if chosen == usual else f"-{chosen.method.label}-{chosen.steps}-{chosen.size}"
    name = f"{env}/{quality}{changed}/seed{seed}"
    folder = out or root() / "local" / name
    if (folder / "dataset.json").exists():
        return open_dataset(folder)
    behaviour = Behaviour(task, chosen, seed)
    episodes, about = behaviour.episodes(kind, share)
    dataset = assemble(
        f"local:{env}/{quality}" + (f"/seed{seed}" if seed else ""),
        episodes,
        task,
        references=(behaviour.random_return, behaviour.best[1]),
        about={**about, "quality": quality, "seed": seed, "behaviour": behaviour.about},
    )
    dataset.save(folder)
    return open_dataset(folder)


def assemble(name: str, episodes: list[Experience], task: EnvTask, **about: Any) -> Dataset:
    """Whole episodes, each with the columns of a dataset, laid end to end."""
    starts = torch.tensor([0, *(len(episode) for episode in episodes[:-1])]).cumsum(0)
    steps = Experience.cat([episode.only(*COLUMNS) for episode in episodes])
    return Dataset(name, steps, starts, task.observation_space, task.action_space, env=task.name, **about)


class Behaviour:
    """A method trained online on a task, with its snapshots and everything it collected."""

    def __init__(self, task: EnvTask, chosen: Recipe, seed: int):
        self.task, self.size, self.seed = task, chosen.size, seed
        folder = root() / "behaviour" / task.name / f"{chosen.method.label}-{chosen.steps}" / f"seed{seed}"
        self.run = Apprentice(chosen, task, seed, folder)
        self._random: float | None = None

    @property
    def trained(self) -> Apprentice:
        """The run, trained to its end."""
        if self.run.method is None:
            self.run.train(resume=True)
        return self.run

    @property
    def random_return(self) -> float:
        """The mean return of uniformly random episodes."""
        if self._random is None:
            played = self.play(None, episodes=RANDOM_EPISODES, stream="reference")
            self._random = sum(float(episode.reward.double().sum()) for episode in played) / RANDOM_EPISODES
        return self._random

    @property
    def best(self) -> tuple[int, float]:
        """The snapshot with the highest return: its step and its return."""
        return max(self.trained.snapshots, key=lambda snapshot: snapshot[1])

    @property
    def medium(self) -> tuple[int, float]:
        """The first snapshot a third of the way from random to the best."""
        low, high = self.random_return, self.best[1]
        if high <= low:
            raise BadDataset(
                f"{self.trained.title} never did better than random ({high:.1f} against {low:.1f}); train it longer"
            )
        return next(s for s in self.trained.snapshots if s[1] >= low + MEDIUM * (high - low))

    @property
    def about(self) -> dict[str, Any]:
        """What trained, and how well it did."""
        run = self.trained
        return {"method": run.config.label, "steps": run.budget.steps, "seed": self.seed, "snapshots": run.snapshots}

    def episodes(self, kind: str, share: float) -> tuple[list[Experience], dict[str, Any]]:
        """The episodes of a quality, and which snapshot they are from."""
        if kind == "random":
            return self.play(None, self.size), {}
        if kind in ("medium", "expert", "noisy"):
            snapshot = self.medium if kind == "medium" else self.best
            return self.play(self.policy(snapshot[0], noisy=kind == "noisy"), self.size), {"snapshot": snapshot}
        if kind == "medium-replay":
            return self.trained.collected(self.medium[0]), {"snapshot": self.medium}
        if kind in ("full-replay", "replay"):
            return self.trained.collected(), {}
        if kind == "medium-expert":
            parts = [self.episodes(part, share)[0] for part in ("medium", "expert")]
            return parts[0] + parts[1], {}
        if kind == "mixed":
            return self.play(None, int(0.8 * self.size)) + self.play(self.policy(self.best[0]), self.size // 5), {}
        good, poor = (self.episodes(part, share)[0] for part in (kind.removeprefix("random-"), "random"))
        return self.mixture(good, poor, share), {"share": share}

    def mixture(self, good: list[Experience], poor: list[Experience], share: float) -> list[Experience]:
        """Good episodes, drawn with replacement, until they exceed a share of the steps, then poor ones."""
        total = sum(map(len, good))
        chosen: list[Experience] = []
        for pool, limit, stream in ((good, share * total, "good"), (poor, total, "poor")):
            generator = Streams(self.seed).generator(f"mixture/{stream}")
            while sum(map(len, chosen)) <= limit:
                chosen.append(pool[int(torch.randint(len(pool), (1,), generator=generator))])
        return chosen

    def policy(self, clock: int, noisy: bool = False) -> Policy:
        """A snapshot; a Q-network acts greedily, or with some random actions."""
        policy = load_policy(self.trained.folder / "snapshots" / f"{clock:012d}")
        if hasattr(policy, "epsilon"):
            policy.epsilon.fill_(NOISE if noisy else 0.0)
        elif noisy:
            raise BadDataset(
                f"noisy data are made with a discrete policy; {self.task.name} has {self.task.action_space}"
            )
        return policy

    def play(
        self, policy: Policy | None, size: int = 0, episodes: int = 1, stream: str = "collect"
    ) -> list[Experience]:
        """Whole episodes of a policy (None acts uniformly) until there are `size` steps and `episodes` of them."""
        label = "random" if policy is None else "policy"
        streams = Streams(self.seed)
        envs = self.task.envs(COLLECTORS, streams, f"{stream}/{label}")
        rollout = Rollout(envs, streams, Counters())
        actor = self.trained.config.bind(self.task, self.seed, self.run.budget).policy() if policy is None else policy
        parts: list[list[Experience]] = [[] for _ in range(COLLECTORS)]
        done: list[Experience] = []
        while sum(map(len, done)) < size or len(done) < episodes:
            steps = rollout.collect(actor, 100, random=policy is None)
            for i in range(COLLECTORS):
                parts[i].append(steps.map(lambda x, i=i: x[:, i]))  # type: ignore[misc]
                *whole, rest = cut(Experience.cat(parts[i]))
                done, parts[i] = done + whole, [rest] if len(rest) else []
        envs.close()
        kept = next(n for n in range(1, len(done) + 1) if n >= episodes and sum(map(len, done[:n])) >= size)
        return done[:kept]


class Apprentice(Run):
    """A run that keeps a snapshot of its policy at every evaluation."""

    def __init__(self, chosen: Recipe, task: EnvTask, seed: int, folder: Path):
        every = max(1, chosen.steps // SNAPSHOTS)
        engine = Engine(evaluate_every=every, tensorboard=False, quiet=True)
        super().__init__(chosen.method, task, steps=chosen.steps, seed=seed, folder=folder, engine=engine)

    def _evaluate(self, clock: int, method: Method) -> dict[str, float]:
        method.policy().save(self.folder / "snapshots" / f"{clock:012d}")
        return super()._evaluate(clock, method)

    @property
    def snapshots(self) -> list[tuple[int, float]]:
        """Step and return of every snapshot."""
        return [(row["steps"], row["evaluation/return"]) for row in self.metrics if "evaluation/return" in row]

    def collected(self, until: int | None = None) -> list[Experience]:
        """The episodes that the method collected, in order; the last one is cut off where collecting stopped."""
        replay = self.method.replay  # type: ignore[union-attr]
        rows = replay.storage[: min(until or replay.size, replay.size)]
        *whole, rest = cut(rows)
        if len(rest):
            rest.truncated = rest.truncated.clone()
            rest.truncated[-1] = 1.0
            whole.append(rest)
        return whole


def cut(steps: Experience) -> list[Experience]:
    """Steps in order as episodes; the last element is what has not ended yet, possibly empty."""
    ends = ((steps.terminated + steps.truncated) > 0).nonzero().flatten() + 1
    bounds = [0, *ends.tolist(), len(steps)]
    return [steps[start:stop] for start, stop in itertools.pairwise(bounds)]


def _parse(quality: str) -> tuple[str, float]:
    """A quality and its share of good steps, where it has one."""
    found = re.fullmatch(r"(random-(?:medium|expert))-(0?\.\d+|1)", quality)
    if found:
        return found[1], float(found[2])
    plain = [name for name in QUALITIES if not name.endswith("X")]
    require(quality in plain, f"unknown quality '{quality}' (known: {', '.join(QUALITIES)}, X such as 0.1)")
    return quality, 0.0
