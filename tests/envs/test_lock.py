"""The combination lock: its dynamics worked by hand, its decoys, what is seen of it, and its behaviour."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

from palaestra.core.errors import BadSetting
from palaestra.core.experience import Experience
from palaestra.core.method import Counters
from palaestra.core.seeding import Streams
from palaestra.envs import own
from palaestra.envs.lock import ACTIONS, CombinationLock, CombinationLockVector, NearOptimal, hadamard
from palaestra.envs.rollout import Rollout
from palaestra.envs.task import EnvTask
from palaestra.envs.vector import EnvList


def pressed(hidden: np.ndarray, temperature: float = 0.1) -> np.ndarray:
    """Actions whose hidden action is certain but for 0.04 %, at 40 times the usual sharpness."""
    return 40 * 10 * temperature * np.eye(ACTIONS)[hidden]


def latent_and_time(lock: CombinationLockVector, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What an observation is made of, once the rotation is undone."""
    plain = obs @ lock.rotation / len(lock.rotation)
    assert np.abs(plain.round() - plain).max() < 0.8, "one-hot parts and noise of a tenth"
    return plain[:, :3].argmax(1), plain[:, 3 : 4 + lock.horizon].argmax(1)


def played(lock: CombinationLockVector, wrong_at: int | None = None) -> tuple[np.ndarray, list[np.ndarray]]:
    """Rewards `(H, N)` and latent states of an episode of right actions, but for one step."""
    obs, _ = lock.reset(seed=0)
    rewards, latents = [], []
    for h in range(lock.horizon):
        latent, time = latent_and_time(lock, obs)
        assert (time == h).all()
        latents.append(latent)
        hidden = lock.right[np.where(latent == 2, 0, latent), h]
        hidden = (hidden + (h == wrong_at)) % ACTIONS
        obs, reward, ended, cut, info = lock.step(pressed(hidden))
        rewards.append(reward)
        assert (ended == (h == lock.horizon - 1)).all() and not cut.any()
    assert (latent_and_time(lock, info["final_obs"])[1] == lock.horizon).all()
    assert (latent_and_time(lock, obs)[1] == 0).all()
    return np.array(rewards), latents


def test_the_right_actions_earn_one_at_the_end_through_both_good_states():
    rewards, latents = played(CombinationLockVector(200, horizon=4))
    assert (rewards[:-1] == 0).all() and (rewards[-1] == 1).all()
    for latent in latents:
        assert 60 < (latent == 0).sum() < 140 and (latent < 2).all()


@pytest.mark.parametrize("wrong_at", [0, 2, 3])
def test_a_fall_pays_the_decoy_half_of_the_time_and_is_final(wrong_at):
    rewards, latents = played(CombinationLockVector(400, horizon=4), wrong_at)
    assert set(rewards[wrong_at].round(6)) == {0.0, 0.1}
    assert 0.04 < rewards[wrong_at].mean() < 0.06
    assert np.delete(rewards, wrong_at, 0).max() == 0
    assert all((latent == 2).all() for latent in latents[wrong_at + 1 :])


def test_the_released_decoy_is_paid_at_the_end_to_all_who_failed():
    rewards, _ = played(CombinationLockVector(400, horizon=4, decoy="released"), wrong_at=1)
    assert rewards[:-1].max() == 0 and set(rewards[-1].round(6)) == {0.0, 0.1}
    rewards, _ = played(CombinationLockVector(400, horizon=4, decoy="released"))
    assert (rewards[-1] == 1).all()


def test_the_temperature_scales_the_limits_so_that_the_best_action_stays_as_sure():
    for temperature in (0.1, 1.0):
        lock = CombinationLockVector(20_000, horizon=1, temperature=temperature)
        assert lock.single_action_space.high.max() == pytest.approx(10 * temperature)
        obs, _ = lock.reset(seed=1)
        latent, _ = latent_and_time(lock, obs)
        _, reward, *_ = lock.step(10 * temperature * np.eye(ACTIONS)[lock.right[latent, 0]])
        assert 0.998 < (reward == 1).mean() < 1


def test_actions_are_not_clipped():
    lock = CombinationLockVector(5_000, horizon=1)
    obs, _ = lock.reset(seed=1)
    latent, _ = latent_and_time(lock, obs)
    right = np.eye(ACTIONS)[lock.right[latent, 0]]
    _, reward, *_ = lock.step(3.0 * right + 3.0 - 1.0 * right)  # clipped to 1, all hidden actions would be alike
    assert (reward == 1).mean() > 0.99


def test_the_matrix_is_sylvesters():
    assert len(hadamard(9)) == 16 and len(hadamard(8)) == 8
    matrix = hadamard(64)
    np.testing.assert_array_equal(matrix @ matrix, 64 * np.eye(64))


@pytest.mark.parametrize("settings", [{"horizon": 0}, {"temperature": 0.0}, {"decoy": "none"}])
def test_impossible_locks_are_refused(settings):
    with pytest.raises(BadSetting):
        CombinationLock(**settings)


def test_one_lock_and_many_are_the_same_process_and_episodes_can_be_played_again():
    task = EnvTask("palaestra/CombinationLock-v0", {"horizon": 3})
    single = EnvList(task.make, 2, Streams(0), "train")
    for _ in range(4):
        single.step(np.zeros((2, ACTIONS), np.float32))
    again = EnvList(task.make, 2, Streams(0), "train")
    assert again.load_state_dict(single.state_dict())
    assert torch.equal(single.obs, again.obs)


def test_gymnasium_knows_them_by_name():
    own.register_all()
    env = gymnasium.make("palaestra/CombinationLock10-v0")
    assert env.unwrapped.lock.horizon == 10
    many = gymnasium.make_vec("palaestra/CombinationLock10-v0", 3, "vector_entry_point")
    assert many.horizon == 10 and many.num_envs == 3
    obs, _ = many.reset(seed=0)
    assert many.observation_space.contains(obs)


def rolled(epsilon: float | None) -> Experience:
    task = EnvTask("palaestra/CombinationLock5-v0")
    rollout = Rollout(task.envs(2_000, Streams(0), "data"), Streams(0), Counters())
    return rollout.collect(NearOptimal(CombinationLockVector(1), epsilon), 5)


def test_the_behaviour_without_strays_opens_every_lock():
    assert float(rolled(0.0).reward.sum(0).mean()) > 0.995


def test_the_behaviour_strays_once_in_an_episode_on_average():
    steps = rolled(None)
    strays = (steps.action.amax(-1) < 1).float().mean()
    assert float(strays) == pytest.approx(0.2, abs=0.02)
    # A stray action is right one time in ten.
    assert float((steps.reward.sum(0) >= 1).float().mean()) == pytest.approx(0.82**5, abs=0.03)
