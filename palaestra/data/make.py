"""Datasets made here: a behaviour policy is trained online, and its snapshots, or its own experience, become data.

- `random`: uniform actions. `expert`: the best snapshot. `medium`: the first snapshot whose return is a third of the way from
  random to expert. `noisy`: the expert with a fifth of its actions random (discrete actions).
- `medium-replay`: all that the learner collected up to the medium snapshot; `full-replay` (or `replay`): all of it.
- `medium-expert`, `random-medium-expert`: equal parts; `random-medium-X`, `random-expert-X`: a share X of steps from good
  episodes, the rest from random ones (Hong et al., arXiv 2306.13085); `mixed`: four fifths random, one fifth expert
  (Schweighofer et al., arXiv 2111.04714).

- Whatever else an environment's own `behaviours()` names: policies that it brings itself, and how many episodes of each.

Everything is a function of environment, quality, sizes and seed, is kept under `root()`, and goes on where it was interrupted.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from palaestra.core import spaces
from palaestra.core.errors import BadDataset, BadSetting, Unsupported, require, unknown
from palaestra.core.experience import Experience, tree_leaves
from palaestra.core.method import Counters, Method, labelled
from palaestra.core.policy import Policy, load_policy
from palaestra.core.seeding import Streams
from palaestra.core.task import Evaluation, as_task
from palaestra.data.dataset import COLUMNS, Dataset, one_step, open_dataset
from palaestra.data.load import clean, fresh_folder, local_folder, root, stored_folder
from palaestra.envs.rollout import Rollout
from palaestra.envs.task import EnvTask
from palaestra.runs.engine import Engine
from palaestra.runs.folder import plain_settings
from palaestra.runs.run import Run

QUALITIES = (
    "random",
    "medium",
    "expert",
    "noisy",
    "medium-replay",
    "full-replay",
    "replay",
    "medium-expert",
    "random-medium-expert",
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
COPIES = 1000
"""How often a mixture may hold every step, on average."""
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


def make(
    env: str,
    quality: str,
    *,
    seed: int = 0,
    size: int | None = None,
    method: Method | None = None,
    steps: int | None = None,
    name: str | None = None,
    quiet: bool = False,
) -> Dataset:
    """The dataset of a quality on an environment; one that is there already is opened.

    `size` is how many steps it has at least, `method` and `steps` how behaviour is trained; by default those of `recipe`, and
    then the dataset is `local:ENV/QUALITY`. Any other is named by what is not usual, or `name`.

    Raises:
        BadSetting: there is no such quality, or it is the environment's own and takes no sizes, or there is no room for `size`
            steps, or `name` holds a dataset of another.
        BadDataset: behaviour never became better than random.
    """
    task = as_task(env)
    require(isinstance(task, EnvTask), f"data are made by acting in an environment, but {env} is none")
    assert isinstance(task, EnvTask)
    brought = behaviours(task).get(quality)
    if brought is not None:
        fixed = size is None and method is None and steps is None
        require(fixed, f"{env} brings {quality} itself, so that it takes no size, method or steps")
        return demonstrated(task, quality, seed, *brought, name=name)
    kind, share = parse_quality(quality)
    require(size is None or _whole(size), f"size must be a whole number of steps, at least 1, got {size}")
    usual = recipe(task)
    chosen = Recipe(method or usual.method, steps or usual.steps, size or usual.size)
    spec = task.describe()["spec"]
    folder = local_folder(spec, quality, seed)
    title = f"local:{spec}/{quality}" + (f"/seed{seed}" if seed else "")
    if chosen != usual:
        said = {"method": chosen.method.label, "steps": chosen.steps, "size": chosen.size}
        own = {key: value for key, value in said.items() if getattr(chosen, key) != getattr(usual, key)}
        folder = folder.parent.with_name(labelled(quality, own)) / folder.name
        title = str(folder.relative_to(root()))
    if name is not None:
        folder, title = stored_folder(name), name
    made: dict[str, Any] = {
        "quality": quality,
        "seed": seed,
        "size": chosen.size,
        "behaviour": {
            "method": chosen.method.name,
            "settings": plain_settings(chosen.method.config),
            "steps": chosen.steps,
        },
    }
    if (folder / "dataset.json").exists():
        found = open_dataset(folder)
        if name is not None and (found.env, {key: found.about.get(key) for key in made}) != (spec, made):
            raise BadSetting(f"{title} is there already and is something else; give another name, or delete {folder}")
        return found
    parts = kind.count("-") + 1 if kind in ("medium-expert", "random-medium-expert") else 1
    require_room(parts * chosen.size, task)
    behaviour = Behaviour(task, chosen, seed, quiet)
    episodes, about = behaviour.episodes(kind, share)
    dataset = assemble(
        title,
        episodes,
        task,
        references=behaviour.references,
        about={**made, **about, "snapshots": behaviour.trained.snapshots},
    )
    dataset.save(folder)
    return open_dataset(folder)


def behaviours(task: EnvTask) -> Mapping[str, tuple[Policy, int]]:
    """The policies that an environment brings itself, by the quality of their data, and how many episodes that has."""
    if not isinstance(task.spec, str):
        return {}
    env = task.make()
    found: Mapping[str, tuple[Policy, int]] = getattr(env.unwrapped, "behaviours", dict)()
    env.close()
    return found


def demonstrated(
    task: EnvTask, quality: str, seed: int, policy: Policy, episodes: int, *, name: str | None = None
) -> Dataset:
    """So many episodes of a policy that its environment brings itself; those that are there already are opened."""
    spec = task.describe()["spec"]
    folder = local_folder(spec, quality, seed) if name is None else stored_folder(name)
    if not (folder / "dataset.json").exists():
        title = name or f"local:{spec}/{quality}" + (f"/seed{seed}" if seed else "")
        played = play(task, policy, seed, episodes=episodes)
        assemble(title, played, task, about={"quality": quality, "seed": seed}).save(folder)
    return open_dataset(folder)


def assemble(name: str, episodes: Sequence[Experience], task: Any, **about: Any) -> Dataset:
    """Whole episodes, each with the columns of a dataset, laid end to end; `task` is the environment they are from, or another
    dataset with their spaces."""
    if isinstance(task, EnvTask):
        about = {"env": task.describe()["spec"], "env_kwargs": task.kwargs, **about}
    starts = torch.tensor([0, *(len(episode) for episode in episodes[:-1])]).cumsum(0)
    steps = Experience.cat([episode.only(*COLUMNS) for episode in episodes])
    return Dataset(name, steps, starts, task.observation_space, task.action_space, **about)


def require_room(steps: int, task: Any) -> None:
    """Raise `BadSetting` unless so many steps with the spaces of `task` fit into memory, where they are collected, and then on
    the disk of `root()`."""
    step = one_step(task.observation_space, task.action_space)
    each = sum(leaf.nbytes for column in step.values() for leaf in tree_leaves(column))
    kept = next(place for place in (root(), *root().resolve().parents) if place.exists())
    disk, memory = shutil.disk_usage(kept).free, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    require(
        steps * each <= min(disk, memory),
        f"{steps:.4g} steps of {task.name} take {steps * each / 1e9:.3g} GB, {each} bytes each, but the disk of {root()} has "
        f"{disk / 1e9:.3g} GB free, and the memory, where they are collected first, {memory / 1e9:.3g} GB; give a smaller size",
    )


def _whole(size: Any) -> bool:
    return isinstance(size, Integral) and size >= 1


def mix(
    good: Dataset, rest: Dataset, share: float, *, name: str, size: int | None = None, seed: int = 0, save: bool = True
) -> Dataset:
    """Whole episodes of two datasets, drawn with replacement: steps of `good` until they exceed `share` of `size` (by default
    as many as `good` has), then of `rest` until there are more than `size`. With `save` it is kept under `root()`.

    Raises:
        BadSetting: `size` is out of range, or more than there is room for.
        BadDataset: the two have other spaces.
    """
    require(0 < share < 1, f"share must be between 0 and 1, got {share}")
    most = COPIES * (len(good) + len(rest))
    require(
        size is None or (_whole(size) and size <= most),
        f"size must be a whole number from 1 to {most:,}, {COPIES} times what both hold, got {size}",
    )
    for what in ("observation_space", "action_space"):
        ours, theirs = getattr(good, what), getattr(rest, what)
        if ours != theirs:
            raise BadDataset(f"{good.name} has the {what.replace('_', ' ')} {ours}, but {rest.name} has {theirs}")
    require_room(size or len(good), good)
    folder = fresh_folder(name) if save else stored_folder(name)
    episodes = mixture(list(good.episodes()), list(rest.episodes()), share, size or len(good), seed)
    mixed = {"good": good.name, "rest": rest.name, "share": share, "seed": seed}
    dataset = assemble(
        name,
        episodes,
        good,
        env=good.env,
        env_kwargs=good.env_kwargs,
        references=good.references,
        about={"mixed": mixed},
    )
    return open_dataset(dataset.save(folder)) if save else dataset


def mixture(
    good: Sequence[Experience], rest: Sequence[Experience], share: float, size: int, seed: int
) -> list[Experience]:
    """Episodes drawn with replacement from `good` until their steps exceed `share * size`, then from `rest` until all exceed
    `size`."""
    chosen: list[Experience] = []
    total = 0
    for pool, limit, stream in ((good, share * size, "good"), (rest, size, "poor")):
        generator = Streams(seed).generator(f"mixture/{stream}")
        while total <= limit:
            chosen.append(pool[int(torch.randint(len(pool), (1,), generator=generator))])
            total += len(chosen[-1])
    return chosen


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


def parse_quality(quality: str) -> tuple[str, float]:
    """A quality and its share of good steps, where it has one.

    Raises:
        UnknownName: there is no such quality.
    """
    found = re.fullmatch(r"(random-(?:medium|expert))-(0?\.\d+)", quality)
    if found and float(found[2]) > 0:
        return found[1], float(found[2])
    if quality not in QUALITIES or quality.endswith("X"):
        raise unknown("quality", quality, QUALITIES)
    return quality, 0.0
