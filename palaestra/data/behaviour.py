"""Behaviour policies: a method trained online, whose snapshots, or whose own experience, become data."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palaestra.core import spaces
from palaestra.core.errors import BadDataset, Unsupported
from palaestra.core.experience import Experience
from palaestra.core.method import Method
from palaestra.core.policy import Policy, load_policy
from palaestra.core.task import Evaluation
from palaestra.data.episodes import cut, play
from palaestra.data.load import clean, root
from palaestra.data.mixture import mixture
from palaestra.envs.task import EnvTask
from palaestra.runs.engine import Engine
from palaestra.runs.run import Run

MEDIUM = 1 / 3
"""Of the way from random to expert, where the medium snapshot stands."""
SNAPSHOTS = 50
RANDOM_EPISODES = 100
"""Episodes behind the random reference return."""
NOISE = 0.2


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
            "activation": "selu",
            "batch_size": 32,
            "buffer_size": 50_000,
            "double": True,
            "huber": 1.0,
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


class Behaviour:
    """A method trained online on a task, with its snapshots and everything it collected."""

    def __init__(self, task: EnvTask, chosen: Recipe, seed: int, quiet: bool = False):
        self.task, self.chosen, self.seed = task, chosen, seed
        folder = root() / "behaviour" / clean(task.describe()["spec"])
        self.run = Apprentice(
            chosen, task, seed, folder / f"{chosen.method.label}-{chosen.steps}" / f"seed{seed}", quiet
        )
        self._random: float | None = None

    @property
    def trained(self) -> Apprentice:
        """The run, trained to its end."""
        if self.run.method is None:
            if not self.run.finished and not self.run.engine.quiet:
                print(f"first {self.run.title} is trained, for {self.chosen.steps:,} steps", file=sys.stderr)
            self.run.train(resume=True)
        return self.run

    @property
    def random_return(self) -> float:
        """The mean return of uniformly random episodes."""
        if self._random is None:
            played = self.play(None, episodes=RANDOM_EPISODES, stream="reference")
            self._random = sum(float(episode.reward.double().sum()) for episode in played) / len(played)
        return self._random

    @property
    def best(self) -> tuple[int, float]:
        """The snapshot with the highest return: its step and its return."""
        return max(self.trained.snapshots, key=lambda snapshot: snapshot[1])

    @property
    def references(self) -> tuple[float, float]:
        """The returns of random actions and of the best snapshot."""
        low, high = self.random_return, self.best[1]
        if high <= low:
            raise BadDataset(
                f"{self.trained.title} never did better than random ({high:.1f} against {low:.1f}); train it longer"
            )
        return low, high

    @property
    def medium(self) -> tuple[int, float]:
        """The first snapshot a third of the way from random to the best."""
        low, high = self.references
        return next(s for s in self.trained.snapshots if s[1] >= low + MEDIUM * (high - low))

    def episodes(self, kind: str, share: float) -> tuple[list[Experience], dict[str, Any]]:
        """The episodes of a quality, and which snapshot they are from."""
        size = self.chosen.size
        if kind == "random":
            return self.play(None, size), {}
        if kind in ("medium", "expert", "noisy"):
            snapshot = self.medium if kind == "medium" else self.best
            return self.play(self.policy(snapshot[0], noisy=kind == "noisy"), size), {"snapshot": snapshot}
        if kind == "medium-replay":
            return self.trained.collected(self.medium[0]), {"snapshot": self.medium}
        if kind in ("full-replay", "replay"):
            return self.trained.collected(), {}
        if kind in ("medium-expert", "random-medium-expert"):
            return [episode for part in kind.split("-") for episode in self.episodes(part, share)[0]], {}
        if kind == "mixed":
            return self.play(None, int(0.8 * size)) + self.play(self.policy(self.best[0]), size // 5), {}
        good, poor = (self.episodes(part, share)[0] for part in (kind.removeprefix("random-"), "random"))
        return mixture(good, poor, share, sum(map(len, good)), self.seed), {"share": share}

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
        """Whole episodes of a policy; None acts uniformly."""
        actor = self.run.config.bind(self.task, self.seed, self.run.budget).policy() if policy is None else policy
        return play(self.task, actor, self.seed, size, episodes, stream, random=policy is None)


class Apprentice(Run):
    """A run that keeps a snapshot of its policy at every evaluation."""

    def __init__(self, chosen: Recipe, task: EnvTask, seed: int, folder: Path, quiet: bool):
        every = max(1, chosen.steps // SNAPSHOTS)
        engine = Engine(evaluate_every=every, tensorboard=False, quiet=quiet)
        super().__init__(chosen.method, task, steps=chosen.steps, seed=seed, folder=folder, engine=engine)

    def evaluate_at(self, clock: int, policy: Policy, episodes: int, video: Path | None = None) -> Evaluation:
        policy.save(self.folder / "snapshots" / f"{clock:012d}")
        return super().evaluate_at(clock, policy, episodes, video)

    @property
    def snapshots(self) -> list[tuple[int, float]]:
        """Step and return of every snapshot."""
        return [(row["steps"], row["evaluation/return"]) for row in self.metrics if "evaluation/return" in row]

    def collected(self, until: int | None = None) -> list[Experience]:
        """The episodes that the method collected, in order; the last one is cut off where collecting stopped.

        Raises:
            Unsupported: the method did not keep all it collected, or kept several environments' steps in turns.
        """
        replay, config = getattr(self.method, "replay", None), self.config.config
        if replay is None or config.get("num_envs", 1) != 1 or config.get("buffer_size", 0) < self.budget.steps:
            raise Unsupported(
                f"replay data are all that was collected, in order: {self.config.name} must have a replay buffer of at least "
                f"{self.budget.steps} steps (buffer_size) and act in one environment (num_envs=1)"
            )
        *whole, rest = cut(replay.storage[: until or replay.size])
        if len(rest):
            rest.truncated = rest.truncated.clone()
            rest.truncated[-1] = 1.0
            whole.append(rest)
        return whole
