"""Spaces: what goes in and comes out of a policy, as tensors and as JSON.

Gymnasium's spaces are the vocabulary. Observations become tensors: a float box stays a float tensor, an image stays uint8,
a discrete value becomes an index, and Dict and Tuple become dicts (a tuple's keys are "0", "1", …).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from palaestra.core.errors import BadCheckpoint, BadEnvironment, Unsupported

if TYPE_CHECKING:
    from gymnasium import Space


def kind(space: Space) -> str:
    """The space's type as palaestra names it: 'box', 'discrete', 'multi_discrete', 'multi_binary', 'text', 'dict' or 'tuple'."""
    from gymnasium import spaces

    table = {
        spaces.Box: "box",
        spaces.Discrete: "discrete",
        spaces.MultiDiscrete: "multi_discrete",
        spaces.MultiBinary: "multi_binary",
        spaces.Text: "text",
        spaces.Dict: "dict",
        spaces.Tuple: "tuple",
    }
    for cls, name in table.items():
        if isinstance(space, cls):
            return name
    raise Unsupported(
        f"{type(space).__name__} spaces are not supported; use Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple"
    )


def is_image(space: Space) -> bool:
    """Whether a space holds uint8 pixels, `(H, W, C)` or `(C, H, W)`."""
    return kind(space) == "box" and space.dtype == np.uint8 and len(space.shape) == 3


def children(space: Any) -> dict[str, Space]:
    """The named sub-spaces of a Dict or Tuple space."""
    if kind(space) == "dict":
        return dict(space.spaces)
    return {str(i): sub for i, sub in enumerate(space.spaces)}


def encode_obs(space: Space, obs: Any) -> Any:
    """Turn a batch of observations (numpy, first dimension the batch) into a tensor or a dict of tensors."""
    name = kind(space)
    if name in ("dict", "tuple"):
        parts = obs if isinstance(obs, dict) else {str(i): part for i, part in enumerate(obs)}
        return {key: encode_obs(sub, parts[key]) for key, sub in children(space).items()}
    if name == "box" and space.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(_whole(obs, space), dtype=np.uint8))
    if name == "discrete":
        return torch.from_numpy(_whole(obs, space).astype(np.int64) - int(space.start))  # type: ignore[attr-defined]
    if name == "multi_discrete":
        return torch.from_numpy(_whole(obs, space).astype(np.int64) - space.start)  # type: ignore[attr-defined]
    return torch.from_numpy(np.ascontiguousarray(obs, dtype=np.float32))


def _whole(obs: Any, space: Space) -> np.ndarray:
    """`obs` as an array of whole numbers; fractions and bytes out of range would be cut off silently."""
    array = np.asarray(obs)
    if array.dtype == np.uint8 or (space.dtype != np.uint8 and array.dtype.kind in "iub"):
        return array
    numeric = array.dtype.kind in "iubf"
    if (
        not numeric
        or (array != np.trunc(array)).any()
        or (space.dtype == np.uint8 and ((array < 0) | (array > 255)).any())
    ):
        raise BadEnvironment(f"an observation of type {array.dtype} does not fit {space}, whose type is {space.dtype}")
    return array


def stack_obs(space: Space, observations: list[Any]) -> Any:
    """Stack single observations into a batch of the same structure (dicts of arrays for Dict and Tuple).

    Always a copy: an environment may hand out the same array again with other contents.
    """
    if kind(space) in ("dict", "tuple"):
        keyed = [o if isinstance(o, dict) else {str(i): part for i, part in enumerate(o)} for o in observations]
        return {key: stack_obs(sub, [o[key] for o in keyed]) for key, sub in children(space).items()}
    return np.stack(observations) if len(observations) > 1 else np.array(observations[0])[None]


def check_obs(space: Space, obs: Any, source: str) -> None:
    """Raise `BadEnvironment` unless a *batch* of encoded observations has the space's shape and is finite."""
    if isinstance(obs, dict):
        for key, sub in children(space).items():
            check_obs(sub, obs[key], f"{source}['{key}']")
        return
    expected = tuple(space.shape or ())
    if tuple(obs.shape[1:]) != expected:
        raise BadEnvironment(f"{source} has shape {tuple(obs.shape[1:])}, but its space says {expected}")
    if obs.is_floating_point():
        if not bool(torch.isfinite(obs).all()):
            raise BadEnvironment(f"{source} is NaN or infinite; fix the environment or wrap it so that it is finite")
    elif obs.dtype == torch.int64:
        counts = torch.as_tensor(space.n if kind(space) == "discrete" else space.nvec)  # type: ignore[attr-defined]
        if bool(((obs < 0) | (obs >= counts)).any()):
            raise BadEnvironment(f"{source} is outside its space {space}")


def zeros(space: Space, batch: int) -> Any:
    """A batch of all-zero encoded observations, for tracing and for shapes."""
    if kind(space) in ("dict", "tuple"):
        return {key: zeros(sub, batch) for key, sub in children(space).items()}
    name = kind(space)
    shape = (batch, *(space.shape or ()))
    if name == "box" and space.dtype == np.uint8:
        return torch.zeros(shape, dtype=torch.uint8)
    return torch.zeros(shape, dtype=torch.int64 if "discrete" in name else torch.float32)


