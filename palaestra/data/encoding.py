"""From the numbers of an environment to the columns of a dataset, each looked at on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from palaestra.core import spaces
from palaestra.core.errors import BadDataset, BadEnvironment
from palaestra.core.experience import Experience

ROUNDING = 1e-4
"""How far outside their limits, in half-widths, actions may be by rounding."""
LARGEST = float(np.finfo(np.float32).max)
"""What is larger is infinite in single precision."""


def encode(columns: Mapping[str, Any], observation_space: Any, action_space: Any, first: int = 0) -> Experience:
    """Columns in the units of an environment as those of a dataset; `first` is the number of their first row, for messages.

    Raises:
        BadDataset: a number is not finite, or outside its space, or of another shape.
    """
    try:
        return Experience(
            obs=_encoded_obs(observation_space, columns["obs"], "obs", first),
            action=_encoded_action(action_space, columns["action"], first),
            reward=_numbers(columns["reward"], "reward", first),
            next_obs=_encoded_obs(observation_space, columns["next_obs"], "next_obs", first),
            terminated=flags(columns["terminated"], "terminated", first),
            truncated=flags(columns["truncated"], "truncated", first),
        )
    except BadEnvironment as error:  # whole numbers that are none
        raise BadDataset(str(error)) from error


def _encoded_obs(space: Any, obs: Any, name: str, first: int) -> Any:
    if spaces.kind(space) in ("dict", "tuple"):
        parts = spaces.children(space)
        if not isinstance(obs, dict) or obs.keys() != parts.keys():
            has = f"parts {', '.join(obs)}" if isinstance(obs, dict) else "one part"
            raise BadDataset(f"{name} has {has}, but the observation space has {', '.join(parts)}")
        return {key: _encoded_obs(sub, obs[key], f"{name}['{key}']", first) for key, sub in parts.items()}
    if isinstance(obs, dict):
        raise BadDataset(f"{name} has parts {', '.join(obs)}, but the observation space is {space}")
    array = _shaped(obs, tuple(space.shape or ()), name)
    _check_finite(array, name, first)
    encoded = spaces.encode_obs(space, array)
    if not encoded.is_floating_point() and "discrete" in spaces.kind(space):
        _check_indices(encoded, space, name, first)
    return encoded


def _encoded_action(space: Any, action: Any, first: int) -> torch.Tensor:
    array = _shaped(action, tuple(space.shape or ()), "action")
    _check_finite(array, "action", first)
    encoded = spaces.encode_action(space, array)
    if not encoded.is_floating_point():
        _check_indices(encoded, space, "action", first)
        return encoded
    outside = (encoded.abs() > 1 + ROUNDING).any(1)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise BadDataset(
            f"{int(outside.sum())} actions are outside {space}, the first in row {first + row}: {array[row].tolist()}; a policy "
            "could not repeat them, so give the true limits, or clip them where they are logged"
        )
    return encoded.clamp_(-1, 1)


def _check_indices(encoded: torch.Tensor, space: Any, name: str, first: int) -> None:
    count = torch.as_tensor(space.n if spaces.kind(space) == "discrete" else space.nvec)
    outside = ((encoded < 0) | (encoded >= count)).reshape(len(encoded), -1).any(1)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise BadDataset(f"{name} in row {first + row} is outside its space {space}")


def _shaped(array: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind not in "iufb":
        raise BadDataset(f"{name} is of type {array.dtype}, which is no number")
    if array.shape[1:] == shape:
        return array
    if math.prod(array.shape[1:]) == math.prod(shape) and len(shape) <= 1:  # (N,) for (N, 1) and the other way round
        return array.reshape(-1, *shape)
    raise BadDataset(f"{name} has the shape {array.shape[1:]} per step, but its space says {shape}")


def _check_finite(array: np.ndarray, name: str, first: int) -> None:
    if array.dtype.kind != "f" or array.size == 0 or max(-array.min(), array.max()) <= LARGEST:  # which NaN is not
        return
    row = int(np.flatnonzero(~(np.abs(array) <= LARGEST).reshape(len(array), -1).all(1))[0])
    raise BadDataset(f"{name} in row {first + row} is NaN or infinite; leave that episode out, or mend the log")


def _numbers(array: Any, name: str, first: int) -> torch.Tensor:
    shaped = _shaped(array, (), name)
    with np.errstate(over="ignore"):
        single = shaped.astype(np.float32)
    _check_finite(single, name, first)
    return torch.from_numpy(single)


def flags(array: Any, name: str, first: int) -> torch.Tensor:
    """A column of zeros and ones, such as `terminated`.

    Raises:
        BadDataset: it holds something else.
    """
    column = _numbers(array, name, first)
    odd = (column != 0) & (column != 1)
    if bool(odd.any()):
        row = int(odd.nonzero()[0])
        raise BadDataset(f"{name} in row {first + row} is {float(column[row]):g}, but it can only be 0 or 1")
    return column
