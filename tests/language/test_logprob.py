"""Log-probabilities of tokens without a table of logits: the same values and gradients as with one."""

from __future__ import annotations

import math

import pytest
import torch

from palaestra.language import logprob
from palaestra.language.logprob import token_logp


def test_by_hand():
    """Logits (0, ln 3): probabilities 1/4 and 3/4."""
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[0.0], [math.log(3)]])
    logp, entropy = token_logp(hidden, weight, None, torch.tensor([1]))
    assert logp.item() == pytest.approx(math.log(0.75))
    assert entropy.item() == pytest.approx(0.25 * math.log(4) + 0.75 * math.log(4 / 3))


def test_temperature_divides_the_logits():
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[0.0], [math.log(9)]])
    logp, _ = token_logp(hidden, weight, None, torch.tensor([1]), temperature=2.0)
    assert logp.item() == pytest.approx(math.log(0.75))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_in_parts_values_and_gradients_are_the_same(biased, temperature, monkeypatch):
    g = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(11, 4, generator=g), torch.randn(7, 4, generator=g)
    bias = torch.randn(7, generator=g) if biased else None
    token = torch.randint(0, 7, (11,), generator=g)
    up_logp, up_entropy = torch.randn(11, generator=g), torch.randn(11, generator=g)

    def run():
        inputs = [x.clone().requires_grad_() for x in (hidden, weight, bias) if x is not None]
        logp, entropy = token_logp(inputs[0], inputs[1], inputs[2] if biased else None, token, temperature)
        gradients = torch.autograd.grad((up_logp * logp + up_entropy * entropy).sum(), inputs)
        return [logp, entropy, *gradients]

    whole = run()
    monkeypatch.setattr(logprob, "WHOLE", 7 * 3)  # three rows at a time, the last part shorter
    for one, other in zip(whole, run(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_in_parts_no_table_of_all_logits_is_kept():
    """What autograd keeps for the backward pass is the inputs, not `(N, V)` logits."""
    kept = []
    hidden = torch.randn(3000, 2, requires_grad=True)
    weight = torch.randn(6000, 2, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        token_logp(hidden, weight, None, torch.zeros(3000, dtype=torch.int64))
    assert max(kept) <= weight.numel()
