"""Log-probabilities of tokens from hidden states, without keeping logits over the whole vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from palaestra.objectives.autograd import once_differentiable

WHOLE = 1 << 24
"""Numbers in a table of logits up to which it is kept; a larger one is made again, part by part, in the backward pass."""


def token_logp(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, token: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """log pi(token) and the entropy of pi = softmax((W h + b) / temperature), `(N,)` each, in single precision.

    `hidden` `(N, d)`, `weight` `(V, d)`, `bias` `(V,)`, `token` `(N,)`. Both have gradients.
    """
    if torch.is_autocast_enabled(hidden.device.type):  # said outright, since the backward pass is outside of it
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if hidden.shape[0] * weight.shape[0] > WHOLE:
        return _InParts.apply(hidden, weight, bias, token, temperature)
    logp = _logits(hidden, weight, bias, temperature).log_softmax(-1)
    return logp.gather(-1, token.unsqueeze(-1)).squeeze(-1), -(logp.exp() * logp).sum(-1)


class _InParts(torch.autograd.Function):
    """The same in parts of at most `WHOLE` logits, which the backward pass computes again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, token: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        logp, entropy = (torch.empty(len(hidden), device=hidden.device) for _ in range(2))
        for rows in _parts(len(hidden), len(weight)):
            every = _logits(hidden[rows], weight, bias, temperature).log_softmax(-1)
            logp[rows] = every.gather(-1, token[rows].unsqueeze(-1)).squeeze(-1)
            entropy[rows] = -(every.exp() * every).sum(-1)
        ctx.save_for_backward(hidden, weight, bias, token, entropy)
        ctx.temperature = temperature
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, g_logp: Tensor, g_entropy: Tensor) -> Any:
        once_differentiable()
        hidden, weight, bias, token, entropy = ctx.saved_tensors
        g_hidden, g_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        g_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        for rows in _parts(len(hidden), len(weight)):
            every = _logits(hidden[rows], weight, bias, ctx.temperature).log_softmax(-1)
            p = every.exp()
            # d logp / d logits = onehot - p, and d entropy / d logits = -p (log p + entropy).
            slope = every.add_(entropy[rows].unsqueeze(-1)).mul_(-g_entropy[rows].unsqueeze(-1))
            slope = slope.sub_(g_logp[rows].unsqueeze(-1)).mul_(p)
            slope.scatter_add_(-1, token[rows].unsqueeze(-1), g_logp[rows].unsqueeze(-1))
            slope = slope.div_(ctx.temperature).to(weight.dtype)
            g_hidden[rows] = slope @ weight
            g_weight += slope.t() @ hidden[rows]
            if g_bias is not None:
                g_bias += slope.sum(0)
        return g_hidden, g_weight.to(weight.dtype), None if g_bias is None else g_bias.to(bias.dtype), None, None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    return logits if temperature == 1 else logits / temperature


def _parts(rows: int, vocabulary: int) -> list[slice]:
    size = max(1, WHOLE // vocabulary)
    return [slice(i, i + size) for i in range(0, rows, size)]
