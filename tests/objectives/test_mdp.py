"""Exact values and occupancies of small processes."""

from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from palaestra.objectives.mdp import MDP

D = torch.float64


def random_mdp(seed: int, states: int = 4, actions: int = 3, gamma: float = 0.8) -> tuple[MDP, torch.Tensor]:
    """A process and a policy, every probability of both positive."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.rand(*shape, generator=g, dtype=D)  # noqa: E731
    simplex = lambda x: (x + 0.05) / (x + 0.05).sum(-1, keepdim=True)  # noqa: E731
    mdp = MDP(simplex(draw(states, actions, states)), draw(states, actions), simplex(draw(states)), gamma)
    return mdp, simplex(draw(states, actions))


def test_values_and_occupancy_of_two_states_worked_by_hand():
    # State 0: action 0 stays with reward 1, action 1 goes to state 1 for nothing, where every action stays for nothing.
    transition = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]], dtype=D)
    mdp = MDP(transition, torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=D), torch.tensor([1.0, 0.0], dtype=D), 0.5)
    policy = torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=D)
    # V(0) = (1 + V(0) / 2) / 2, so 2/3; Q(0, 0) = 1 + 1/3. State 0 is visited sum (1/2 1/2)^t / 2 = 2/3 of the time.
    torch.testing.assert_close(mdp.values(policy), torch.tensor([[4 / 3, 0.0], [0.0, 0.0]], dtype=D))
    torch.testing.assert_close(mdp.occupancy(policy), torch.tensor([[1 / 3, 1 / 3], [1 / 3, 0.0]], dtype=D))


@settings(max_examples=10)
@given(st.integers(0, 2**20), st.sampled_from([0.0, 0.5, 0.95]))
def test_the_start_values_are_the_rewards_of_the_occupancy(seed, gamma):
    mdp, policy = random_mdp(seed, gamma=gamma)
    occupancy = mdp.occupancy(policy)
    torch.testing.assert_close(occupancy.sum(), torch.tensor(1.0, dtype=D))
    started = mdp.start @ (policy * mdp.values(policy)).sum(-1)
    torch.testing.assert_close((occupancy * mdp.reward).sum() / (1 - gamma), started)
