"""The replay ring against a plain Python list."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.core.errors import BadSetting
from palaestra.core.experience import Experience
from palaestra.core.seeding import Streams
from palaestra.data.replay import Replay


def steps(first: int, count: int, mask: list[bool] | None = None) -> Experience:
    """Steps whose every field tells their number."""
    n = torch.arange(first, first + count)
    return Experience(
        obs={"x": n.float().unsqueeze(1).expand(-1, 3).clone(), "k": n},
        action=n.float().unsqueeze(1),
        reward=n.float(),
        next_obs={"x": (n + 1).float().unsqueeze(1).expand(-1, 3).clone(), "k": n + 1},
        terminated=(n % 7 == 0).float(),
        truncated=(n % 5 == 0).float(),
        mask=None if mask is None else torch.tensor(mask).float(),
    )


def held(replay: Replay) -> list[int]:
    """The numbers of the steps in the ring, oldest first."""
    if replay.storage is None:
        return []
    start = replay.position if replay.size == replay.capacity else 0
    order = [(start + i) % replay.capacity for i in range(replay.size)]
    return replay.storage.reward[order].long().tolist()


@settings(max_examples=60)
@given(st.integers(1, 12), st.lists(st.lists(st.booleans(), min_size=1, max_size=20), max_size=10))
def test_it_holds_the_last_capacity_steps_that_the_policy_chose(capacity, batches):
    replay, model, first = Replay(capacity, Streams(0)), [], 0
    for mask in batches:
        replay.add(steps(first, len(mask), mask))
        model += [first + i for i, chosen in enumerate(mask) if chosen]
        first += len(mask)
        assert held(replay) == model[-capacity:]
        assert len(replay) == min(len(model), capacity)
    if model:
        batch = replay.sample(64)
        numbers = batch.reward.long()
        assert set(numbers.tolist()) <= set(model[-capacity:])
        assert torch.equal(batch.obs["k"], numbers)
        assert torch.equal(batch.next_obs["x"][:, 2], numbers + 1.0)
        assert torch.equal(batch.terminated, (numbers % 7 == 0).float())
        assert torch.equal(batch.truncated, (numbers % 5 == 0).float())


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(0, 40), st.integers(1, 9))
def test_a_restored_buffer_goes_on_as_if_nothing_had_happened(capacity, before, after):
    one, two = Replay(capacity, Streams(1)), Replay(capacity, Streams(1))
    for i in range(before):
        one.add(steps(i, 1))
    if before:
        one.sample(4)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    assert held(two) == held(one)
    for replay in (one, two):
        replay.add(steps(100, after))
    assert held(two) == held(one)
    a, b = one.sample(16), two.sample(16)
    assert torch.equal(a.reward, b.reward)
    assert torch.equal(a.obs["x"], b.obs["x"])


def test_a_batch_of_time_by_environments_is_stored_step_by_step():
    replay = Replay(10, Streams(0))
    replay.add(steps(0, 6).map(lambda x: x.unflatten(0, (2, 3))))
    assert held(replay) == list(range(6))


def test_samples_are_uniform():
    replay = Replay(10, Streams(0))
    replay.add(steps(0, 25))
    counts = torch.bincount(replay.sample(20_000).reward.long() - 15, minlength=10)
    chi_square = float(((counts - 2000.0) ** 2 / 2000).sum())
    assert chi_square < 27.9  # the 0.1% point of chi square with 9 degrees of freedom


def test_consecutive_samples_differ_and_repeat_with_the_seed():
    def draws(seed: int) -> list[list[float]]:
        replay = Replay(100, Streams(seed))
        replay.add(steps(0, 100))
        return [replay.sample(8).reward.tolist() for _ in range(2)]

    assert draws(0) == draws(0)
    assert draws(0)[0] != draws(0)[1]
    assert draws(0) != draws(1)


def test_an_empty_buffer_and_an_impossible_capacity_are_refused():
    with pytest.raises(BadSetting, match="empty"):
        Replay(10, Streams(0)).sample(1)
    with pytest.raises(BadSetting, match="at least 1"):
        Replay(0, Streams(0))