class ActionBox:
    """The affine map between a policy's actions in [-1, 1] and a bounded Box action space."""

    def __init__(self, space: Any):
        if kind(space) != "box":
            raise Unsupported(
                f"this method needs continuous actions (a bounded Box), but the action space is {space}; "
                "for discrete actions use dqn, ppo, a2c, reinforce, trpo or mdpo"
            )
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise Unsupported(
                f"the action space {space} is unbounded; rescale it to finite limits, "
                "for example with gymnasium.wrappers.RescaleAction"
            )
        self.low, self.high = space.low.reshape(-1), space.high.reshape(-1)
        self.center = ((self.high + self.low) / 2).astype(np.float32)
        self.half = ((self.high - self.low) / 2).astype(np.float32)
        self.shape = space.shape
        self.size = int(np.prod(space.shape))

    def to_env(self, action: Tensor) -> np.ndarray:
        """`(B, m)` in [-1, 1] to `(B, *shape)` in [low, high]."""
        scaled = action.cpu().numpy() * self.half + self.center
        return np.clip(scaled, self.low, self.high).reshape(-1, *self.shape)

    def from_env(self, action: np.ndarray) -> Tensor:
        """`(B, *shape)` in [low, high] to `(B, m)` in [-1, 1]."""
        flat = np.asarray(action, dtype=np.float32).reshape(-1, self.size)
        return torch.from_numpy((flat - self.center) / np.maximum(self.half, 1e-8))


def encode_action(space: Any, action: Any) -> Tensor:
    """A batch of an environment's actions in the units of policies: a box `(B, m)` in [-1, 1], indices from 0 `(B,)` or `(B, k)`.

    Raises:
        Unsupported: no policy acts in such a space.
    """
    if kind(space) == "box":
        return ActionBox(space).from_env(action)
    if kind(space) not in ("discrete", "multi_discrete"):
        raise Unsupported(f"no policy acts in the action space {space}; use Box, Discrete or MultiDiscrete")
    return torch.from_numpy((_whole(action, space).astype(np.int64) - space.start).reshape(-1, *space.shape))


def decode_action(space: Any, action: Tensor) -> np.ndarray:
    """What `encode_action` makes of the environment's actions, backwards."""
    if kind(space) == "box":
        return ActionBox(space).to_env(action).astype(space.dtype)
    return action.numpy() + space.start


def decode_obs(space: Any, obs: Any) -> Any:
    """A batch of encoded observations as the environment gave them, dicts of arrays for Dict and Tuple."""
    if kind(space) in ("dict", "tuple"):
        return {key: decode_obs(sub, obs[key]) for key, sub in children(space).items()}
    start = space.start if "discrete" in kind(space) else 0  # type: ignore[attr-defined]
    return (obs.numpy() + start).astype(space.dtype)


def to_json(space: Any) -> dict[str, Any]:
    """Describe a space in plain JSON."""
    name = kind(space)
    if name in ("dict", "tuple"):
        return {"kind": name, "spaces": {key: to_json(sub) for key, sub in children(space).items()}}
    if name == "box":
        return {
            "kind": name,
            "shape": list(space.shape),
            "dtype": str(space.dtype),
            "low": _bounds(space.low),
            "high": _bounds(space.high),
        }
    if name == "discrete":
        return {"kind": name, "n": int(space.n), "start": int(space.start)}
    if name == "multi_discrete":
        return {"kind": name, "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    return {"kind": name, "n": list(space.n) if np.ndim(space.n) else int(space.n)}


MOST_NUMBERS = 1 << 22
"""The largest space that a file may describe: 4 million numbers, an image of 1024 x 1024 in colour."""


def from_json(data: dict[str, Any]) -> Space:
    """Rebuild the space that `to_json` described; anything else is refused with `BadCheckpoint`."""
    try:
        return _from_json(data)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, OverflowError, RecursionError) as error:
        raise BadCheckpoint(f"the file describes no space ({type(error).__name__}: {error})") from None


def _from_json(data: dict[str, Any]) -> Space:
    from gymnasium import spaces

    name = data.get("kind")
    shape = data.get("shape", np.atleast_1d(data["n"]).tolist() if name == "multi_binary" else ())
    if math.prod(shape) > MOST_NUMBERS:
        raise BadCheckpoint(f"the file describes a space of more than {MOST_NUMBERS} numbers")
    if name == "dict":
        return spaces.Dict({key: _from_json(sub) for key, sub in data["spaces"].items()})
    if name == "tuple":
        return spaces.Tuple([_from_json(sub) for sub in data["spaces"].values()])
    if name == "box":
        shape = tuple(data["shape"])
        low, high = (np.broadcast_to(np.asarray(data[k], dtype=data["dtype"]), shape) for k in ("low", "high"))
        return spaces.Box(low, high, shape, np.dtype(data["dtype"]).type)
    if name == "discrete":
        return spaces.Discrete(data["n"], start=data["start"])
    if name == "multi_discrete":
        return spaces.MultiDiscrete(np.array(data["nvec"]), start=np.array(data["start"]))
    if name == "multi_binary":
        return spaces.MultiBinary(data["n"])
    raise BadCheckpoint(f"the file describes a space of unknown kind {name!r}")


def _bounds(limits: np.ndarray) -> Any:
    """Limits as one number where they are all equal (an image), else as nested lists."""
    uniform = limits.size > 0 and bool((limits == limits.flat[0]).all())
    return limits.flat[0].item() if uniform else limits.tolist()
