"""Which windows of whole steps a dataset has."""

from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from hypothesis import given

from palaestra.core.errors import BadDataset
from palaestra.core.experience import Experience
from palaestra.data.dataset import Dataset
from palaestra.data.windows import window_starts


def dataset(lengths: list[int], terminal: list[bool]) -> Dataset:
    """Episodes of these lengths, terminated or truncated."""
    count, ends = sum(lengths), torch.tensor(lengths).cumsum(0) - 1
    terminated, truncated = torch.zeros(count), torch.zeros(count)
    terminated[ends] = torch.tensor(terminal).float()
    truncated[ends] = 1 - torch.tensor(terminal).float()
    numbers = torch.arange(count, dtype=torch.float32)
    steps = Experience(
        obs=numbers.view(-1, 1),
        action=torch.zeros(count, 1),
        reward=numbers,
        next_obs=numbers.view(-1, 1) + 1,
        terminated=terminated,
        truncated=truncated,
    )
    box = Box(-np.inf, np.inf, (1,))
    return Dataset("made", steps, torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1] + 1]), box, Box(-1, 1, (1,)))


def test_windows_by_hand():
    # rows 0-4 end in the task, 5-8 by the clock, 9-10 are too short; of the starts 0 1 2 | 5 6 every third is regular: 0 and 6,
    # the last of which ends at the clock; 2 ends where the task ends, and 5 begins an episode
    assert window_starts(dataset([5, 4, 2], [True, False, True]), 3, stride=3).tolist() == [0, 2, 5]


def test_a_window_may_be_a_whole_episode_that_the_task_ended_but_not_one_that_was_cut():
    assert window_starts(dataset([3, 3], [True, False]), 3).tolist() == [0]


@given(
    st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=6), st.integers(2, 6), st.integers(1, 5)
)
def test_no_window_leaves_its_episode_or_ends_with_the_clock(episodes, length, stride):
    data = dataset([n for n, _ in episodes], [over for _, over in episodes])
    try:
        starts = window_starts(data, length, stride)
    except BadDataset:
        assert all(n < length + (not over) for n, over in episodes)
        return
    last = starts + length - 1
    assert bool((data.episode[starts] == data.episode[last]).all())
    assert bool((data.steps.truncated[last] == 0).all())
    assert bool((starts.diff() > 0).all())
    inside = {int(data.starts[i]) for i, (n, over) in enumerate(episodes) if n > length or (n == length and over)}
    assert inside <= set(starts.tolist())


def test_windows_longer_than_every_episode_are_refused():
    with pytest.raises(BadDataset, match="made has no window of 6 steps: its longest episode has 5"):
        window_starts(dataset([5, 4], [True, False]), 6)


def test_a_dataset_that_does_not_say_what_the_clock_ended_has_no_windows():
    data = dataset([5], [True])
    with pytest.raises(BadDataset, match="lacks truncated"):
        dataclasses.replace(data, steps=data.steps.replace(truncated=None))
