"""Preferences: which of two windows of logged steps is better, said by people or by a scripted teacher.

A window is a stretch of one episode of a `Dataset`. What a label is about need not be seen in it: a scripted teacher compares the
rewards that follow a window's first step, over its own horizon.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palaestra.core import files
from palaestra.core.errors import BadDataset, require
from palaestra.core.experience import Experience
from palaestra.core.seeding import Streams
from palaestra.data.dataset import Dataset
from palaestra.data.sampling import Sampler
from palaestra.data.windows import windows

COLUMNS = ("episode", "start", "length", "label")
ROUNDING = 1e-9
"""Scores whose relative difference is less are equal: sums of equal rewards may differ in their last digits."""


@dataclass
class PreferenceDataset:
    """`N` pairs of windows of a dataset, each with the probability that its first window is preferred.

    A label of 1 or 0 is a strict preference, 1/2 a tie; what lies between are opinions of several people, or soft ones.

    Raises:
        BadDataset: a window lies outside its episode, or a label outside [0, 1].
    """

    name: str
    dataset: Dataset
    episode: Tensor  # (N, 2) int64
    start: Tensor  # (N, 2) int64, the window's first step, counted from the start of its episode
    length: Tensor  # (N, 2) int64, its steps
    label: Tensor  # (N,) float32
    about: dict[str, Any] = field(default_factory=dict)
    """Who labelled: a teacher's settings, or a file."""

    def __post_init__(self) -> None:
        pairs, label = (self.episode, self.start, self.length), self.label
        fits = all(x.dtype == torch.int64 and x.shape == (len(label), 2) for x in pairs)
        if label.dim() != 1 or len(label) == 0 or not label.is_floating_point() or not fits:
            shapes = ", ".join(f"{name} {tuple(getattr(self, name).shape)}" for name in COLUMNS)
            raise BadDataset(
                f"{self.name}: pairs need int64 (N, 2) episodes, starts and lengths and N labels, got {shapes}"
            )
        self._refuse((label < 0) | (label > 1) | label.isnan(), "its label {label} is not in [0, 1]")
        count = len(self.dataset.starts)
        inside = (self.episode >= 0) & (self.episode < count)
        self._refuse(~inside.all(1), f"there is no episode {{episode}} among the {count} of {self.dataset.name}")
        rest = self.dataset.lengths[self.episode] - self.start
        self._refuse((self.start < 0).any(1), "a window begins at step {start}, before its episode")
        self._refuse((self.length < 1).any(1), "a window has {length} steps; it needs one at least")
        self._refuse(
            (self.length > rest).any(1), "a window of {length} steps from step {start} runs past the end of its episode"
        )

    def _refuse(self, bad: Tensor, why: str) -> None:
        if bool(bad.any()):
            pair = int(bad.nonzero()[0])
            raise BadDataset(
                f"{self.name}, pair {pair}: {why.format(**{n: getattr(self, n)[pair].tolist() for n in COLUMNS})}"
            )

    def __len__(self) -> int:
        return len(self.label)

    @property
    def rows(self) -> Tensor:
        """The row of the dataset that every window begins at, `(N, 2)`."""
        return self.dataset.starts[self.episode] + self.start

    def take(self, index: Tensor) -> PreferenceDataset:
        """Some of the pairs."""
        return dataclasses.replace(self, **{name: getattr(self, name)[index] for name in COLUMNS})

    def chosen_first(self) -> PreferenceDataset:
        """The pairs that are no ties, turned so that the first window is the preferred one: (chosen, rejected).

        Raises:
            BadDataset: all are ties.
        """
        strict = self.take((self.label != 0.5).nonzero().flatten())
        order = torch.where((strict.label > 0.5).unsqueeze(1), torch.tensor([0, 1]), torch.tensor([1, 0]))
        turned = {name: getattr(strict, name).gather(1, order) for name in ("episode", "start", "length")}
        return dataclasses.replace(strict, **turned, label=torch.maximum(strict.label, 1 - strict.label))

    def windows(self, index: Tensor, length: int) -> tuple[Experience, Tensor]:
        """The windows of pairs `index` `(B,)`, all first ones, then all second ones, `(2 B, length)`, and their labels `(B,)`."""
        first, counts = self.rows[index].T.flatten(), self.length[index].T.flatten()
        return windows(self.dataset, first, length, counts), self.label[index]

    def records(self) -> list[dict[str, Any]]:
        """A row for each pair, as JSONL and Hugging Face datasets hold them.

        Such as `{"episode": [0, 3], "start": [5, 12], "length": [20, 20], "label": 1.0}`.
        """
        columns = [getattr(self, name).tolist() for name in COLUMNS]
        return [dict(zip(COLUMNS, values, strict=True)) for values in zip(*columns, strict=True)]

    def write(self, path: str | Path) -> Path:
        """Write `records` to a file, a line of JSON each."""
        path = Path(path)
        files.write_text(path, "".join(json.dumps(record) + "\n" for record in self.records()))
        return path

    def save(self, folder: str | Path) -> Path:
        """Write the pairs to a folder, whole or not at all; of their dataset, only its name and what tells it from others."""
        folder = Path(folder)
        described = {
            "palaestra": "preferences",
            "name": self.name,
            "dataset": self.dataset.name,
            "fingerprint": fingerprint(self.dataset),
            "about": self.about,
        }
        with files.replacing(folder) as fresh:
            for name in COLUMNS:
                np.save(fresh / f"{name}.npy", getattr(self, name).numpy())
            files.write_text(fresh / "preferences.json", json.dumps(described, indent=1))
        return folder


