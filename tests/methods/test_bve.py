"""Behaviour value estimation: which steps it learns from, and that it finds the behaviour's values."""

from __future__ import annotations

import gymnasium
import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadDataset
from palaestra.core.experience import Experience
from palaestra.core.method import Budget
from palaestra.data.dataset import Dataset
from palaestra.data.task import DatasetTask

from .tiny import SMALL_DATA, bind_offline

CELLS, GAMMA = 4, 0.9


def chain(episodes: int, limit: int = 30) -> Dataset:
    """A walk over four cells: action 1 goes right, action 0 left; beyond the last cell lies a reward of 1 and the end. Some
    episodes are cut while they are under way."""
    g = torch.Generator().manual_seed(0)
    rows: list[tuple[int, int, float, int, float, float]] = []
    starts = []
    for _ in range(episodes):
        starts.append(len(rows))
        cell = 0
        for time in range(limit):
            action = int(torch.rand((), generator=g) < 0.4 + 0.1 * cell)
            arrived = cell == CELLS - 1 and action == 1
            after = cell if arrived else max(0, cell + 2 * action - 1)
            rows.append((cell, action, float(arrived), after, float(arrived), float(not arrived and time == limit - 1)))
            cell = after
            if arrived:
                break
    obs, action, reward, next_obs, terminated, truncated = (torch.tensor(column) for column in zip(*rows, strict=True))
    steps = Experience(obs, action, reward, next_obs, terminated=terminated, truncated=truncated)
    spaces = gymnasium.spaces.Discrete(CELLS), gymnasium.spaces.Discrete(2)
    return Dataset("chain", steps, torch.tensor(starts), *spaces)


def bound(dataset: Dataset, **settings):
    return pal.BVE(**{**SMALL_DATA, **settings}).bind(DatasetTask(dataset), 0, Budget(updates=10))


def solved(dataset: Dataset) -> torch.Tensor:
    """Q = r + gamma P Q of the behaviour, as the data tell it: P counts the next actions that were recorded."""
    pairs = CELLS * 2
    moves, reward, count = torch.zeros(pairs, pairs), torch.zeros(pairs), torch.zeros(pairs)
    for episode in dataset.episodes():
        index = episode.obs * 2 + episode.action
        for t in range(len(episode)):
            if episode.truncated[t]:
                continue  # what came next is not known
            i = int(index[t])
            count[i] += 1
            reward[i] += episode.reward[t]
            if not episode.terminated[t]:
                moves[i, int(index[t + 1])] += 1
    count.clamp_(min=1)
    return torch.linalg.solve(torch.eye(pairs) - GAMMA * moves / count[:, None], reward / count).view(CELLS, 2)


def test_on_a_chain_its_fixed_point_is_the_solved_value_of_the_behaviour():
    data = chain(60)
    assert 0 < float(data.steps.truncated.sum()) < 30
    # a linear network on one-hot cells is a table
    method = bound(data, network=(), gamma=GAMMA, lr=0.02)
    steps = method.data.dataset.steps
    known = steps[steps.mask.bool()]
    for _ in range(1500):
        method.learn(known)
    torch.testing.assert_close(method.q(torch.arange(CELLS)).detach(), solved(data), atol=2e-3, rtol=0)


def test_the_next_action_is_the_one_of_the_next_row():
    method = bound(chain(3))
    steps = method.data.dataset.steps
    inside = (steps.terminated + steps.truncated) == 0
    rows = inside.nonzero().flatten()
    assert torch.equal(steps.next_action[rows], steps.action[rows + 1])
    assert torch.equal(steps.next_obs[rows], steps.obs[rows + 1])


def test_the_step_at_which_a_time_limit_cut_an_episode_is_never_drawn_and_a_terminal_one_is():
    data = chain(30, limit=12)
    method = bound(data, batch_size=512)
    batch = [method.data.sample(512) for _ in range(20)]
    assert float(data.steps.truncated.sum()) > 0
    assert all(float(b.truncated.sum()) == 0 for b in batch)
    assert float(sum(b.terminated.sum() for b in batch)) > 0


def test_at_a_terminal_step_the_next_episodes_action_does_not_enter_the_target():
    method = bound(chain(30), gamma=GAMMA)
    steps = method.data.dataset.steps
    ends = steps[steps.terminated.bool()]
    assert torch.equal(method.goal(ends), ends.reward)


def test_a_dataset_without_any_next_action_is_refused():
    data = chain(5, limit=1)
    with pytest.raises(BadDataset, match="no step that bve can learn from"):
        bound(data)


def test_the_dataset_itself_gets_no_new_columns():
    data = chain(3)
    bound(data)
    assert data.steps.next_action is None
    assert data.steps.mask is None


def test_no_gradient_flows_through_the_target():
    method = bind_offline(pal.BVE(**SMALL_DATA), "CartPole-v1")
    assert not method.goal(method.data.sample(4)).requires_grad
