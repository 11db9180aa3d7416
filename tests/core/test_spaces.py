"""Spaces as tensors and as JSON."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.core import spaces
from palaestra.core.errors import BadCheckpoint, BadEnvironment, Unsupported

shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=5)


@st.composite
def boxes(draw):
    shape = draw(shapes)
    low = draw(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=1))[0]
    span = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    high = low + 1 + span if draw(st.booleans()) else np.full(shape, np.inf, np.float32)
    return gym.spaces.Box(np.full(shape, low, np.float32), high.astype(np.float32), shape, np.float32)


leaves = st.one_of(
    boxes(),
    st.builds(lambda s: gym.spaces.Box(0, 255, (*s, 3), np.uint8), shapes),
    st.builds(lambda n, s: gym.spaces.Discrete(n, start=s), st.integers(1, 50), st.integers(-9, 9)),
    st.builds(gym.spaces.MultiDiscrete, st.lists(st.integers(1, 9), min_size=1, max_size=4)),
    st.builds(gym.spaces.MultiBinary, st.integers(1, 9)),
)
any_space = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(gym.spaces.Dict, st.dictionaries(names, inner, min_size=1, max_size=3)),
        st.builds(gym.spaces.Tuple, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=5,
)


@settings(max_examples=150)
@given(any_space)
def test_a_space_comes_back_from_json_as_it_was(space):
    assert spaces.from_json(json.loads(json.dumps(spaces.to_json(space)))) == space


@settings(max_examples=100)
@given(any_space, st.integers(1, 3))
def test_samples_become_batches_that_pass_the_check(space, count):
    space.seed(0)
    rows = [space.sample() for _ in range(count)]
    batch = spaces.encode_obs(space, spaces.stack_obs(space, rows))
    spaces.check_obs(space, batch, "here")
    like = spaces.zeros(space, count)
    for a, b in zip(_leaves(batch), _leaves(like), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


def _leaves(tree):
    return [leaf for part in tree.values() for leaf in _leaves(part)] if isinstance(tree, dict) else [tree]


@given(st.lists(st.tuples(st.floats(-100, 99), st.floats(0.01, 100)), min_size=1, max_size=4), st.data())
def test_the_action_box_maps_both_ways_and_never_leaves_its_limits(limits, data):
    low = np.array([l for l, _ in limits], np.float32)  # noqa: E741
    box = spaces.ActionBox(gym.spaces.Box(low, low + np.array([w for _, w in limits], np.float32)))
    inner = torch.tensor([data.draw(st.lists(st.floats(-1, 1, width=32), min_size=len(low), max_size=len(low)))])
    outer = box.to_env(inner)
    assert (outer >= box.low).all()
    assert (outer <= box.high).all()
    torch.testing.assert_close(box.from_env(outer), inner, atol=2e-2, rtol=0)
    ends = torch.tensor([[-1.0] * len(low), [1.0] * len(low)])
    np.testing.assert_allclose(box.to_env(ends), np.stack([box.low, box.high]), atol=1e-4)


def test_an_observation_is_copied_out_of_the_environments_own_array():
    space = gym.spaces.Box(-1, 1, (2,), np.float32)
    array = np.zeros(2, np.float32)
    batch = spaces.encode_obs(space, spaces.stack_obs(space, [array]))
    array[:] = 1
    assert batch.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("space", "obs"),
    [
        (gym.spaces.Box(0, 255, (2,), np.uint8), [0.5, 0.25]),
        (gym.spaces.Box(0, 255, (2,), np.uint8), [3, 300]),
        (gym.spaces.Discrete(3), 1.5),
        (gym.spaces.Discrete(3), 3),
        (gym.spaces.Discrete(3, start=2), 1),
        (gym.spaces.MultiDiscrete([2, 2]), [0, 2]),
        (gym.spaces.Box(-1, 1, (2,), np.float32), [0, np.nan]),
        (gym.spaces.Box(-1, 1, (2,), np.float32), [0, np.inf]),
        (gym.spaces.Box(-1, 1, (2,), np.float32), [0, 0, 0]),
    ],
)
def test_what_would_be_cut_off_or_is_out_of_range_is_refused(space, obs):
    with pytest.raises(BadEnvironment, match=r"space|fit|NaN"):
        spaces.check_obs(space, spaces.encode_obs(space, np.asarray([obs])), "the observation")


def test_whole_numbers_of_another_type_are_accepted():
    image = gym.spaces.Box(0, 255, (2,), np.uint8)
    assert spaces.encode_obs(image, [[3.0, 255.0]]).tolist() == [[3, 255]]
    assert spaces.encode_obs(gym.spaces.Discrete(3), [2.0]).tolist() == [2]


def test_an_unknown_space_names_what_would_fit():
    with pytest.raises(Unsupported, match="Sequence spaces are not supported; use Box"):
        spaces.kind(gym.spaces.Sequence(gym.spaces.Discrete(2)))


def test_an_unbounded_action_space_says_how_to_bound_it():
    with pytest.raises(Unsupported, match="RescaleAction"):
        spaces.ActionBox(gym.spaces.Box(-np.inf, np.inf, (1,)))


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"kind": "sphere"},
        {"kind": "box", "shape": [2]},
        {"kind": "box", "shape": [10**9, 10**9], "dtype": "float32", "low": 0, "high": 1},
        {"kind": "box", "shape": [-1], "dtype": "float32", "low": 0, "high": 1},
        {"kind": "box", "shape": [2], "dtype": "object", "low": 0, "high": 1},
        {"kind": "box", "shape": [2], "dtype": "float32", "low": [0, 0, 0], "high": 1},
        {"kind": "box", "shape": "ab", "dtype": "float32", "low": 0, "high": 1},
        {"kind": "discrete", "n": -3, "start": 0},
        {"kind": "discrete", "n": "many", "start": 0},
        {"kind": "multi_discrete", "nvec": [2], "start": None},
        {"kind": "multi_binary", "n": [10**9, 10**9]},
        {"kind": "dict", "spaces": [1, 2]},
        {"kind": "tuple", "spaces": {"0": None}},
    ],
)
def test_a_description_of_no_space_is_refused(data):
    with pytest.raises(BadCheckpoint, match="the file describes"):
        spaces.from_json(data)
