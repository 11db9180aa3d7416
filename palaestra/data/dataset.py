"""Datasets: logged episodes laid end to end, kept in memory-mapped files.

On disk a dataset is a folder: `dataset.json` (what it is) and one `.npy` file per column, which is mapped into memory and not
read until it is used, so that opening takes no time and data may be larger than memory.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from palaestra.core import files, spaces
from palaestra.core.errors import BadDataset, PalaestraError, require
from palaestra.core.experience import Experience, tree_leaves

if TYPE_CHECKING:
    from gymnasium import Space

COLUMNS = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
"""What a dataset holds of every step."""


@dataclass
class Dataset:
    """`N` steps of `E` whole episodes, in the order in which they happened.

    Actions are in the units of palaestra's policies: a bounded box scaled to [-1, 1], `(N, m)`, or an index from 0, `(N,)`.
    The last step of every episode is `terminated` or `truncated`; `next_obs` is the true next observation there too. What is
    read from files stays there until it is used, so only shapes, types and boundaries are looked at here;
    `palaestra.data.checker` looks at the numbers.

    Raises:
        BadDataset: the columns do not fit each other, the boundaries or the spaces.
    """

    name: str
    steps: Experience
    starts: Tensor  # (E,) first row of every episode
    observation_space: Space
    action_space: Space
    env: str | None = None
    """The environment that policies are evaluated on: a Gymnasium id, or whatever else names a task."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """What that environment is made with."""
    references: tuple[float, float] | None = None
    """Returns that count as 0 and 100: a random policy's and an expert's."""
    about: dict[str, Any] = field(default_factory=dict)
    """How the data came to be: behaviour policy, seeds, snapshot scores."""

    def __post_init__(self) -> None:
        missing = [name for name in COLUMNS if getattr(self.steps, name) is None]
        if missing:
            raise BadDataset(f"{self.name} lacks {', '.join(missing)}; a dataset needs {', '.join(COLUMNS)}")
        rows = {len(leaf) for _, column in self.steps.items() for leaf in tree_leaves(column)}
        if len(rows) != 1 or rows == {0}:
            raise BadDataset(f"{self.name} has columns of {sorted(rows)} rows; there must be one row per step in each")
        self._check_columns()
        self._check_boundaries()

    def _check_columns(self) -> None:
        for name, row in one_step(self.observation_space, self.action_space).items():
            if _outline(getattr(self.steps, name)) != _outline(row):
                raise BadDataset(
                    f"{self.name}: {name} holds {_outline(getattr(self.steps, name))} a step, but {_outline(row)} belongs there"
                )

    def _check_boundaries(self) -> None:
        fits = self.starts.dtype == torch.int64 and self.starts.dim() == 1 and len(self.starts) > 0
        inside = fits and int(self.starts[0]) == 0 and int(self.starts[-1]) < len(self)
        if not inside or not bool((self.lengths > 0).all()):
            raise BadDataset(
                f"{self.name}: the first rows of episodes must rise from 0 to below {len(self)}, the number of steps"
            )
        ended = self.steps.terminated[self.stops - 1] + self.steps.truncated[self.stops - 1]
        if not bool((ended > 0).all()):
            which = int((ended <= 0).nonzero()[0])
            raise BadDataset(f"{self.name}: the last step of episode {which} is neither terminated nor truncated")

    def __len__(self) -> int:
        return len(self.steps)

    @cached_property
    def stops(self) -> Tensor:
        """One past the last row of every episode, `(E,)`."""
        return torch.cat([self.starts[1:], torch.tensor([len(self)])])

    @property
    def lengths(self) -> Tensor:
        """Steps of every episode, `(E,)`."""
        return self.stops - self.starts

    @cached_property
    def episode(self) -> Tensor:
        """The episode that each row belongs to, `(N,)`."""
        return torch.repeat_interleave(torch.arange(len(self.starts)), self.lengths)

    @cached_property
    def returns(self) -> Tensor:
        """The undiscounted return of every episode, `(E,)` in float64."""
        sums = torch.zeros(len(self.starts), dtype=torch.float64)
        return sums.index_add_(0, self.episode, self.steps.reward.double())

    def first(self, episodes: int) -> Dataset:
        """The first so many episodes.

        Raises:
            BadSetting: there are fewer.
        """
        count = len(self.starts)
        require(1 <= episodes <= count, f"{self.name} has {count} episodes, so {episodes} of them cannot be taken")
        rows = int(self.stops[episodes - 1])
        return dataclasses.replace(self, steps=self.steps[:rows], starts=self.starts[:episodes])

    def episodes(self) -> Iterator[Experience]:
        """The steps of one episode after the other."""
        for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True):
            yield self.steps[start:stop]

    def score(self, value: float) -> float:
        """A return on the scale on which the references are 0 and 100.

        Raises:
            BadDataset: the dataset names no references.
        """
        if self.references is None:
            raise BadDataset(f"{self.name} names no reference returns, so nothing can be normalised by them")
        low, high = self.references
        return 100 * (value - low) / (high - low)

    def save(self, folder: str | Path) -> Path:
        """Write the dataset to a folder, whole or not at all.

        Raises:
            BadDataset: an episode ends inside, which only reading all of the columns can tell.
        """
        folder = Path(folder)
        self._check_ends()
        with files.replacing(folder) as fresh:
            np.save(fresh / "starts.npy", self.starts.numpy())
            for path, column in _leaves(dict(self.steps.items())):
                np.save(fresh / f"{path}.npy", column.numpy())
            files.write_text(fresh / "dataset.json", self._description())
        return folder

    def _check_ends(self) -> None:
        ends = int(((self.steps.terminated + self.steps.truncated) > 0).sum())
        if ends != len(self.starts):
            raise BadDataset(f"{self.name}: {ends} steps end an episode, but it is cut into {len(self.starts)} of them")

    def _description(self) -> str:
        description = {
            "palaestra": "dataset",
            "name": self.name,
            "observation_space": spaces.to_json(self.observation_space),
            "action_space": spaces.to_json(self.action_space),
            "env": self.env,
            "env_kwargs": self.env_kwargs,
            "references": self.references,
            "about": self.about,
            "columns": _named(dict(self.steps.items())),
        }
        return json.dumps(description, indent=1)


def one_step(observation_space: Any, action_space: Any) -> dict[str, Any]:
    """The columns of a dataset of one step, all zeros."""
    return {
        **dict.fromkeys(("reward", "terminated", "truncated"), torch.zeros(1)),
        "obs": spaces.zeros(observation_space, 1),
        "next_obs": spaces.zeros(observation_space, 1),
        "action": spaces.encode_action(action_space, np.zeros((1, *(action_space.shape or ())))),
    }


def write_dataset(folder: str | Path, rows: int, episodes: Iterable[Experience], **about: Any) -> Path:
    """Write a dataset of `rows` steps, one episode after the other, none of which is held in memory for longer than that;
    `about` is the rest of a `Dataset`.

    Raises:
        BadDataset: there are more or fewer steps, or the columns do not fit the spaces.
    """
    folder = Path(folder)
    with files.replacing(folder) as fresh:
        starts, at = [], 0
        columns: dict[str, np.ndarray] = {}
        for episode in episodes:
            starts.append(at)
            at += len(episode)
            for path, part in _leaves(dict(episode.items())):
                if path not in columns:
                    columns[path] = np.lib.format.open_memmap(
                        fresh / f"{path}.npy", "w+", part.numpy().dtype, (rows, *part.shape[1:])
                    )
                if at <= rows:
                    columns[path][at - len(episode) : at] = part.numpy()
            names = _named(dict(episode.items()))
        if at != rows or not columns:
            raise BadDataset(f"{about.get('name')}: {rows} steps were announced, but there are {at}")
        np.save(fresh / "starts.npy", np.array(starts, np.int64))
        steps = Experience(**_mapped(fresh, names))
        dataset = Dataset(steps=steps, starts=torch.tensor(starts), **about)
        dataset._check_ends()
        files.write_text(fresh / "dataset.json", dataset._description())
    return folder


def open_dataset(folder: str | Path) -> Dataset:
    """The dataset that `Dataset.save` wrote, its columns mapped into memory.

    Raises:
        BadDataset: the folder holds no dataset, or a damaged one.
    """
    folder = Path(folder)
    if not (folder / "dataset.json").exists():
        raise BadDataset(f"{folder} holds no dataset (dataset.json is missing)")
    try:
        description = _described(files.read_json(folder / "dataset.json"))
        references = description["references"]
        return Dataset(
            name=description["name"],
            steps=Experience(**_mapped(folder, description["columns"])),
            starts=torch.from_numpy(np.load(folder / "starts.npy", allow_pickle=False)),
            observation_space=spaces.from_json(description["observation_space"]),
            action_space=spaces.from_json(description["action_space"]),
            env=description["env"],
            env_kwargs=description["env_kwargs"],
            references=None if references is None else (float(references[0]), float(references[1])),
            about=description["about"],
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OSError, EOFError, PalaestraError) as error:
        raise BadDataset(f"{folder} is damaged ({type(error).__name__}: {error}); make or import it again") from error


def _described(description: dict[str, Any]) -> dict[str, Any]:
    """A description whose parts are of the types that they must be, which a file need not have been written for."""
    found = {"env_kwargs": {}, **description}
    kinds = {"name": str, "env": str | None, "env_kwargs": dict, "about": dict, "columns": dict}
    for key, kind in kinds.items():
        if not isinstance(found[key], kind):  # type: ignore[arg-type]
            raise TypeError(f"{key} is {found[key]!r}")
    notes = found["about"].get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise TypeError(f"notes are {notes!r}")
    if not found["name"].isprintable():  # it could do anything to a terminal
        raise ValueError(f"name is {found['name']!r}")
    return found


def _outline(tree: Any) -> Any:
    """Shape and type of one row of every leaf, as text."""
    if isinstance(tree, dict):
        return {key: _outline(value) for key, value in tree.items()}
    return f"{tuple(tree.shape[1:])} {str(tree.dtype).removeprefix('torch.')}"


def _named(tree: Any, path: str = "") -> Any:
    """The tree with every leaf replaced by the name of its file, numbered, since keys may be any text."""
    if not isinstance(tree, dict):
        return path
    return {key: _named(value, f"{path}-{i}" if path else key) for i, (key, value) in enumerate(tree.items())}


def _leaves(tree: Any) -> list[tuple[str, Tensor]]:
    names, tensors = tree_leaves(_named(tree)), tree_leaves(tree)
    return list(zip(names, tensors, strict=True))


def _mapped(folder: Path, names: Any) -> Any:
    if isinstance(names, dict):
        return {key: _mapped(folder, value) for key, value in names.items()}
    # Copy on write: torch wants writable memory, and nothing that is written there reaches the file.
    return torch.from_numpy(np.load(folder / f"{Path(names).name}.npy", mmap_mode="c", allow_pickle=False))
