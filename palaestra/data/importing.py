"""Logs from elsewhere as datasets.

Nothing is guessed. What is missing is refused with a sentence that says what to add; what follows from the data, or had to be
left out, is stated in the dataset's notes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from palaestra.core.errors import BadDataset, PalaestraError, require
from palaestra.core.experience import tree_leaves, tree_map
from palaestra.core.task import as_task
from palaestra.data.dataset import Dataset, open_dataset
from palaestra.data.encoding import encode, flags
from palaestra.data.load import cache_folder, fresh_folder
from palaestra.data.logs import Log, named, read_log


@dataclass
class Limits:
    """What is known of the spaces besides the data."""

    env: str | None = None
    """The environment that the data came from; its spaces are the dataset's."""
    action_low: tuple[float, ...] = ()
    """The least value of every number of an action, or one for all."""
    action_high: tuple[float, ...] = ()
    """The greatest value of every number of an action, or one for all."""
    action_count: int | None = None
    """How many actions there are, where they are indices."""


def import_dataset(
    source: str | Path | Mapping[str, Any],
    *,
    name: str,
    limits: Limits | None = None,
    references: tuple[float, float] | None = None,
) -> Dataset:
    """The dataset of a file or of a dict of arrays, kept under `root()` as `name`.

    A file is D4RL's (.hdf5, .h5), a NumPy archive (.npz) or a table (.csv). Arrays have one row per step and the names of
    palaestra, Gymnasium or D4RL. See docs/datasets.md for what each must hold.

    Raises:
        BadDataset: something is missing or cannot be right.
    """
    folder = fresh_folder(name)
    dataset = dataset_from(source, name=name, limits=limits, references=references)
    return open_dataset(dataset.save(folder))


def dataset_from(
    source: str | Path | Mapping[str, Any],
    *,
    name: str,
    limits: Limits | None = None,
    references: tuple[float, float] | None = None,
) -> Dataset:
    """The same, in memory only."""
    limits = limits or Limits()
    if references is not None:
        low, high = references
        require(
            math.isfinite(low) and math.isfinite(high) and low < high,
            f"references are two returns, a random policy's and an expert's above it, got {low:g} and {high:g}",
        )
    log = Log(named(source)) if isinstance(source, Mapping) else read_log(Path(source))
    origin = "arrays" if isinstance(source, Mapping) else Path(source).name
    notes = list(log.notes)
    columns, starts = _episodes(log, notes)
    observation_space, action_space, env_kwargs = _spaces(columns, limits, notes)
    steps = encode(columns, observation_space, action_space)
    left_out = len(log.columns["reward"]) - len(columns["reward"])
    about: dict[str, Any] = {"imported": origin, "left_out": left_out, "notes": notes}
    return Dataset(
        name,
        steps,
        torch.from_numpy(starts),
        observation_space,
        action_space,
        env=limits.env,
        env_kwargs=env_kwargs,
        references=references,
        about=about,
    )


def read_d4rl(path: Path) -> Dataset:
    """A file in D4RL's format, converted when it is first opened; the task it is from is not in it."""
    if not path.exists():
        raise PalaestraError(f"there is no file {path}")
    folder = cache_folder("d4rl", path.stem, [path])
    if not (folder / "dataset.json").exists():
        dataset_from(path, name=f"d4rl:{path}").save(folder)
    return open_dataset(folder)


# Rows into episodes.


