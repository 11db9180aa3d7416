"""A table of probabilities is a policy like any other."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces

import palaestra as pal
from palaestra.core.errors import Unsupported
from palaestra.core.experience import Experience
from palaestra.nets.tabular import Tabular


@pytest.fixture
def table() -> Tabular:
    policy = Tabular(spaces.Discrete(3), spaces.Discrete(2, start=10))
    with torch.no_grad():
        policy.logits.copy_(torch.tensor([[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]]).log())
    return policy


def test_it_is_uniform_to_begin_with():
    policy = Tabular(spaces.Discrete(3), spaces.Discrete(4))
    scored = policy.score(Experience(obs=torch.tensor([0, 2]), action=torch.tensor([3, 1])))
    torch.testing.assert_close(scored.logp.exp(), torch.full((2,), 0.25))


def test_it_scores_by_the_rows_of_the_table(table):
    scored = table.score(Experience(obs=torch.tensor([0, 2, 2]), action=torch.tensor([1, 1, 0])))
    torch.testing.assert_close(scored.logp.exp(), torch.tensor([0.2, 0.9, 0.1]))
    assert scored.value is None


def test_it_acts_in_the_environments_units_and_within_masks(table):
    assert [int(table.predict(s)) for s in (0, 2)] == [10, 11]
    assert int(table.predict(0, action_mask=[0, 1])) == 11
    acted = table.act(torch.zeros(4000, dtype=torch.long), generator=torch.Generator().manual_seed(0))
    assert acted.action.float().mean().item() == pytest.approx(0.2, abs=0.02)


def test_a_mask_leaves_the_best_of_the_allowed_actions():
    policy = Tabular(spaces.Discrete(1), spaces.Discrete(3))
    with torch.no_grad():
        policy.logits.copy_(torch.tensor([[3.0, 1.0, 2.0]]))
    assert int(policy.predict(0, action_mask=[0, 1, 1])) == 2
    states, mask = torch.zeros(4000, dtype=torch.long), torch.tensor([[False, True, True]]).expand(4000, 3)
    acted = policy.act(states, generator=torch.Generator().manual_seed(0), action_mask=mask)
    assert acted.action.unique().tolist() == [1, 2]
    assert (acted.action == 2).float().mean().item() == pytest.approx(2.718 / 3.718, abs=0.03)


def test_it_is_saved_and_loaded(table, tmp_path):
    loaded = pal.load_policy(table.save(tmp_path / "table"))
    assert torch.equal(loaded.logits, table.logits)


def test_it_refuses_what_no_table_can_hold():
    with pytest.raises(Unsupported, match="a table needs Discrete observations"):
        Tabular(spaces.Box(0, 1, (2,)), spaces.Discrete(2))
    with pytest.raises(Unsupported, match="a table needs Discrete actions"):
        Tabular(spaces.Discrete(2), spaces.MultiDiscrete([2, 2]))
