"""Our Adam against torch's, for gradients of any memory layout."""

from __future__ import annotations

import pytest
import torch

from palaestra.nets.adam import Adam, Jointly

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
LOSSES = {
    "contiguous": lambda w: (w * w * X.t()).sum(),
    "expanded": lambda w: w.sum(),
    "transposed": lambda w: (w.t() * X).sum(),
}


@pytest.mark.parametrize("layout", LOSSES)
@pytest.mark.parametrize("max_grad_norm", [None, 0.1])
def test_it_steps_as_torchs_adam_does(layout, max_grad_norm):
    ours, theirs = (torch.ones(3, 4, requires_grad=True) for _ in range(2))
    own = Adam([ours], 0.1, eps=1e-5, max_grad_norm=max_grad_norm)
    reference = torch.optim.Adam([theirs], 0.1, eps=1e-5)
    for _ in range(3):
        own.descend(lambda: (LOSSES[layout](ours), {}))
        reference.zero_grad()
        LOSSES[layout](theirs).backward()
        norm = None
        if max_grad_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_([theirs], max_grad_norm)
        reference.step()
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(own.norm, norm)


def test_a_step_gives_back_what_the_objective_found_before_it_without_its_graph():
    weight = torch.ones(2, requires_grad=True)

    def objective(factor):
        loss = factor * weight.sum()
        return loss, {"loss": loss, "weight": 3 * weight}

    found = Adam([weight], 0.5).descend(objective, torch.tensor(2.0))
    assert {name: value.tolist() for name, value in found.items()} == {"loss": 4.0, "weight": [3.0, 3.0]}
    assert not any(value.requires_grad for value in found.values())
    assert weight.tolist() == pytest.approx([0.5, 0.5])


def test_with_weight_decay_it_steps_as_torchs_adamw_does():
    ours, theirs = (torch.ones(3, requires_grad=True) for _ in range(2))
    own, reference = Adam([ours], 0.1, weight_decay=0.3), torch.optim.AdamW([theirs], 0.1, weight_decay=0.3)
    for _ in range(3):
        own.descend(lambda: (ours.square().sum(), {}))
        reference.zero_grad()
        theirs.square().sum().backward()
        reference.step()
        torch.testing.assert_close(ours, theirs)


def test_optimisers_on_one_loss_clip_and_step_each_for_itself():
    a, b, c, d = (torch.full((2,), 2.0, requires_grad=True) for _ in range(4))
    one, two = Adam([a], 0.1, max_grad_norm=0.5), Adam([b], 0.2)
    jointly = Jointly(one, two)
    for _ in range(2):
        found = jointly.descend(lambda: ((a * b).sum(), {"product": (a * b).sum()}))
    alone = Adam([c], 0.1, max_grad_norm=0.5), Adam([d], 0.2)
    for _ in range(2):
        held = c.detach().clone(), d.detach().clone()
        alone[0].descend(lambda held=held: ((c * held[1]).sum(), {}))
        alone[1].descend(lambda held=held: ((held[0] * d).sum(), {}))
    torch.testing.assert_close((a, b), (c, d))
    assert one.norm == pytest.approx(float(alone[0].norm)) and two.norm is None
    assert not found["product"].requires_grad
