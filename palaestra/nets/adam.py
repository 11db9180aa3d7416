"""Adam without the bookkeeping of `torch.optim`, which for small networks costs more than the arithmetic.

The same fused kernel does the work; gradients come straight from an objective, so there is nothing to zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from palaestra.core.world import world
from palaestra.nets.gradient import Gradients, Objective, Outputs, limited
from palaestra.nets.shards import local, shards_of


class Adam:
    """Adam (Kingma and Ba 2015) on a fixed list of parameters; `max_grad_norm` clips the global gradient norm.

    With `weight_decay` it is AdamW (Loshchilov and Hutter 2019): parameters also shrink by lr * weight_decay at every step.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = None,
    ):
        self.params = list(params)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.gradients = Gradients(self.params, max_grad_norm)
        self.norm: Tensor | None = None
        """The last gradient's norm before clipping, where it is clipped."""
        self.skip_norm: float | None = None
        """A norm from which on `accumulate` takes no step; nor does it then where the norm is NaN."""
        self.first = [torch.zeros_like(p, memory_format=torch.contiguous_format) for p in self.params]
        self.second = [torch.zeros_like(m) for m in self.first]
        device = self.params[0].device
        self.steps = torch.zeros((), dtype=torch.float32, device=device)
        self._steps = [self.steps] * len(self.params)
        self.sharded = False
        """Whether the parameters and their moments are shards, of which other processes have the rest."""

    def shard(self, params: Iterable[Tensor]) -> None:
        """Go on with this process's shards of the same parameters, whose module was sharded, and of their moments."""
        self.params, self.sharded = list(params), True
        self.first, self.second = (shards_of(moments, self.params) for moments in (self.first, self.second))

    def descend(self, objective: Objective, *inputs: Any) -> Outputs:
        """One step down the loss of `objective(*inputs)`, which gives `(loss, outputs)`; returns the outputs.

        The objective must be a function of its inputs and of parameters alone, and draw no random numbers: it may be
        compiled (see `palaestra.nets.gradient`).
        """
        found = self.gradients(objective, inputs)
        self.norm, scale = found.norm or (None, None)
        self.apply(found.gradients, scale)
        return found.outputs

    def accumulate(self, objective: Objective, parts: Iterable[Any]) -> list[Outputs]:
        """One step down the sum of `objective(part)` over parts of a batch too large for one pass; the outputs of each.

        Several processes, which all have the same parts, have some of the passes each.
        """
        total: list[Tensor] = []
        outputs = []
        for part, wanted in world().turns(list(parts)):
            loss, found = objective(part)
            gradients = self._differentiated(loss if wanted else 0.0 * loss)
            if wanted:
                outputs.append({name: value.detach() for name, value in found.items()})
            if total:
                torch._foreach_add_(total, list(gradients))
            else:
                total = [g.clone() if g._is_view() else g for g in gradients]
        if not self.sharded:
            world().sum(total)
        limit = self.gradients.max_norm
        self.norm, scale = (None, None) if limit is None else limited(total, limit, self.sharded)
        if self.skip_norm is None or self.norm is None or bool(self.norm < self.skip_norm):
            self.apply(total, scale)
        return world().gather(outputs)

    def _differentiated(self, loss: Tensor) -> Sequence[Tensor]:
        """The gradient of a loss; of sharded parameters, this process's shard of the sum over all processes' losses."""
        if not self.sharded:
            return torch.autograd.grad(loss, self.params)
        loss.backward()
        found = [local(p.grad) for p in self.params]  # type: ignore[arg-type]
        for p in self.params:
            p.grad = None
        return found

    @torch.no_grad()
    def apply(self, gradients: Sequence[Tensor], scale: Tensor | None = None) -> None:
        """One step against given gradients, divided by `scale`."""
        self.steps += 1
        params, first, second = (
            [local(x) for x in tensors] if self.sharded else tensors
            for tensors in (self.params, self.first, self.second)
        )
        torch._fused_adamw_(
            params,
            # The kernel reads memory in order: an expanded gradient would run past its end, a transposed one be mixed up.
            [g.contiguous() for g in gradients],
            first,
            second,
            [],
            self._steps,
            lr=self.lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
            grad_scale=scale,
        )

    def restart(self) -> None:
        """Forget all gradients that were seen."""
        for moment in (*self.first, *self.second):
            moment.zero_()
        self.steps.zero_()

    def follow(self, other: Adam) -> None:
        """Count steps, and know what is compiled, together with `other`."""
        self.steps, self.gradients.compiled = other.steps, other.gradients.compiled
        self._steps = [self.steps] * len(self.params)

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first, "second": self.second, "steps": self.steps, "compiled": self.gradients.compiled}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for own, saved in zip((*self.first, *self.second), (*state["first"], *state["second"]), strict=True):
            own.copy_(saved)
        self.steps.copy_(state["steps"])
        self.gradients.compiled = dict(state["compiled"])


class Jointly:
    """Several optimisers on one loss: each takes the gradient of its own parameters, clipped by its own norm."""

    def __init__(self, *optimisers: Adam):
        self.optimisers = optimisers
        self.gradients = Gradients([p for optimiser in optimisers for p in optimiser.params])

    def descend(self, objective: Objective, *inputs: Any) -> Outputs:
        """One step of every optimiser down the loss of `objective(*inputs)`; returns its outputs."""
        found = self.gradients(objective, inputs)
        rest = list(found.gradients)
        for optimiser in self.optimisers:
            own, rest = rest[: len(optimiser.params)], rest[len(optimiser.params) :]
            limit = optimiser.gradients.max_norm
            optimiser.norm, scale = (None, None) if limit is None else limited(own, limit)
            optimiser.apply(own, scale)
        return found.outputs

    def state_dict(self) -> dict[str, Any]:
        """Which losses are compiled; the optimisers are saved where they are."""
        return {"compiled": self.gradients.compiled}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.gradients.compiled = dict(state["compiled"])
