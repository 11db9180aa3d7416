"""Measures of a dataset on cases whose answer is known."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.core.errors import BadDataset, BadSetting
from palaestra.core.experience import Experience
from palaestra.data import measures
from palaestra.data.dataset import Dataset
from palaestra.data.measures import (
    HyperLogLog,
    bin_edges,
    coverage,
    coverages,
    distinct_pairs,
    distinct_rows,
    distinct_states,
    log_coverage,
    trajectory_quality,
    zero_rewards,
)

from .test_dataset import dataset, filled

# Ten rows, six of them distinct: (0, 0) thrice, (1, 0) twice, (1, 1) twice, (2, 0), (2, 1), (3, 1).
STATES, ACTIONS = [0, 0, 0, 1, 1, 1, 1, 2, 2, 3], [0, 0, 0, 0, 0, 1, 1, 0, 1, 1]


def pairs(states: list[float], actions: list[int], name: str = "pairs") -> Dataset:
    """One episode of these states and actions."""
    obs = torch.tensor(states, dtype=torch.float32).reshape(-1, 1)
    ends = torch.zeros(len(obs))
    ends[-1] = 1.0
    steps = Experience(obs, torch.tensor(actions), torch.zeros(len(obs)), obs, terminated=ends, truncated=0 * ends)
    box = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    return Dataset(name, steps, torch.tensor([0]), box, gym.spaces.Discrete(2))


def test_six_of_ten_pairs_are_distinct_and_four_states():
    made = pairs(STATES, ACTIONS)
    edges = bin_edges(made)
    assert distinct_pairs(made, edges) == 6
    assert distinct_states(made, edges) == 4
    assert distinct_rows(np.array([STATES, ACTIONS]).T) == 6


def test_coverages_are_shares_of_the_most_that_any_shows():
    assert coverages(
        [pairs(STATES, ACTIONS), pairs([0.0, 1.0, 2.0] + 7 * [3.0], 10 * [0]), pairs([9.0] * 10, [0] * 10)]
    ) == [
        1,
        pytest.approx(4 / 6),
        pytest.approx(1 / 6),
    ]


def test_coverages_look_at_equally_many_steps():
    """Thrice the steps of a world in which every pair is new would otherwise cover thrice as much."""
    small, large = (pairs([float(i) for i in range(n)], n * [0]) for n in (20, 60))
    assert coverages([small, large], bins=1000) == [1, 1]


def test_states_and_actions_are_told_apart_and_not_added():
    """1 + 0 = 0 + 1."""
    made = pairs([0, 1], [1, 0])
    assert distinct_pairs(made, bin_edges(made)) == 2


rows = st.lists(st.tuples(st.floats(-5, 5, width=32), st.integers(0, 1)), min_size=2, max_size=40)


@settings(max_examples=100)
@given(rows, rows)
def test_the_same_rows_again_add_nothing_and_others_take_nothing_away(first, second):
    a, b = pairs(*map(list, zip(*first))), pairs(*map(list, zip(*second)))
    edges = bin_edges(a)
    count = distinct_pairs(a, edges)
    assert distinct_pairs(pairs(*map(list, zip(*(first + first)))), edges) == count
    assert distinct_pairs(pairs(*map(list, zip(*(first + second)))), edges) >= max(count, distinct_pairs(b, edges))
    assert 1 <= count <= len(first)


def test_columns_are_cut_at_the_references_range_and_what_is_outside_is_kept():
    edges = bin_edges(pairs([0.0, 1.0], [0, 0]), bins=5)
    assert edges[0].tolist() == [0, 0.25, 0.5, 0.75, 1.0] and edges[1] is None
    #                          below |  one bin  | another | at the top and above
    inside = pairs([-3.0, -0.01, 0.0, 0.24, 0.25, 1.0, 7.0], [0] * 7)
    assert distinct_states(inside, edges) == 4
    assert distinct_pairs(pairs([0.0, 0.24], [0, 1]), edges) == 2


def test_a_column_that_is_constant_in_the_reference_still_tells_below_from_above():
    edges = bin_edges(pairs([2.0, 2.0], [0, 0]))
    assert distinct_states(pairs([1.0, 2.0, 3.0], [0] * 3), edges) == 2


@pytest.mark.parametrize("observations", ["vector", "image", "discrete", "multi_discrete", "multi_binary", "dict"])
@pytest.mark.parametrize("actions", ["box", "discrete", "multi_discrete"])
def test_any_spaces_can_be_counted(observations, actions):
    made = filled(observations, actions)
    edges = bin_edges(made)
    assert 1 <= distinct_states(made, edges) <= distinct_pairs(made, edges) <= 10
    assert coverage(made, made) == 1


def test_coverage_is_a_share_of_the_reference():
    reference = pairs(STATES, ACTIONS)
    assert coverage(reference, reference) == 1
    assert coverage(pairs([0] * 10, [0] * 10), reference) == pytest.approx(1 / 6)
    assert log_coverage(36, 6) == pytest.approx(2)
    with pytest.warns(UserWarning, match="few has 2 steps and pairs 10; coverage grows with size"):
        coverage(pairs([0, 1], [0, 0], "few"), reference)


@pytest.mark.parametrize("count", [1, 10, 1_000, 40_000, 100_000, 1_000_000])
def test_hyperloglog_is_within_three_percent(count):
    sketch = HyperLogLog()
    rows = np.arange(count, dtype=np.int64)[:, None] // np.array([1, 1000]) % 32768
    rows = np.concatenate([rows, rows // 7], 1).astype(np.int16)
    exact = distinct_rows(rows)
    for _ in range(2):  # rows that were seen before change nothing
        for part in np.array_split(rows, 3):
            sketch.add(part)
    assert sketch.count() == pytest.approx(exact, rel=0.03, abs=0.5)


def test_a_hundred_thousand_pairs_by_either_counter(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    states = torch.rand(100_000, generator=generator).tolist()
    made = pairs(states, torch.randint(2, (100_000,), generator=generator).tolist())
    edges = bin_edges(made, bins=30_000)
    exact = distinct_pairs(made, edges)
    assert 40_000 < exact < 60_000
    assert distinct_pairs(made, edges, exact=False) == pytest.approx(exact, rel=0.03)
    monkeypatch.setattr(measures, "EXACT", 1000)
    assert distinct_pairs(made, edges) == distinct_pairs(made, edges, exact=False) != exact


def test_trajectory_quality_is_0_for_random_and_1_for_the_expert():
    assert trajectory_quality(torch.tensor([10.0, 30.0]), random=20.0, expert=100.0) == 0
    assert trajectory_quality(torch.tensor([100.0]), random=20.0, expert=100.0) == 1
    assert trajectory_quality(torch.tensor([20.0, 20.0, 20.0, 100.0]), random=20.0, expert=100.0) == 0.25
    with pytest.raises(BadDataset, match="must be above the random one, got 5 and 5"):
        trajectory_quality(torch.tensor([1.0]), random=5.0, expert=5.0)
    with pytest.raises(BadDataset, match="no episode"):
        trajectory_quality(torch.tensor([]), random=0.0, expert=1.0)


def test_quality_is_a_mean_over_episodes_and_not_over_steps():
    """A long good episode counts as one."""
    assert trajectory_quality(dataset([1, 9], [0.0] + [1.0] * 9).returns, random=0.0, expert=9.0) == 0.5


def test_rewards_that_are_zero_are_counted_per_episode():
    assert zero_rewards(dataset([2, 4], [0.0, 1, 0, 0, 0, 5])).tolist() == [0.5, 0.75]


def test_settings_out_of_range_are_refused():
    made = pairs(STATES, ACTIONS)
    with pytest.raises(BadSetting, match="bins must be at least 2"):
        bin_edges(made, bins=1)
    with pytest.raises(BadSetting, match="2 columns, but edges for 1"):
        distinct_pairs(made, bin_edges(made)[:1])
    with pytest.raises(BadSetting, match="precision"):
        HyperLogLog(3)
    with pytest.raises(BadSetting, match="no logarithm"):
        log_coverage(1, 1)
    assert math.isinf(measures._sigma(1.0))
