"""Policy files from anywhere: refused in one typed line, quickly, without running anything or filling the memory."""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
import time
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from safetensors.torch import load_file, save_file

import palaestra as pal
from palaestra.core.errors import BadCheckpoint
from palaestra.nets.actor_critic import ActorCritic
from palaestra.nets.actors import DeterministicActor, SquashedGaussianActor

BOX = gym.spaces.Box(-1, 1, (3,))


def saved(cls=SquashedGaussianActor, **settings) -> Path:
    return cls(BOX, gym.spaces.Box(-2, 2, (1,)), **{"network": (8,), **settings}).save("policy")


def change(**fields) -> None:
    path = Path("policy/policy.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_settings(**settings) -> None:
    change(settings={**json.loads(Path("policy/policy.json").read_text())["settings"], **settings})


def change_tensors(edit) -> None:
    tensors = load_file("policy/policy.safetensors")
    edit(tensors)
    save_file(tensors, "policy/policy.safetensors")


def header(text: bytes, length: int | None = None) -> None:
    size = struct.pack("<Q", len(text) if length is None else length)
    Path("policy/policy.safetensors").write_bytes(size + text)


class Runs:
    def __reduce__(self):
        return os.system, ("touch executed",)


ATTACKS = {
    "random bytes as weights": lambda: Path("policy/policy.safetensors").write_bytes(os.urandom(5000)),
    "a pickle as weights": lambda: Path("policy/policy.safetensors").write_bytes(pickle.dumps(Runs())),
    "a pickle as description": lambda: Path("policy/policy.json").write_bytes(pickle.dumps(Runs())),
    "no weights": lambda: Path("policy/policy.safetensors").unlink(),
    "empty weights": lambda: Path("policy/policy.safetensors").write_bytes(b""),
    "weights cut short": lambda: os.truncate("policy/policy.safetensors", 300),
    "a header that claims 2^62 bytes": lambda: header(b"{}", 1 << 62),
    "a header of a terabyte tensor": lambda: header(
        json.dumps({"net.weights.0": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}).encode()
    ),
    "a header that is a nested bomb": lambda: header(b"[" * 100_000),
    "a pipe as weights": lambda: (Path("policy/policy.safetensors").unlink(), os.mkfifo("policy/policy.safetensors")),
    "a pipe as description": lambda: (Path("policy/policy.json").unlink(), os.mkfifo("policy/policy.json")),
    "weights of another type": lambda: change_tensors(lambda t: t.update({k: v.double() for k, v in t.items()})),
    "whole numbers as weights": lambda: change_tensors(lambda t: t.update({k: v.long() for k, v in t.items()})),
    "weights of another shape": lambda: change_tensors(lambda t: t.update({k: v.flatten() for k, v in t.items()})),
    "a missing weight": lambda: change_tensors(lambda t: t.pop(min(t))),
    "a weight too many": lambda: change_tensors(lambda t: t.update(more=torch.ones(2))),
    "NaN as weights": lambda: change_tensors(lambda t: t[min(t)].fill_(torch.nan)),
    "a JSON bomb": lambda: Path("policy/policy.json").write_text("[" * 1_000_000),
    "a number of a million digits": lambda: Path("policy/policy.json").write_text("1" * 1_000_000),
    "JSON that is a list": lambda: Path("policy/policy.json").write_text("[]"),
    "bytes that are no text": lambda: Path("policy/policy.json").write_bytes(b"\xff\xfe{"),
    "an entry that no policy has": lambda: change(run="me"),
    "no class": lambda: change(policy=None),
    "a class that is unknown": lambda: change(policy="worm"),
    "a class of the standard library": lambda: change(policy="os:system"),
    "no settings": lambda: change(settings=None),
    "an unknown setting": lambda: change_settings(colour="red"),
    "a network of a thousand billion weights": lambda: change_settings(network=[10**6, 10**6]),
    "a network of impossible size": lambda: change_settings(network=[10**18, 10**18]),
    "a network of text": lambda: change_settings(network="wide"),
    "a network of negative size": lambda: change_settings(network=[-5]),
    "an unknown activation": lambda: change_settings(activation="eval"),
    "a user's network": lambda: change_settings(network="custom"),
    "no space": lambda: change(observation_space=None),
    "a space of 10^18 numbers": lambda: change(
        observation_space={"kind": "box", "shape": [10**9, 10**9], "dtype": "float32", "low": 0, "high": 1}
    ),
    "a discrete space of 10^15 values": lambda: change(observation_space={"kind": "discrete", "n": 10**15, "start": 0}),
    "no actions": lambda: change(action_space={"kind": "tuple", "spaces": {}}),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("cls", [SquashedGaussianActor, ActorCritic, DeterministicActor])
def test_a_hostile_file_is_refused_quickly_and_cheaply(attack, cls):
    saved(cls)
    ATTACKS[attack]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    with pytest.raises(BadCheckpoint) as refused:
        pal.load_policy("policy")
    assert time.monotonic() - began < 20  # what these files ask for takes hours or all memory
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
    assert "policy" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not Path("executed").exists()


def test_a_folder_without_a_policy_is_named():
    with pytest.raises(BadCheckpoint, match=r"policy.json is missing"):
        pal.load_policy("nowhere")


def test_loading_leaves_the_global_generator_alone():
    saved()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    pal.load_policy("policy")
    assert torch.equal(torch.rand(2), expected)


def test_a_users_network_is_asked_for_and_serves():
    def network(inputs: int, outputs: int) -> torch.nn.Module:
        return torch.nn.Linear(inputs, outputs)

    policy = SquashedGaussianActor(BOX, gym.spaces.Box(-2, 2, (1,)), network)
    policy.save("policy")
    with pytest.raises(BadCheckpoint, match="with your own network; pass it"):
        pal.load_policy("policy")
    obs = BOX.sample()
    assert pal.load_policy("policy", network=network).predict(obs) == policy.predict(obs)
