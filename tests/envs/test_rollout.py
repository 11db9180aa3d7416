"""The rollout source counts real steps and episodes, and says what was returned."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from palaestra.core.method import Counters
from palaestra.core.seeding import Streams
from palaestra.envs.rollout import Rollout
from palaestra.envs.vector import EnvList, EnvVector
from palaestra.nets.actors import SquashedGaussianActor

from ..environments import Counting

LENGTHS = [(3, 4, 2), (1, 2, 5), (6, 6, 6)]


def rollout(mode: AutoresetMode | None = None) -> Rollout:
    makes = [functools.partial(Counting, lengths) for lengths in LENGTHS]
    streams = Streams(0)
    if mode is None:
        each = iter(makes)
        envs = EnvList(lambda: next(each)(), 3, streams, "test")
    else:
        envs = EnvVector(SyncVectorEnv(makes, autoreset_mode=mode), streams, "test")
    return Rollout(envs, streams, Counters())


def policy() -> SquashedGaussianActor:
    return SquashedGaussianActor(Counting.observation_space, Counting.action_space, (4,))


@pytest.mark.parametrize("mode", [*AutoresetMode])
def test_steps_episodes_and_returns_count_real_steps_only(mode):
    source = rollout(mode)
    batch = source.collect(policy(), 12)
    assert source.counters.steps == int(batch.mask.sum())
    ends = ((batch.terminated + batch.truncated) * batch.mask).sum()
    assert source.counters.episodes == int(ends)
    # Episode e of length n returns 100 e n + n (n + 1) / 2: the first one of each environment gives 6, 1 and 21.
    assert {6.0, 1.0, 21.0} <= set(source.recent)
    assert 100.0 * 1 * 2 + 3 in source.recent, "episode 1 of the second environment"
    assert float(source.metrics["rollout/return"]) == pytest.approx(sum(source.recent) / len(source.recent))
    assert set(source.recent_lengths) >= {3, 1, 6, 2}


@pytest.mark.parametrize("mode", [None, *AutoresetMode])
def test_the_chosen_steps_link_up_within_each_episode(mode):
    batch = rollout(mode).collect(policy(), 20)
    for i in range(3):
        row = batch[:, i].chosen()
        ended = (row.terminated + row.truncated) > 0
        assert torch.equal(row.next_obs[:-1][~ended[:-1]], row.obs[1:][~ended[:-1]])
        assert bool((row.obs[1:][ended[:-1]][:, 1] == 0).all()), "after an end comes the start of an episode"
        assert not bool(((row.terminated + row.truncated) > 1).any())


def test_the_same_call_gives_the_same_actions_whatever_was_called_between():
    one, two = rollout(), rollout()
    actor = policy()
    one.collect(actor, 5)
    first = one.collect(actor, 5)
    two.collect(actor, 5)
    two.streams.generator("something else", 3)
    torch.rand(7)
    assert torch.equal(first.action, two.collect(actor, 5).action)


def test_it_resumes_in_the_middle_of_its_episodes():
    one, two = rollout(), rollout()
    actor = policy()
    one.collect(actor, 10)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    a, b = one.collect(actor, 10), two.collect(actor, 10)
    for (name, x), (_, y) in zip(a.items(), b.items(), strict=True):
        assert torch.equal(x, y), name
    assert one.recent == two.recent
    assert (one.running_return == two.running_return).all()


@pytest.mark.parametrize("mode", [*AutoresetMode])
def test_at_a_boundary_of_a_vector_no_return_is_carried_over(mode):
    source = rollout(mode)
    source.collect(policy(), 2)
    source.at_boundary()
    assert float(source.running_return.sum()) == 0
    source.collect(policy(), 3)
    assert source.recent[-1] in (6.0, 203.0), "a whole episode's return"


def test_random_collection_fills_the_action_box_evenly():
    actions = rollout().collect(policy(), 400, random=True).action
    assert float(actions.min()) < -0.98
    assert float(actions.max()) > 0.98
    assert abs(float(actions.mean())) < 0.1
