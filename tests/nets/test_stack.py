"""Several networks as one: the same outputs and gradients, and one memory."""

from __future__ import annotations

import gymnasium
import pytest
import torch
from torch import nn

from palaestra.core.errors import Unsupported
from palaestra.nets.adam import Adam
from palaestra.nets.categorical_actor import CategoricalActor
from palaestra.nets.polyak import polyak, target_of
from palaestra.nets.q_network import QNetwork
from palaestra.nets.stack import stack, stack_adam

from ..environments import OBSERVATIONS

ACTIONS = gymnasium.spaces.Discrete(3)
VECTOR = OBSERVATIONS["vector"]


def networks(space=VECTOR, count: int = 3, **settings) -> list[QNetwork]:
    torch.manual_seed(0)
    return [QNetwork(space, ACTIONS, (8, 4), activation="selu", **settings) for _ in range(count)]


@pytest.mark.parametrize(
    "settings",
    [{}, {"dueling": True}, {"estimates": 5}, {"threshold": 0.3}, {"standardise": True}],
    ids=lambda s: "".join(s),
)
def test_a_stack_answers_each_members_rows_as_the_member_does(settings):
    members = networks(**settings)
    for member in members:
        member.encoder.fit(torch.randn(20, 3, generator=torch.Generator().manual_seed(1)))
    obs = torch.randn(3, 6, 3)
    joined = stack(members)
    for function in ("forward", "each", "preferences"):
        expected = torch.stack([getattr(member, function)(rows) for member, rows in zip(members, obs, strict=True)])
        torch.testing.assert_close(getattr(joined, function)(obs), expected)


def test_observations_may_be_numbers_or_have_parts():
    for space, obs in (
        (gymnasium.spaces.Discrete(5), torch.tensor([[0, 4], [1, 2]])),
        (OBSERVATIONS["dict"], {"pos.x": torch.randn(2, 4, 2), "items": torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])}),
    ):
        members = networks(space, count=2)
        out = stack(members)(obs)
        for i, member in enumerate(members):
            rows = {key: x[i] for key, x in obs.items()} if isinstance(obs, dict) else obs[i]
            torch.testing.assert_close(out[i], member(rows))


def test_members_and_stack_share_their_memory():
    members = networks()
    joined = stack(members)
    with torch.no_grad():
        joined.net.weights[0].add_(1.0)
        members[2].net.biases[1].fill_(7.0)
    for i, member in enumerate(members):
        assert torch.equal(member.net.weights[0], joined.net.weights[0][i])
    assert bool((joined.net.biases[1][2] == 7.0).all())
    members[1].load_state_dict(members[0].state_dict())
    assert torch.equal(joined.net.weights[1][1], joined.net.weights[1][0])


def test_a_stack_of_targets_has_no_gradient_and_follows():
    members = networks()
    targets = [target_of(member) for member in members]
    joined, target = stack(members), stack(targets)
    assert not any(p.requires_grad for p in target.parameters())
    with torch.no_grad():
        joined.net.weights[0].add_(1.0)
    polyak(target, joined, 1.0)
    assert torch.equal(targets[1].net.weights[0], members[1].net.weights[0])


def test_one_optimiser_of_the_stack_steps_every_member_as_its_own_would():
    alone, members = networks(), networks()
    obs = torch.randn(3, 6, 3)

    def loss(net: QNetwork, rows: torch.Tensor):
        return net(rows).square().mean((-2, -1)).sum(), {}

    own = [Adam(net.parameters(), 1e-2) for net in members]
    for optimiser, net, rows in zip(own, members, obs, strict=True):
        optimiser.descend(lambda r, n=net: loss(n, r), rows)  # moments from before are kept
    joined = stack(members)
    optimiser = stack_adam(own, list(joined.parameters()))
    for _ in range(4):
        optimiser.descend(lambda r: loss(joined, r), obs)
    for net, member, rows, kept in zip(alone, members, obs, own, strict=True):
        single = Adam(net.parameters(), 1e-2)
        for _ in range(5):
            single.descend(lambda r, n=net: loss(n, r), rows)
        for a, b in zip(net.parameters(), member.parameters(), strict=True):
            torch.testing.assert_close(a, b)
        for a, b in zip(single.first + single.second, kept.first + kept.second, strict=True):
            torch.testing.assert_close(a, b)
        assert float(kept.steps) == 5


def test_what_cannot_be_stacked_is_refused():
    with pytest.raises(Unsupported, match="Conv2d cannot be trained for several seeds"):
        stack(networks(gymnasium.spaces.Box(0, 255, (12, 12, 3), dtype="uint8")))
    users = [QNetwork(VECTOR, ACTIONS, lambda n, m: nn.Linear(n, m)) for _ in range(2)]
    with pytest.raises(Unsupported, match="Linear cannot be trained for several seeds"):
        stack(users)
    actors = [CategoricalActor(VECTOR, ACTIONS, (4,)) for _ in range(2)]
    clipped = [Adam(actor.parameters(), 1e-3, max_grad_norm=1.0) for actor in actors]
    with pytest.raises(Unsupported, match="clipped gradients"):
        stack_adam(clipped, list(stack(actors).parameters()))