def _episodes(log: Log, notes: list[str]) -> tuple[dict[str, Any], np.ndarray]:
    """All columns with their next observations, and the first row of every episode."""
    columns = dict(log.columns)
    for name, column in columns.items():
        if any(leaf.ndim == 0 for leaf in tree_leaves(column)):
            raise BadDataset(f"{name} is a single value; there must be one row per step")
    rows = {len(leaf) for column in columns.values() for leaf in tree_leaves(column)}
    if rows == {0}:
        raise BadDataset("there are no steps: every array is empty")
    if len(rows) != 1:
        sizes = ", ".join(f"{name} {len(tree_leaves(column)[0])}" for name, column in columns.items())
        raise BadDataset(f"the arrays have different numbers of rows ({sizes}); there must be one per step in each")
    (count,) = rows
    for flag in ("terminated", "truncated"):
        columns[flag] = flags(columns[flag], flag, 0).numpy()
    lasts = _lasts(columns, count, notes)
    if "next_obs" not in columns:
        return _followed(columns, lasts, log.final, notes)
    inside = np.setdiff1d(np.arange(count), lasts)
    torn = inside[_differ(_rows(columns["next_obs"], inside), _rows(columns["obs"], inside + 1))]
    if len(torn):
        raise BadDataset(
            f"{len(torn)} steps inside episodes do not lead to the observation of the next row (the first is row {torn[0]}), so "
            "boundaries are missing: set truncated to 1 there, or bring the rows into order"
        )
    columns.pop("episode", None)
    return columns, np.concatenate([[0], lasts[:-1] + 1])


def _lasts(columns: dict[str, Any], count: int, notes: list[str]) -> np.ndarray:
    """The last row of every episode."""
    ends = np.flatnonzero(columns["terminated"] + columns["truncated"] > 0)
    if "episode" in columns:
        labels = np.asarray(columns["episode"]).reshape(count)
        lasts = np.append(np.flatnonzero(labels[1:] != labels[:-1]), count - 1)
        again, times = np.unique(labels[lasts], return_counts=True)
        if (times > 1).any():
            raise BadDataset(f"the rows of episode {again[times > 1][0]} are not together; sort by episode and step")
        odd = np.setxor1d(lasts, ends)
        if len(odd):
            label = labels[odd[0]]
            if odd[0] in lasts:
                raise BadDataset(
                    f"the last row of episode {label} is neither terminated nor truncated; set truncated to 1 there if the clock "
                    "or the log ended it"
                )
            raise BadDataset(
                f"row {odd[0]} ends episode {label}, but more rows of it follow: give those another episode, or clear the flag"
            )
        return lasts
    if not len(ends):
        raise BadDataset(
            "no row is terminated or truncated, so it is unknown where episodes end: set one of them to 1 in the last row of each"
        )
    if ends[-1] != count - 1:
        columns["truncated"] = columns["truncated"].copy()
        columns["truncated"][-1] = 1.0
        notes.append("the log stops within an episode: its last step counts as truncated")
        ends = np.append(ends, count - 1)
    return ends


def _followed(
    columns: dict[str, Any], lasts: np.ndarray, final: dict[int, Any], notes: list[str]
) -> tuple[dict[str, Any], np.ndarray]:
    """The columns with `next_obs` taken from the following rows, without the steps that lead to nowhere known."""
    count = len(columns["reward"])
    following = np.minimum(np.arange(count) + 1, count - 1)
    unknown = np.array([row for row in lasts if row not in final], dtype=np.int64)
    over = unknown[columns["terminated"][unknown] > 0]
    following[over] = over
    next_obs = tree_map(lambda x: x[following], columns["obs"])
    for row, obs in final.items():
        tree_map(lambda column, x, row=row: column.__setitem__(row, x), next_obs, obs)  # type: ignore[misc]
    if len(over):
        notes.append(
            f"where {len(over)} terminated steps led is not logged: their next observation repeats the observation, which no "
            "value is bootstrapped from"
        )
    lost = np.setdiff1d(unknown, over)
    before = lost[np.isin(lost - 1, lasts, invert=True) & (lost > 0)] - 1  # the new last steps of what is left
    columns["truncated"] = columns["truncated"].copy()
    columns["truncated"][before] = 1.0
    kept = np.setdiff1d(np.arange(count), lost)
    if not len(kept):
        raise BadDataset("every episode is one step long and none says where it led; add next_obs")
    if len(lost):
        notes.append(
            f"the last step of {len(lost)} truncated episodes is left out, since where it led is not logged (next_obs would tell)"
        )
    ends = np.isin(kept, np.union1d(np.setdiff1d(lasts, lost), before))
    columns = {name: tree_map(lambda x: x[kept], x) for name, x in columns.items() if name != "episode"}
    columns["next_obs"] = tree_map(lambda x: x[kept], next_obs)
    return columns, np.concatenate([[0], np.flatnonzero(ends)[:-1] + 1])


