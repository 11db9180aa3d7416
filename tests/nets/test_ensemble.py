"""An ensemble is one policy: a member acts through a whole episode, drawn by weight, and it saves and loads as a whole."""

from __future__ import annotations

import functools

import gymnasium
import numpy as np
import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadCheckpoint, BadSetting, Unsupported
from palaestra.envs.task import EnvTask
from palaestra.nets.actor_critic import ActorCritic
from palaestra.nets.actors import SquashedGaussianActor
from palaestra.nets.ensemble import Ensemble

from ..environments import OBSERVATIONS, Counting

OBS, ACTIONS = gymnasium.spaces.Box(-1, 1, (3,)), gymnasium.spaces.Box(-2, 2, (1,))


def ensemble(weights: tuple[float, ...] = (0.7, 0.1, 0.2), obs=OBS, actions=ACTIONS) -> Ensemble:
    """Members whose greedy actions are tanh(0), tanh(1), tanh(2), …"""
    members = []
    for i in range(len(weights)):
        member = SquashedGaussianActor(obs, actions, (4,))
        for parameter in member.parameters():
            parameter.data.zero_()
        member.net.biases[-1].data[: member.box.size] = float(i)
        members.append(member)
    return Ensemble.of(members, torch.tensor(weights, dtype=torch.float64))


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_members_are_drawn_as_often_as_they_weigh():
    drawn = ensemble().initial_carry(20_000, noise())
    share = torch.bincount(drawn, minlength=3) / 20_000
    assert share.tolist() == pytest.approx([0.7, 0.1, 0.2], abs=0.01)


def test_each_row_is_acted_on_by_its_member_and_the_memory_stays():
    policy, who = ensemble(), torch.tensor([2, 0, 2, 1])
    acted = policy.act(torch.randn(4, 3), who, greedy=True)
    assert acted.action.squeeze(1).tolist() == pytest.approx(np.tanh([2.0, 0.0, 2.0, 1.0]).tolist())
    assert torch.equal(acted.carry, who)


def test_structured_observations_are_split_among_members():
    policy = ensemble(obs=OBSERVATIONS["dict"])
    obs = {"pos.x": torch.randn(3, 2), "items": torch.tensor([0, 2, 1])}
    acted = policy.act(obs, torch.tensor([1, 1, 0]), greedy=True)
    assert acted.action.squeeze(1).tolist() == pytest.approx(np.tanh([1.0, 1.0, 0.0]).tolist())


def test_without_a_memory_the_last_member_acts():
    assert ensemble().predict(np.zeros(3, np.float32)).tolist() == pytest.approx([2 * np.tanh(2.0)])


def test_in_evaluation_every_episode_is_one_members_and_the_seed_decides_whose():
    task = EnvTask(functools.partial(Counting, (5, 5)))
    policy = ensemble((0.5, 0.5), Counting.observation_space, Counting.action_space)
    seen: list[tuple[int, float, float]] = []
    act = policy.act

    def watched(obs, carry=None, **options):
        acted = act(obs, carry, **options)
        seen.extend((int(c), float(a), float(o)) for c, a, o in zip(carry, acted.action[:, 0], obs[:, 1], strict=True))
        return acted

    policy.act = watched
    task.evaluate(policy, 20, seed=3)
    first, again = list(seen), seen.clear()
    task.evaluate(policy, 20, seed=3)
    assert seen == first and again is None
    per_step = [[who for who, _, step in first if step == k] for k in range(5)]
    assert all(members == per_step[0] for members in per_step), "nobody takes over within an episode"
    assert 0 < sum(per_step[0]) < len(per_step[0])


def test_saved_and_loaded_it_is_the_same():
    policy = ensemble()
    policy.save("ensemble")
    loaded = pal.load_policy("ensemble")
    assert isinstance(loaded, Ensemble)
    torch.testing.assert_close(loaded.weights, policy.weights)
    obs, who = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    assert torch.equal(loaded.act(obs, who, greedy=True).action, policy.act(obs, who, greedy=True).action)
    assert torch.equal(loaded.act(obs, who, generator=noise(1)).action, policy.act(obs, who, generator=noise(1)).action)


@pytest.mark.parametrize("actions", [ACTIONS, gymnasium.spaces.Discrete(4)], ids=["box", "discrete"])
def test_actor_critics_may_be_members_too(actions):
    members = [ActorCritic(OBS, actions, (4,)) for _ in range(3)]
    policy = Ensemble.of(members, torch.ones(3, dtype=torch.float64))
    policy.save("ensemble")
    loaded, obs, who = pal.load_policy("ensemble"), torch.randn(4, 3), torch.tensor([2, 0, 2, 1])
    acted = loaded.act(obs, who, greedy=True).action
    for row, member in enumerate(who.tolist()):
        torch.testing.assert_close(acted[row], members[member].act(obs[row : row + 1], greedy=True).action[0])


def test_what_is_allowed_holds_for_each_member():
    policy = Ensemble.of(
        [ActorCritic(OBS, gymnasium.spaces.Discrete(4), (4,)) for _ in range(2)], torch.ones(2).double()
    )
    mask = torch.eye(4, dtype=torch.bool)
    assert policy.act(torch.randn(4, 3), torch.tensor([1, 0, 0, 1]), action_mask=mask).action.tolist() == [0, 1, 2, 3]


def test_members_of_another_kind_are_refused():
    with pytest.raises(BadSetting, match="squashed-gaussian or actor-critic, got 'ensemble'"):
        Ensemble(OBS, ACTIONS, kind="ensemble")


def test_making_one_draws_no_random_numbers():
    state = torch.random.get_rng_state()
    members = list(ensemble().actors)
    torch.random.set_rng_state(state)
    Ensemble.of(members, torch.ones(3))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_it_has_members_and_not_without_end():
    for members in (0, 10**9):
        with pytest.raises(BadSetting, match="members"):
            Ensemble(OBS, ACTIONS, members=members)


def test_a_file_that_promises_more_members_than_it_holds_is_refused():
    folder = ensemble().save("ensemble")
    description = (folder / "policy.json").read_text()
    (folder / "policy.json").write_text(description.replace('"members": 3', '"members": 4'))
    with pytest.raises(BadCheckpoint):
        pal.load_policy(folder)


def test_its_memory_keeps_it_from_onnx():
    with pytest.raises(Unsupported, match="memory"):
        ensemble().export_onnx("policy.onnx")
