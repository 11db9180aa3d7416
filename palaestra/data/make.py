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

import re
from collections.abc import Mapping
from typing import Any

from palaestra.core.errors import BadSetting, require, unknown
from palaestra.core.hints import fits
from palaestra.core.method import Method, labelled
from palaestra.core.policy import Policy
from palaestra.core.task import as_task
from palaestra.data.behaviour import Behaviour, Recipe, recipe
from palaestra.data.dataset import Dataset, open_dataset
from palaestra.data.episodes import assemble, play
from palaestra.data.load import local_folder, require_room, root, stored_folder
from palaestra.envs.task import EnvTask
from palaestra.runs.folder import plain_settings

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
    require(
        size is None or (fits(size, int) and size >= 1), f"size must be a whole number of steps, at least 1, got {size}"
    )
    usual = recipe(task)
    chosen = Recipe(method or usual.method, steps or usual.steps, size or usual.size)
    spec = task.describe()["spec"]
    folder = local_folder(spec, quality, seed)
    title = _title(spec, quality, seed)
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
        played = play(task, policy, seed, episodes=episodes)
        assemble(name or _title(spec, quality, seed), played, task, about={"quality": quality, "seed": seed}).save(
            folder
        )
    return open_dataset(folder)


def _title(env: str, quality: str, seed: int) -> str:
    return f"local:{env}/{quality}" + (f"/seed{seed}" if seed else "")


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
