"""Enumerable Markov decision processes, solved exactly: the oracle of exactness tests and what theory is written in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class MDP(NamedTuple):
    """`S` states and `A` actions; policies are tables `(S, A)` of probabilities."""

    transition: Tensor  # (S, A, S) probability of each next state
    reward: Tensor  # (S, A) expected
    start: Tensor  # (S,) probability of each first state
    gamma: float

    def values(self, policy: Tensor) -> Tensor:
        """Q^pi, `(S, A)`, the solution of the Bellman equations."""
        size = self.reward.numel()
        onward = (self.transition.unsqueeze(-1) * policy).reshape(size, size)  # (s, a) -> (s', a')
        system = torch.eye(size, dtype=onward.dtype) - self.gamma * onward
        return torch.linalg.solve(system, self.reward.flatten()).view_as(self.reward)

    def occupancy(self, policy: Tensor) -> Tensor:
        """d^pi, `(S, A)`: the discounted share of time in every pair, (1 - gamma) sum_t gamma^t P(s_t, a_t)."""
        between = torch.einsum("sa,sat->st", policy, self.transition)
        system = torch.eye(len(between), dtype=between.dtype) - self.gamma * between.T
        return (1 - self.gamma) * torch.linalg.solve(system, self.start).unsqueeze(-1) * policy
