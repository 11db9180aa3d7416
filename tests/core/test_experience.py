"""Experience: one batch of tensors, whatever its fields."""

from __future__ import annotations

import torch

from palaestra.core.experience import Experience, tree_leaves, tree_map


def batch(*lead: int) -> Experience:
    count = torch.Size(lead).numel()
    n = torch.arange(count).view(lead)
    return Experience(obs={"a": n.float().unsqueeze(-1), "b": {"c": n}}, reward=n.float(), mask=(n % 3 > 0).float())


def test_only_fields_that_are_present_are_items():
    assert [name for name, _ in batch(4).items()] == ["obs", "reward", "mask"]


def test_indexing_taking_and_slicing_agree_in_every_field():
    steps, index = batch(6), torch.tensor([4, 1, 1])
    for picked in (steps[index], steps.take(index)):
        assert picked.reward.tolist() == [4, 1, 1]
        assert picked.obs["b"]["c"].tolist() == [4, 1, 1]
    assert steps[2:4].obs["a"].tolist() == [[2], [3]]


def test_flattening_keeps_the_order_of_time_then_environment():
    flat = batch(3, 2).flatten()
    assert flat.reward.tolist() == [0, 1, 2, 3, 4, 5]
    assert flat.obs["a"].shape == (6, 1)


def test_chosen_drops_the_steps_the_policy_did_not_choose():
    assert batch(7).chosen().reward.tolist() == [1, 2, 4, 5]
    without = batch(7).replace(mask=None)
    assert without.chosen() is without


def test_replacing_a_field_leaves_the_original():
    steps = batch(2)
    assert steps.replace(reward=torch.ones(2)).reward.tolist() == [1, 1]
    assert steps.reward.tolist() == [0, 1]


def test_concatenation_splits_back():
    one, two = batch(3), batch(2)
    both = Experience.cat([one, two])
    assert len(both) == 5
    assert torch.equal(both[:3].obs["b"]["c"], one.obs["b"]["c"])
    assert torch.equal(both[3:].reward, two.reward)


def test_trees_keep_their_structure_and_none():
    tree = {"a": torch.ones(2), "b": {"c": torch.zeros(1), "d": None}}
    doubled = tree_map(lambda x, y: x + y, tree, tree)
    assert doubled["a"].tolist() == [2, 2]
    assert doubled["b"]["d"] is None
    assert len(tree_leaves(tree)) == 2
