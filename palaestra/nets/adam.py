"""Adam without the bookkeeping of `torch.optim`, which for small networks costs more than the arithmetic.

The same fused kernel does the work; gradients come straight from `torch.autograd.grad`, so there is nothing to zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


class Adam:
    """Adam (Kingma and Ba 2015) on a fixed list of parameters; `max_grad_norm` clips the global gradient norm."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        max_grad_norm: float | None = None,
    ):
        self.params = list(params)
        self.lr, self.betas, self.eps, self.max_grad_norm = lr, betas, eps, max_grad_norm
        self.first = [torch.zeros_like(p, memory_format=torch.contiguous_format) for p in self.params]
        self.second = [torch.zeros_like(m) for m in self.first]
        device = self.params[0].device
        self.steps = torch.zeros((), dtype=torch.float32, device=device)
        self._steps = [self.steps] * len(self.params)

    def descend(self, loss: Tensor) -> Tensor | None:
        """One step down `loss`; returns the gradient norm before clipping, where it is clipped."""
        return self.apply(torch.autograd.grad(loss, self.params))

    @torch.no_grad()
    def apply(self, grads: Iterable[Tensor]) -> Tensor | None:
        """One step against given gradients."""
        # The fused kernel reads memory in order: an expanded gradient would run past its end, a transposed one be mixed up.
        gradients = [g.contiguous() for g in grads]
        norm = scale = None
        if self.max_grad_norm is not None:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            scale = (norm / self.max_grad_norm).clamp_(min=1.0)
        self.steps += 1
        torch._fused_adam_(
            self.params,
            gradients,
            self.first,
            self.second,
            [],
            self._steps,
            lr=self.lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
            grad_scale=scale,  # what the kernel divides gradients by
        )
        return norm

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first, "second": self.second, "steps": self.steps}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for own, saved in zip((*self.first, *self.second), (*state["first"], *state["second"]), strict=True):
            own.copy_(saved)
        self.steps.copy_(state["steps"])
