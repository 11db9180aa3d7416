"""Experience: one batch of tensors, whatever the family.

A torque controller's transition and a language model's token are both a *step*; an episode and a completion are both a
*segment*; the answers to one prompt, a preference pair and a ranked list are *groups*. Fields are tensors (or nested dicts
of tensors, for structured observations) that share their leading dimensions: `(B,)` for a minibatch, `(T, N)` for `T` steps
of `N` environments. A field that does not apply is `None`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def tree_map(fn: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply `fn` to every leaf of `tree` (with the matching leaves of `others`); `None` stays `None`."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {key: tree_map(fn, value, *(other[key] for other in others)) for key, value in tree.items()}
    return fn(tree, *others)


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves of `tree`, in the order of its keys."""
    if tree is None:
        return []
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in tree_leaves(value)]
    return [tree]


@dataclass
class Experience:
    """A batch of steps. Shapes are given for leading dimensions `B`; any number of leading dimensions will do."""

    obs: Any = None  # (B, …) observation the action was chosen from
    action: Any = None  # (B, m) or (B,) action in the policy's own units
    reward: Tensor = None  # type: ignore[assignment]  # (B,) or (B, k) for vector rewards
    next_obs: Any = None  # (B, …) the true next observation, also at the end of an episode
    next_action: Any = None  # (B, m) or (B,) the action that was taken at `next_obs`, where it is known
    terminated: Tensor = None  # type: ignore[assignment]  # (B,) 1 where the task itself ended: do not bootstrap
    truncated: Tensor = None  # type: ignore[assignment]  # (B,) 1 where the clock ended it: bootstrap
    logp: Tensor = None  # type: ignore[assignment]  # (B,) log-probability under the policy that acted
    ref_logp: Tensor = None  # type: ignore[assignment]  # (B,) log-probability under a reference policy
    value: Tensor = None  # type: ignore[assignment]  # (B,) value estimate at `obs`
    mask: Tensor = None  # type: ignore[assignment]  # (B,) 1 where the policy chose the action and may learn from it
    segment: Tensor = None  # type: ignore[assignment]  # (B,) which episode or completion the step belongs to
    group: Tensor = None  # type: ignore[assignment]  # (B,) which group the segment belongs to
    source: Tensor = None  # type: ignore[assignment]  # (B,) who gave the segment: 0 for the policy that learns, else 1
    row: Tensor = None  # type: ignore[assignment]  # (B,) which row of its dataset the step is
    time: Tensor = None  # type: ignore[assignment]  # (B,) which step of its episode it is, from 0
    action_mask: Any = None  # (B, n) 1 where an action was allowed
    next_action_mask: Any = None  # (B, n) the same at `next_obs`
    advantage: Tensor = None  # type: ignore[assignment]  # (B,)
    target: Tensor = None  # type: ignore[assignment]  # (B,) regression target of the value
    weight: Tensor = None  # type: ignore[assignment]  # (B,) importance or sampling weight

    def items(self) -> list[tuple[str, Any]]:
        """The fields that are present, as (name, value)."""
        return [(name, getattr(self, name)) for name in FIELDS if getattr(self, name) is not None]

    def map(self, fn: Callable[[Tensor], Tensor]) -> Experience:
        """Apply `fn` to every tensor."""
        return Experience(**{name: tree_map(fn, value) for name, value in self.items()})

    def replace(self, **fields: Any) -> Experience:
        """A copy with some fields set."""
        return dataclasses.replace(self, **fields)

    def __getitem__(self, index: Any) -> Experience:
        return self.map(lambda x: x[index])

    def take(self, index: Tensor) -> Experience:
        """Rows `index` along the first dimension (faster than `self[index]`)."""
        return self.map(lambda x: x.index_select(0, index))

    def only(self, *names: str) -> Experience:
        """Just these fields, where they are present."""
        return Experience(**{name: getattr(self, name) for name in names})

    def split(self, size: int) -> list[Experience]:
        """Consecutive pieces of `size` rows; the last one may be shorter."""
        pieces = {name: _split(value, size) for name, value in self.items()}
        return [Experience(**dict(zip(pieces, row, strict=True))) for row in zip(*pieces.values(), strict=True)]

    def flatten(self) -> Experience:
        """Merge the two leading dimensions `(T, N, …)` into one `(T*N, …)`."""
        return self.map(lambda x: x.flatten(0, 1))

    def chosen(self) -> Experience:
        """Only the steps that the policy chose (`mask` = 1); all of them where there is no mask."""
        if self.mask is None or bool(self.mask.all()):
            return self
        return self[self.mask.bool()]

    def to(self, device: torch.device | str) -> Experience:
        return self.map(lambda x: x.to(device))

    def __len__(self) -> int:
        return len(tree_leaves(self.items()[0][1])[0])

    @staticmethod
    def cat(batches: list[Experience], dim: int = 0) -> Experience:
        """Concatenate batches that hold the same fields."""
        first, *rest = batches
        joined = {
            name: tree_map(lambda *xs: torch.cat(xs, dim), value, *(getattr(b, name) for b in rest))
            for name, value in first.items()
        }
        return Experience(**joined)


FIELDS = tuple(field.name for field in dataclasses.fields(Experience))


def _split(value: Any, size: int) -> list[Any]:
    if isinstance(value, dict):
        parts = {key: _split(item, size) for key, item in value.items()}
        return [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]
    return list(value.split(size))
