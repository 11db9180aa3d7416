"""Losses of preferences: cases by hand, torch's own, symmetry, and no labels at all."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from palaestra.objectives.preference import agreement, bradley_terry, excess_length, triplet, unit_length

ORIGIN = torch.zeros(2)
NEAR, FAR, MIDDLE = tensor([[1.0, 0.0]]), tensor([[0.0, 2.0]]), tensor([[1.5, 0.0]])
FIRST, SECOND, TIE = tensor([1.0]), tensor([0.0]), tensor([0.5])


def test_the_log_loss_of_a_gap_by_hand_and_as_torchs_cross_entropy():
    assert bradley_terry(tensor([0.0])).item() == pytest.approx(math.log(2))
    gap, label = tensor([3.0, -0.7, 50.0, -200.0]), tensor([1.0, 0.3, 0.0, 0.5])
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(gap, label, reduction="none")
    torch.testing.assert_close(bradley_terry(gap, label), theirs)


def test_the_triplet_by_hand():
    assert float(triplet(ORIGIN, NEAR, FAR, FIRST)) == pytest.approx(0.0, abs=1e-5)
    assert float(triplet(ORIGIN, NEAR, MIDDLE, FIRST)) == pytest.approx(0.5, abs=1e-5)
    assert float(triplet(ORIGIN, NEAR, MIDDLE, SECOND)) == pytest.approx(1.5, abs=1e-5)
    assert float(triplet(ORIGIN, NEAR, MIDDLE, TIE, ties=True)) == pytest.approx(0.25, abs=1e-5)


def test_the_gradient_on_the_anchor_is_the_difference_of_two_directions():
    anchor = torch.zeros(2, requires_grad=True)
    triplet(anchor, NEAR, MIDDLE, FIRST).backward()  # on one line, both directions are the same
    torch.testing.assert_close(anchor.grad, torch.zeros(2), atol=1e-5, rtol=0)
    anchor.grad = None
    triplet(anchor, NEAR, tensor([[0.0, 1.0]]), FIRST).backward()
    torch.testing.assert_close(anchor.grad, tensor([-1.0, 1.0]), atol=1e-5, rtol=0)


def test_it_is_torchs_where_all_labels_are_strict():
    g = torch.Generator().manual_seed(0)
    anchor, first, second = torch.randn(3, generator=g), torch.randn(9, 3, generator=g), torch.randn(9, 3, generator=g)
    label = (torch.rand(9, generator=g) < 0.5).float()
    chosen = label.bool().unsqueeze(1)
    torchs = torch.nn.TripletMarginLoss(margin=1.0)(
        anchor.expand(9, -1), torch.where(chosen, first, second), torch.where(chosen, second, first)
    )
    torch.testing.assert_close(triplet(anchor, first, second, label), torchs)


@pytest.mark.parametrize("ties", [False, True])
@settings(max_examples=50)
@given(seed=st.integers(0, 1000), labels=st.lists(st.sampled_from([0.0, 0.5, 1.0, 0.8]), min_size=1, max_size=6))
def test_swapping_pair_and_label_changes_nothing(ties, seed, labels):
    g = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, len(labels), 3, generator=g).unbind()
    anchor, label = torch.randn(3, generator=g), tensor(labels)
    torch.testing.assert_close(
        triplet(anchor, first, second, label, ties=ties), triplet(anchor, second, first, 1 - label, ties=ties)
    )
    torch.testing.assert_close(agreement(anchor, first, second, label), agreement(anchor, second, first, 1 - label))


@pytest.mark.parametrize("count", [0, 3])
def test_without_a_strict_label_there_is_no_loss_and_no_gradient(count):
    anchor, first = torch.ones(2, requires_grad=True), torch.randn(count, 2, requires_grad=True)
    loss = triplet(anchor, first, torch.randn(count, 2), torch.full((count,), 0.5))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not anchor.grad.any() and not first.grad.any()
    assert float(agreement(anchor, first, first, torch.full((count,), 0.5))) == 0.0


def test_embeddings_at_the_anchor_have_a_finite_gradient():
    anchor = torch.zeros(2, requires_grad=True)
    triplet(anchor, torch.zeros(1, 2), torch.zeros(1, 2), FIRST).backward()
    assert torch.isfinite(anchor.grad).all()


def test_among_embeddings_on_a_line_the_anchor_moves_until_all_labels_hold():
    g = torch.Generator().manual_seed(1)
    place = torch.rand(40, generator=g)
    z = torch.stack([place, 0.1 * torch.rand(40, generator=g)], 1)
    first, second = z[:20], z[20:]
    label = (place[:20] > place[20:]).float()
    anchor = tensor([-2.0, 0.0], requires_grad=True)
    assert float(agreement(anchor, first, second, label)) < 0.2
    optimiser = torch.optim.Adam([anchor], 0.1)
    for _ in range(200):
        optimiser.zero_grad()
        triplet(anchor, first, second, label).backward()
        optimiser.step()
    assert float(agreement(anchor, first, second, label)) == 1.0


def test_lengths():
    z = tensor([[3.0, 4.0], [0.0, 0.5]])
    assert float(unit_length(z)) == pytest.approx((16 + 0.25) / 2)
    assert float(excess_length(z)) == pytest.approx((4 + 0) / 2)
    still = torch.zeros(1, 2, requires_grad=True)
    unit_length(still).backward()
    assert torch.isfinite(still.grad).all()
