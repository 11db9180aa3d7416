"""Windows: consecutive steps of one episode, which there are, and their steps, padded on the left to one length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from palaestra.core.errors import BadDataset
from palaestra.core.experience import Experience, tree_map
from palaestra.data.dataset import Dataset


def windows(dataset: Dataset, first: Tensor, length: int, counts: Tensor | None = None) -> Experience:
    """The steps that begin at rows `first` `(B,)`, `counts` of them `(B,)` or as many as the episode still has, at most `length`.

    Every column of the dataset comes as `(B, length, …)`, with `mask`, 1 where a step is real, and `time`, its place in its
    episode from 0; before the first real step, all of them are 0.
    """
    episode = dataset.episode[first]
    left = dataset.stops[episode] - first
    counts = left if counts is None else torch.minimum(counts, left)
    offset = torch.arange(length) - (length - counts.clamp(max=length)).unsqueeze(1)
    real = offset >= 0
    row = first.unsqueeze(1) + offset.clamp(min=0)

    def padded(column: Tensor) -> Tensor:
        found = column.index_select(0, row.flatten()).unflatten(0, row.shape)
        return torch.where(real.view(*real.shape, *[1] * (found.dim() - 2)), found, torch.zeros((), dtype=found.dtype))

    columns: dict[str, Any] = {name: tree_map(padded, column) for name, column in dataset.steps.items()}
    time = (row - dataset.starts[episode].unsqueeze(1)) * real
    return Experience(**{**columns, "mask": real.float(), "time": time})


def window_starts(dataset: Dataset, length: int, stride: int = 1) -> Tensor:
    """The first rows of whole windows of `length` steps, `(W,)` in order, none of which leaves its episode.

    Every `stride`-th of all there are, the first of each episode, and each that ends where the task itself ended, so that
    starts and ends are seen whatever the stride. Windows that end where the clock ended the episode are left out: nothing
    in them says that it would have gone on (Jackson et al., arXiv 2404.06356, released code).

    Raises:
        BadDataset: there is no such window.
    """
    first = torch.arange(max(0, len(dataset) - length + 1))
    first = first[dataset.episode[first] == dataset.episode[first + length - 1]]
    last = first + length - 1
    regular = torch.arange(len(first)) % stride == 0
    begins = dataset.starts[dataset.episode[first]] == first
    ends = dataset.steps.terminated[last] > 0
    cut = (dataset.steps.truncated[last] > 0) & ~ends
    chosen = first[(regular | begins | ends) & ~cut]
    if len(chosen) == 0:
        raise BadDataset(
            f"{dataset.name} has no window of {length} steps: its longest episode has {int(dataset.lengths.max())}, and "
            "windows that end where an episode was truncated do not count; take a shorter window"
        )
    return chosen
