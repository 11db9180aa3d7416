"""The point in the plane: its motion by hand, its bounds, and its two forms."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from palaestra.envs import own
from palaestra.envs.checker import check_env
from palaestra.envs.point import GOAL, HORIZON, SPEED, Point, PointVector
from palaestra.envs.task import EnvTask


def test_it_is_accelerated_and_no_faster_than_it_may_be():
    points = PointVector(2)
    begun, _ = points.reset(seed=0)
    push = np.array([[1.0, 0.0], [1.0, 1.0]])
    seen, reward, *_ = points.step(push)
    np.testing.assert_allclose(seen[0], begun[0] + [0.05, 0, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(reward[0], -np.hypot(*(seen[0, :2] - GOAL)), atol=1e-6)
    for _ in range(3):
        before = seen
        seen, *_ = points.step(push)
    np.testing.assert_allclose(seen[:, 2:], [[1.0, 0.0], [0.5**0.5, 0.5**0.5]], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(seen[:, :2] - before[:, :2], axis=1), SPEED, atol=1e-6)


def test_a_larger_action_does_no_more_than_the_largest():
    one, two = PointVector(3), PointVector(3)
    one.reset(seed=1), two.reset(seed=1)
    np.testing.assert_array_equal(one.step(np.full((3, 2), 7.0))[0], two.step(np.ones((3, 2)))[0])


def test_the_task_itself_ends_after_twenty_steps_and_the_true_last_place_is_told():
    points = PointVector(3)
    points.reset(seed=0)
    for t in range(HORIZON):
        seen, _, ended, cut, info = points.step(np.tile([0.0, 1.0], (3, 1)))
        assert (ended == (t == HORIZON - 1)).all() and not cut.any()
    assert (info["final_obs"][:, 1] > 1.8).all() and (np.abs(seen) < 0.1).all()


def test_a_ring_pays_nothing():
    task = EnvTask("palaestra/RingPoint-v0")
    env = task.make()
    env.reset(seed=0)
    assert [env.step(env.action_space.sample())[1] for _ in range(HORIZON)] == [0.0] * HORIZON


def test_one_point_is_the_batch_of_one():
    env, batch = Point(), PointVector(1)
    np.testing.assert_array_equal(env.reset(seed=5)[0], batch.reset(seed=5)[0][0])
    for _ in range(HORIZON - 1):
        action = np.array([0.3, -0.8])
        np.testing.assert_array_equal(env.step(action)[0], batch.step(action[None])[0][0])
    last, _, ended, cut, _ = env.step(action)
    assert ended and not cut
    np.testing.assert_array_equal(last, batch.step(action[None])[4]["final_obs"][0])


@pytest.mark.parametrize("name", ["PointGoal", "RingPoint"])
def test_gymnasium_makes_them_and_the_checker_finds_nothing(name):
    own.register_all()
    assert gymnasium.make_vec(f"palaestra/{name}-v0", num_envs=3).num_envs == 3
    assert check_env(gymnasium.make(f"palaestra/{name}-v0")) == []
