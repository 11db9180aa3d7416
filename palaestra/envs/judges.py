"""Judges of trajectories: which of two is preferred, and how surely.

A judge is a function `(first, second) -> P` `(B,)` in [-1, 1] of two batches of whole trajectories `(H, B)`: 1 where the first is
preferred with certainty, -1 the second, and antisymmetric, so that 0 is a tie. P = 2 p - 1, p the probability that the first is
preferred. A trajectory is an `Experience` with `obs`, `action` (a box in [-1, 1]), `reward`, `next_obs` and `mask`, 0 after its
end. Its reward is the environment's own, which a judge may look at and a learner may not.

Sources: Swamy et al. 2024 (SPO), section 4, for the kinds; their parameters are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from palaestra.core.errors import BadEnvironment, Unsupported, require
from palaestra.core.experience import Experience
from palaestra.objectives.games import order_effect

Judge = Callable[[Experience, Experience], Tensor]
"""(first, second) trajectories `(H, B)` -> P `(B,)`."""
ROUNDING = 1e-6
"""Returns whose relative difference is less are equal: sums of equal rewards may differ in their last digits."""


@dataclass(frozen=True)
class MaxReturn:
    """Prefers more reward: P = sign(R - R'), or with a temperature 2 sigmoid((R - R') / temperature) - 1."""

    temperature: float = 0.0

    def __post_init__(self) -> None:
        require(self.temperature >= 0, f"the temperature of a judge must be >= 0, got {self.temperature}")

    def __call__(self, first: Experience, second: Experience) -> Tensor:
        return self.preference(*(masked_rewards(x).sum(0) for x in (first, second)))

    def preference(self, first: Tensor, second: Tensor) -> Tensor:
        """P of returns `(B,)`."""
        if self.temperature > 0:
            return torch.tanh((first - second) / (2 * self.temperature))
        return compared(first, second)


@dataclass(frozen=True)
class NonMarkovian:
    """Prefers more reward in the first three quarters among trajectories that earn at most `threshold` in the last; one that
    earns more there loses to one that does not, and ties with its like. No sum of rewards of single steps says that."""

    threshold: float
    preferred: MaxReturn = MaxReturn()

    def __call__(self, first: Experience, second: Experience) -> Tensor:
        (early, late), (other, later) = (quarters(x) for x in (first, second))
        obeys, does = late <= self.threshold, later <= self.threshold
        strict = obeys.to(early.dtype) - does.to(early.dtype)
        return torch.where(obeys & does, self.preferred.preference(early, other), strict)


@dataclass(frozen=True)
class Ring:
    """Trajectories that end in one of `sectors` directions from the origin each beat those that end in the next one,
    anticlockwise, and no others: no direction is best. The first two observed numbers are the position."""

    sectors: int = 8

    def __call__(self, first: Experience, second: Experience) -> Tensor:
        ahead = (
            sector(last_position(second), self.sectors) - sector(last_position(first), self.sectors)
        ) % self.sectors
        return (ahead == 1).float() - (ahead == self.sectors - 1).float()


@dataclass(frozen=True)
class Mixture:
    """The majority of `voters`, the k-th of whom wants to end as far as can be in the direction 2 pi k / voters.

    With three of them no place is best: each loses to another by two votes to one. The first two observed numbers are the
    position.
    """

    voters: int = 3

    def __call__(self, first: Experience, second: Experience) -> Tensor:
        angle = 2 * math.pi * torch.arange(self.voters) / self.voters
        wishes = torch.stack([angle.cos(), angle.sin()])
        return compared(last_position(first) @ wishes, last_position(second) @ wishes).sum(-1).sign()


@dataclass(frozen=True)
class Flipped:
    """A judge who errs: each answer is turned round with probability `flip`, so that P is (1 - 2 flip) times what it was."""

    judge: Judge
    flip: float

    def __post_init__(self) -> None:
        require(0 <= self.flip <= 1, f"flip must be in [0, 1], got {self.flip}")

    def __call__(self, first: Experience, second: Experience) -> Tensor:
        return (1 - 2 * self.flip) * self.judge(first, second)


def compared(first: Tensor, second: Tensor) -> Tensor:
    """sign(first - second), 0 within rounding."""
    apart = first - second
    return torch.where(apart.abs() <= ROUNDING * torch.maximum(first.abs(), second.abs()), 0.0, apart.sign())


def masked_rewards(trajectories: Experience) -> Tensor:
    """Rewards `(H, B)`, 0 after an end."""
    return trajectories.reward * trajectories.mask


def quarters(trajectories: Experience) -> tuple[Tensor, Tensor]:
    """What was earned in the first three quarters of the horizon, and in the last, `(B,)` each."""
    reward = masked_rewards(trajectories)
    late = len(reward) * 3 // 4
    return reward[:late].sum(0), reward[late:].sum(0)


def last_position(trajectories: Experience) -> Tensor:
    """Where each trajectory ended, `(B, 2)`.

    Raises:
        Unsupported: observations are no vectors that could begin with a position.
    """
    seen = trajectories.next_obs
    if not isinstance(seen, Tensor) or seen.dim() != 3 or seen.shape[-1] < 2:
        raise Unsupported(
            "this judge looks at positions, the first two numbers of a vector of observations; here are others"
        )
    last = trajectories.mask.sum(0).long() - 1
    return seen[last, torch.arange(seen.shape[1]), :2]


def sector(position: Tensor, sectors: int) -> Tensor:
    """Which of the sectors, counted anticlockwise from the first axis, each position `(B, 2)` lies in, `(B,)`."""
    turn = torch.atan2(position[:, 1], position[:, 0]) / (2 * math.pi) % 1
    return (turn * sectors).long().clamp(max=sectors - 1)


# Asking.


def preferences(judge: Judge, first: Experience, second: Experience) -> Tensor:
    """What a judge says `(B,)`, refused unless it is one number in [-1, 1] for each pair.

    Raises:
        BadEnvironment: it says something else.
    """
    said = torch.as_tensor(judge(first, second), dtype=torch.float32)
    count = first.mask.shape[1]
    name = getattr(judge, "__name__", type(judge).__name__)
    if said.shape != (count,):
        raise BadEnvironment(f"the judge {name} gave numbers of shape {tuple(said.shape)} for {count} pairs")
    if not bool((said.abs() <= 1).all()):  # NaN is not, either
        wrong = said[~(said.abs() <= 1)][0]
        raise BadEnvironment(f"the judge {name} gave {wrong:g}; preferences are from -1, the second, to 1, the first")
    return said


def require_antisymmetric(judge: Judge, first: Experience, second: Experience, tolerance: float = 1e-4) -> None:
    """Refuse a judge that depends on the order of a pair, on pairs `(H, B)`; one that draws its answers may, by chance.

    Raises:
        BadEnvironment: it depends on the order.
    """
    forth, again, back = (preferences(judge, *pair) for pair in ((first, second), (first, second), (second, first)))
    off = order_effect(forth, again, back, tolerance)
    if off is not None:
        name = getattr(judge, "__name__", type(judge).__name__)
        raise BadEnvironment(
            f"the judge {name} depends on the order: P(a, b) + P(b, a) is {off}, not 0; ask it in both orders and halve the "
            "difference"
        )
