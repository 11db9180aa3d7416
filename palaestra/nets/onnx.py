"""Greedy policies as ONNX graphs: encoded observations in, actions in the environment's units out."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from palaestra.core import files, spaces
from palaestra.core.errors import PalaestraError, Unsupported
from palaestra.core.policy import Policy


class Greedy(nn.Module):
    """What `Policy.predict` does between encoding and the environment, as tensors alone; inputs are `input_names`."""

    low: Tensor
    high: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, policy: Policy):
        super().__init__()
        self.policy = policy
        space: Any = policy.action_space
        self.kind = spaces.kind(space)
        self.shape = tuple(space.shape)
        box = getattr(policy, "box", None)
        bounds = {
            "low": space.low.reshape(-1) if self.kind == "box" else 0,
            "high": space.high.reshape(-1) if self.kind == "box" else 0,
            "scale": 1 if box is None else box.half,
            "shift": getattr(space, "start", 0) if box is None else box.center,
        }
        for name, value in bounds.items():
            self.register_buffer(name, torch.as_tensor(np.asarray(value)), persistent=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        obs, rest = _nest(self.policy.observation_space, list(inputs))
        assert not rest
        action = self.policy.act(obs, greedy=True).action
        if self.kind != "box":
            return action + self.shift
        scaled = torch.minimum(torch.maximum(action * self.scale + self.shift, self.low), self.high)
        return scaled.reshape(-1, *self.shape)


def export(policy: Policy, path: Path) -> Path:
    """Write the greedy policy to `path` as one ONNX file, with a free batch size.

    The input is `obs`, or one named input per part of a Dict or Tuple observation (`obs.<key>`, a tuple's keys being 0, 1, …), as
    `spaces.encode_obs` gives them; the output is `action`, `(B, *shape)`.

    Raises:
        PalaestraError: the onnx packages are missing, or the policy holds an operation that ONNX does not know.
        Unsupported: a policy with a memory.
    """
    if policy.initial_carry(1) is not None:
        raise Unsupported(f"{type(policy).__name__} has a memory; only policies without one are exported to ONNX")
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError:
        raise PalaestraError("exporting to ONNX needs more packages: pip install 'palaestra[onnx]'") from None
    names = input_names(policy.observation_space)
    example = tuple(_flat(spaces.zeros(policy.observation_space, 2)))
    batch = torch.export.Dim("batch", min=1)
    was_training = policy.training
    module = Greedy(policy).eval()
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                verbose=False,
                input_names=names,
                output_names=["action"],
                dynamic_shapes={"inputs": tuple({0: batch} for _ in example)},
            )
    except Exception as error:
        first = str(error).strip().splitlines() or [""]
        raise PalaestraError(f"{type(policy).__name__} cannot be exported to ONNX: {first[0]}") from error
    finally:
        policy.train(was_training)
    assert program is not None
    files.write_bytes(Path(path), onnx.ModelProto.SerializeToString(program.model_proto))
    return Path(path)


def input_names(space: Any) -> list[str]:
    """The names of the graph's inputs, in order."""
    return _names(space, "obs")


def inputs_for(policy: Policy, obs: Any) -> dict[str, np.ndarray]:
    """A batch of the environment's observations as the graph's inputs, by name."""
    encoded = spaces.encode_obs(policy.observation_space, obs)
    parts = [part.numpy() for part in _flat(encoded)]
    return dict(zip(input_names(policy.observation_space), parts, strict=True))


def _names(space: Any, prefix: str) -> list[str]:
    if spaces.kind(space) not in ("dict", "tuple"):
        return [prefix]
    return [name for key, sub in spaces.children(space).items() for name in _names(sub, f"{prefix}.{key}")]


def _flat(obs: Any) -> list[Tensor]:
    return [leaf for part in obs.values() for leaf in _flat(part)] if isinstance(obs, dict) else [obs]


def _nest(space: Any, parts: list[Tensor]) -> tuple[Any, list[Tensor]]:
    """The observation whose leaves are the first of `parts`, and the others."""
    if spaces.kind(space) not in ("dict", "tuple"):
        return parts[0], parts[1:]
    obs = {}
    for key, sub in spaces.children(space).items():
        obs[key], parts = _nest(sub, parts)
    return obs, parts


class _quiet(warnings.catch_warnings):
    """Without the exporter's remarks about itself."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)

    def __exit__(self, *raised: Any) -> None:
        logging.disable(logging.NOTSET)
        super().__exit__(*raised)
