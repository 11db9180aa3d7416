"""Several seeds of a method as one learner: every member learns what it would alone."""

from __future__ import annotations

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import Unsupported
from palaestra.core.method import Budget, Method, make_method
from palaestra.data.task import DatasetTask
from palaestra.methods.offline.stack import Stack

from ..datasets import random_dataset
from ..methods_table import TINY

DISCRETE = ("bc", "bve", "mce", "dqn-offline", "qr-dqn", "rem", "bcq", "cql-discrete", "crr")
UPDATES = 20


def members(method: Method, env: str = "CartPole-v1", seeds: int = 3) -> list:
    task = DatasetTask(random_dataset(env, 450))
    return [method.bind(task, seed, Budget(updates=100)) for seed in range(seeds)]


def close(first, second) -> None:
    """All tensors of two states are equal to rounding."""
    for name, value in first.items():
        if isinstance(value, dict):
            close(value, second[name])
        elif isinstance(value, list):
            close(dict(enumerate(value)), dict(enumerate(second[name])))
        elif isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, second[name], rtol=1e-4, atol=1e-6)
        else:
            assert value == second[name]


@pytest.mark.parametrize("name", DISCRETE)
def test_stacked_seeds_learn_what_each_learns_alone(name):
    _, settings, _ = TINY[name]
    method = make_method(name, settings | {"normalise_obs": True})
    alone, stacked = members(method), members(method)
    together = Stack(stacked)
    for _ in range(UPDATES):
        metrics = together.step()
    for single, member, found in zip(alone, stacked, metrics, strict=True):
        for _ in range(UPDATES):
            expected = single.step()
        assert found.keys() == expected.keys()
        close({"metrics": expected}, {"metrics": found})
        close(single.state_dict(), member.state_dict())


def test_cloning_in_a_box_can_be_stacked_too():
    method = pal.BC(network=(8,), batch_size=8)
    alone, stacked = members(method, "Pendulum-v1"), members(method, "Pendulum-v1")
    together = Stack(stacked)
    for _ in range(UPDATES):
        together.step(), alone[1].step()
    close(alone[1].state_dict(), stacked[1].state_dict())


def test_a_members_state_may_be_loaded_before_stacking_or_while_stacked():
    method = pal.CRR(network=(8,), batch_size=8, target_every=3)
    first, second = members(method), members(method)
    Stack(first).step()
    saved = [{k: v for k, v in member.state_dict().items()} for member in first]
    for member, state in zip(second[:2], saved, strict=False):
        member.load_state_dict(state)
    together = Stack(second)
    second[2].load_state_dict(saved[2])
    for a, b in zip(first, second, strict=True):
        close(a.state_dict(), b.state_dict())
    kept = Stack(members(method))
    for _ in range(4):
        metrics = together.step()
        kept.step()
    kept.step()
    for a, b in zip(kept.members, second, strict=True):
        close(a.state_dict(), b.state_dict())
    assert len(metrics) == 3


def test_a_method_that_is_not_written_for_it_is_refused():
    with pytest.raises(Unsupported, match="td3-bc is not written to train several seeds"):
        Stack(members(pal.TD3BC(network=(8,), batch_size=8), "Pendulum-v1", seeds=2))