def _differ(a: Any, b: Any) -> np.ndarray:
    """Which rows are not the same observation."""
    differs: np.ndarray = np.zeros(len(tree_leaves(a)[0]), bool)
    for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True):
        same = np.isclose(x, y, rtol=1e-5, atol=1e-6, equal_nan=True)
        differs |= ~same.reshape(len(same), -1).all(1)
    return differs


def _rows(tree: Any, index: np.ndarray) -> Any:
    return tree_map(lambda x: x[index], tree)


# Spaces.


def _spaces(columns: dict[str, Any], limits: Limits, notes: list[str]) -> tuple[Any, Any, dict[str, Any]]:
    """The spaces of the environment, or those that follow from the data."""
    from gymnasium.spaces import Box, Dict, Discrete

    bounded = bool(len(limits.action_low) or len(limits.action_high))
    require(limits.action_count is None or limits.action_count >= 1, "--action-count must be at least 1")
    if limits.env is not None:
        require(
            not bounded and limits.action_count is None,
            "the environment says what its actions are; leave out --env, or --action-low, --action-high and --action-count",
        )
        task = as_task(limits.env)
        return task.observation_space, task.action_space, getattr(task, "kwargs", {})

    def observed(x: Any) -> Any:
        if isinstance(x, dict):
            return Dict({key: observed(part) for key, part in x.items()})
        if x.dtype == np.uint8 and x.ndim > 2:
            return Box(0, 255, x.shape[1:], np.uint8)
        return Box(-np.inf, np.inf, x.shape[1:], np.float32)

    for name in ("obs", "action"):
        for leaf in tree_leaves(columns[name]):
            if leaf.dtype.kind not in "iufb":
                raise BadDataset(f"{name} is of type {leaf.dtype}, which is no number")
            if leaf.size == 0:
                raise BadDataset(f"{name} has no numbers in a row; its shape per step is {leaf.shape[1:]}")
    observation_space = observed(columns["obs"])
    notes.append(f"observations are taken to be {observation_space}, for want of an environment")
    action = columns["action"]
    if action.ndim == 1 and np.issubdtype(action.dtype, np.integer):
        require(
            not bounded,
            "actions are whole numbers, which are taken as indices and have no limits; log numbers as floats",
        )
        if action.min() < 0:
            raise BadDataset(f"an action is {action.min()}, but actions that are whole numbers are counted from 0")
        count = limits.action_count or int(action.max()) + 1
        if limits.action_count is None:
            notes.append(f"there are taken to be {count} actions, the greatest in the data and those below")
        return observation_space, Discrete(count), {}
    require(limits.action_count is None, "--action-count is for actions that are indices, but these are numbers")
    width = int(np.prod(action.shape[1:]))
    low, high = (
        _limit(given, width, name) for given, name in ((limits.action_low, "low"), (limits.action_high, "high"))
    )
    require((low is None) == (high is None), "give --action-low and --action-high together")
    if low is None or high is None:
        least, most = np.nanmin(action), np.nanmax(action)
        if not (least >= -1 and most <= 1):
            raise BadDataset(
                f"actions reach from {least:g} to {most:g}, and what their limits are is unknown: give --action-low and "
                "--action-high (one number, or one for each), or the environment with --env"
            )
        low, high = np.full(width, -1.0), np.full(width, 1.0)
        notes.append("actions are taken to be limited by -1 and 1, since all of them are")
    shape = (width,) if action.ndim == 1 else action.shape[1:]
    low, high = (limit.reshape(shape).astype(np.float32) for limit in (low, high))
    require(bool((low < high).all()), "--action-low must be below --action-high")
    return observation_space, Box(low, high, shape, np.float32), {}


def _limit(given: Sequence[float], width: int, name: str) -> np.ndarray | None:
    if not len(given):
        return None
    require(len(given) in (1, width), f"--action-{name} needs one number or {width}, got {len(given)}")
    require(all(map(math.isfinite, given)), f"--action-{name} must be finite")
    return np.broadcast_to(np.asarray(given, np.float64), (width,))