@dataclass(frozen=True)
class ScriptedTeacher:
    """Prefers the window after whose first step more reward follows, of the `foresee` steps from there on.

    Near an episode's end there are fewer, and a sum over fewer costs is better for that alone; `average` takes the mean.
    Differences of at most `tie` are ties, and a share `flip` of strict labels is turned round.
    """

    foresee: int = 200
    average: bool = False
    tie: float = 0.0
    flip: float = 0.0

    def __post_init__(self) -> None:
        require(self.foresee >= 1, f"foresee must be at least 1 step, got {self.foresee}")
        require(self.tie >= 0, f"tie must be >= 0, got {self.tie}")
        require(0 <= self.flip <= 1, f"flip must be in [0, 1], got {self.flip}")

    def scores(self, dataset: Dataset) -> Tensor:
        """What a window that begins at each row is worth, `(N,)` in float64.

        Raises:
            BadDataset: rewards are not finite.
        """
        reward = dataset.steps.reward.double()
        if not bool(torch.isfinite(reward).all()):
            raise BadDataset(
                f"{dataset.name} has rewards that are not finite, by which a scripted teacher cannot compare"
            )
        total = torch.cat([torch.zeros(1, dtype=torch.float64), reward.cumsum(0)])
        row = torch.arange(len(dataset))
        stop = torch.minimum(row + self.foresee, dataset.stops[dataset.episode])
        worth = total[stop] - total[row]
        return worth / (stop - row) if self.average else worth

    def labels(self, first: Tensor, second: Tensor, noise: torch.Generator) -> Tensor:
        """The labels of pairs whose windows are worth `first` and `second`, `(B,)` each."""
        apart = first - second
        rounding = ROUNDING * torch.maximum(first.abs(), second.abs())
        label = torch.where(apart.abs() <= rounding.clamp(min=self.tie), 0.5, (apart > 0).float())
        turned = torch.rand(label.shape, generator=noise) < self.flip
        return torch.where(turned, 1 - label, label)

    def label(self, dataset: Dataset, pairs: int, length: int, seed: int = 0, name: str = "pairs") -> PreferenceDataset:
        """`pairs` pairs of windows of at most `length` steps, drawn as `FreshPairs` draws them, with their labels."""
        require(pairs >= 1 and length >= 1, f"pairs and length must be at least 1, got {pairs} and {length}")
        streams = Streams(seed)
        row = torch.randint(len(dataset), (pairs, 2), generator=streams.generator("pairs"))
        worth = self.scores(dataset)[row]
        episode = dataset.episode[row]
        return PreferenceDataset(
            name,
            dataset,
            episode=episode,
            start=row - dataset.starts[episode],
            length=(dataset.stops[episode] - row).clamp(max=length),
            label=self.labels(worth[:, 0], worth[:, 1], streams.generator("labels")),
            about={"teacher": "scripted", **dataclasses.asdict(self), "seed": seed},
        )


class FreshPairs:
    """Pairs of windows that a scripted teacher labels as they are drawn, each window from any step of the data alike."""

    def __init__(self, dataset: Dataset, teacher: ScriptedTeacher, window: int, streams: Streams):
        self.dataset, self.teacher, self.window, self.streams = dataset, teacher, window, streams
        self.sampler = Sampler(dataset, streams, name="pairs")
        self.scores = teacher.scores(dataset)

    def sample(self, batch: int) -> tuple[Experience, Tensor]:
        """`batch` pairs: all first windows, then all second ones, `(2 B, window)`, and labels `(B,)`."""
        row = self.sampler.rows(2 * batch)
        noise = self.streams.generator("labels", self.sampler.drawn)
        first, second = self.scores[row].chunk(2)
        return windows(self.dataset, row, self.window), self.teacher.labels(first, second, noise)

    def state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sampler.load_state_dict(state)


class LabelledPairs:
    """Pairs of a fixed set, drawn with replacement.

    Raises:
        BadDataset: a pair is longer than `window`.
    """

    def __init__(self, preferences: PreferenceDataset, window: int, streams: Streams):
        longest = int(preferences.length.max())
        if longest > window:
            raise BadDataset(f"{preferences.name} compares {longest} steps; a window of {window} is too short for them")
        self.preferences, self.window, self.streams = preferences, window, streams
        self.drawn = 0

    def sample(self, batch: int) -> tuple[Experience, Tensor]:
        """The same as `FreshPairs.sample`."""
        noise = self.streams.generator("pairs", self.drawn)
        self.drawn += 1
        return self.preferences.windows(torch.randint(len(self.preferences), (batch,), generator=noise), self.window)

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.drawn = state["drawn"]


def fingerprint(dataset: Dataset) -> str:
    """What tells a dataset from others: a digest of where its episodes begin and what they return."""
    return hashlib.sha256(dataset.starts.numpy().tobytes() + dataset.returns.numpy().tobytes()).hexdigest()[:16]
