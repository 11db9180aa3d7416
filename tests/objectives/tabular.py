"""Policies that are a table, minimised exactly: what losses end at is compared with closed forms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from palaestra.objectives.answers import Answers


def minimiser(loss: Callable[[Tensor], Tensor], parameters: int, steps: int = 500) -> Tensor:
    """The logits `(parameters,)` at which `loss` of them is least, from 0, in double precision."""
    logits = torch.zeros(parameters, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [logits],
        max_iter=steps,
        tolerance_grad=1e-13,
        tolerance_change=1e-16,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(logits)
        value.backward()
        return value

    optimiser.step(closure)
    return logits.detach()


def all_pairs(answers: Answers) -> tuple[Answers, Answers]:
    """The first and the second answer of all n^2 ordered pairs, those with themselves included."""
    n = len(answers.logp)
    index = torch.arange(n)
    return answers.at(index.repeat_interleave(n)), answers.at(index.repeat(n))


def policy_of(expected: Callable[[Answers], Tensor], ref: Tensor, **fields: Tensor) -> Tensor:
    """The probabilities `(n,)` that minimise an expected loss of all n answers."""

    def loss(logits: Tensor) -> Tensor:
        return expected(Answers(logp=logits.log_softmax(-1), ref_logp=ref.log(), **fields))

    return minimiser(loss, len(ref)).softmax(-1)
