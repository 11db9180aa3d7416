"""An exported policy acts as the policy does."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from palaestra.core import spaces
from palaestra.core.errors import PalaestraError
from palaestra.nets.actor_critic import ActorCritic
from palaestra.nets.actors import DeterministicActor, SquashedGaussianActor
from palaestra.nets.categorical_actor import CategoricalActor
from palaestra.nets.onnx import inputs_for
from palaestra.nets.q_network import QNetwork

from ..environments import ACTIONS, OBSERVATIONS

CASES = [
    (SquashedGaussianActor, {}, "vector", "box"),
    (SquashedGaussianActor, {"log_std_bounds": (-5, 2), "activation": "gelu"}, "dict", "box"),
    (DeterministicActor, {"activation": "silu"}, "vector", "box"),
    (DeterministicActor, {}, "image", "box"),
    (ActorCritic, {"normalise": True}, "vector", "box"),
    (ActorCritic, {}, "tuple", "discrete"),
    (ActorCritic, {}, "discrete", "multi_discrete"),
    (ActorCritic, {}, "multi_binary", "discrete"),
    (QNetwork, {"dueling": True}, "vector", "discrete"),
    (QNetwork, {}, "multi_discrete", "discrete"),
    (QNetwork, {}, "scalar", "discrete"),
    (CategoricalActor, {"standardise": True}, "vector", "discrete"),
]


@pytest.mark.parametrize(("cls", "settings", "observations", "actions"), CASES)
def test_the_graph_acts_as_the_policy_at_any_batch_size(cls, settings, observations, actions):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    space = OBSERVATIONS[observations]
    policy = cls(space, ACTIONS[actions], network=(16, 16), **settings)
    if settings.get("normalise"):
        policy.norm.update(torch.randn(50, 3) * 3 + 1)
    path = policy.export_onnx("policy.onnx")
    assert [p.name for p in Path().iterdir()] == ["policy.onnx"], "one file, weights included"
    session = runtime.InferenceSession(path)
    space.seed(1)
    for count in (1, 2, 7):
        rows = spaces.stack_obs(space, [space.sample() for _ in range(count)])
        (out,) = session.run(["action"], inputs_for(policy, rows))
        expected = policy.predict(rows) if not isinstance(rows, dict) else _predict(policy, rows)
        np.testing.assert_allclose(out, expected, atol=1e-5)
        assert all(ACTIONS[actions].contains(row.astype(ACTIONS[actions].dtype)) for row in out)


def _predict(policy, rows):
    with torch.no_grad():
        return policy.env_action(policy.act(spaces.encode_obs(policy.observation_space, rows), greedy=True).action)


def test_the_policy_can_still_learn_after_the_export():
    pytest.importorskip("onnxscript")
    policy = SquashedGaussianActor(OBSERVATIONS["vector"], ACTIONS["box"], (8,)).train()
    policy.export_onnx("policy.onnx")
    assert policy.training
    policy.act(torch.randn(2, 3), greedy=True).action.sum().backward()
    assert next(policy.net.parameters()).grad is not None


def test_without_onnx_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    policy = SquashedGaussianActor(gym.spaces.Box(-1, 1, (2,)), ACTIONS["box"], (4,))
    with pytest.raises(PalaestraError, match=r"pip install 'palaestra\[onnx\]'"):
        policy.export_onnx("policy.onnx")
