"""A policy's memory begins anew with every episode, in training as in evaluation."""

from __future__ import annotations

import functools

import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from palaestra.core.method import Counters
from palaestra.core.policy import Acted
from palaestra.core.seeding import Streams
from palaestra.envs.rollout import Rollout
from palaestra.envs.task import EnvTask
from palaestra.envs.vector import EnvVector
from palaestra.nets.actors import SquashedGaussianActor

from ..environments import Counting

LENGTHS = [(3, 4, 2), (1, 2, 5), (6, 6, 6)]


class Remembers(SquashedGaussianActor):
    """Draws a label for every episode and counts its steps; the second observation of `Counting` is that count."""

    def __init__(self):
        super().__init__(Counting.observation_space, Counting.action_space, (4,))
        self.seen: list[tuple[float, float]] = []  # label and step wherever an action was taken

    def initial_carry(self, batch, generator=None):
        return {"label": torch.rand(batch, generator=generator), "steps": torch.zeros(batch, 1)}

    def act(self, obs, carry=None, **options) -> Acted:
        assert torch.equal(obs[:, 1], carry["steps"].squeeze(1)), "the memory is not of this episode"
        self.seen += zip(carry["label"].tolist(), obs[:, 1].tolist(), strict=True)
        action = super().act(obs, **options).action
        return Acted(action, None, {"label": carry["label"], "steps": carry["steps"] + 1})

    @property
    def first(self) -> list[float]:
        """The label at the first step of every episode."""
        return [label for label, step in self.seen if step == 0]


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_while_collecting(mode):
    makes = [functools.partial(Counting, lengths) for lengths in LENGTHS]
    streams, policy = Streams(0), Remembers()
    envs = EnvVector(SyncVectorEnv(makes, autoreset_mode=mode), streams, "test")
    Rollout(envs, streams, Counters()).collect(policy, 20)
    assert len(policy.first) > 9
    assert len(set(policy.first)) == len(policy.first)
    assert {label for label, _ in policy.seen} == set(policy.first), "a label is kept through its episode"


def test_in_evaluation_as_a_function_of_the_seed():
    labels = []
    for seed in (1, 1, 2):
        policy = Remembers()
        EnvTask(functools.partial(Counting, (3, 4, 2))).evaluate(policy, 13, seed)
        labels.append(policy.first)
        assert len(set(policy.first)) == len(policy.first) >= 13
    assert labels[0] == labels[1] != labels[2]


class Told(Remembers):
    """Adds up what it earned; by `Counting`'s rewards that is 100 e n + n (n + 1) / 2 at step n of episode e."""

    def initial_carry(self, batch, generator=None):
        return {**super().initial_carry(batch, generator), "earned": torch.zeros(batch)}

    def act(self, obs, carry=None, **options) -> Acted:
        episode, step = obs.unbind(1)
        assert torch.equal(carry["earned"], 100 * episode * step + step * (step + 1) / 2)
        acted = super().act(obs, carry, **options)
        return acted._replace(carry={**acted.carry, "earned": carry["earned"]})

    def rewarded(self, carry, reward):
        return {**carry, "earned": carry["earned"] + reward}


def test_it_is_told_what_every_action_earned():
    makes = [functools.partial(Counting, lengths) for lengths in LENGTHS]
    envs = EnvVector(SyncVectorEnv(makes, autoreset_mode=AutoresetMode.SAME_STEP), Streams(0), "test")
    Rollout(envs, Streams(0), Counters()).collect(Told(), 20)
    EnvTask(functools.partial(Counting, (3, 4, 2))).evaluate(Told(), 13, 0)


def test_a_player_remembers_its_episode():
    policy, env = Told(), Counting((3, 4, 2))
    obs, _ = env.reset(seed=0)
    play, reward = policy.player(), None
    for _ in range(3):
        action = play(obs, reward)
        assert env.action_space.contains(action)
        obs, reward, *_ = env.step(action)
    assert [step for _, step in policy.seen] == [0, 1, 2]
    assert len({label for label, _ in policy.seen}) == 1
