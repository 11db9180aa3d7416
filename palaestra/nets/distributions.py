"""Action distributions as plain formulas: sample, log-probability, entropy, divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from palaestra.objectives.autograd import once_differentiable

LOG_2PI = math.log(2 * math.pi)
LOG_2 = math.log(2.0)
TINY = torch.finfo(torch.float32).tiny


class Distribution(Protocol):
    """A batch of distributions over actions."""

    def sample(self, generator: torch.Generator | None = None) -> Tensor: ...
    def mode(self) -> Tensor: ...
    def logp(self, action: Tensor) -> Tensor: ...
    def entropy(self) -> Tensor: ...
    def kl(self, other: Self) -> Tensor:
        """KL(self || other), `(B,)`."""
        ...

    def detach(self) -> Self: ...


@dataclass
class DiagGaussian:
    """Independent normals; `mean` `(B, m)`, `log_std` `(B, m)` or `(m,)`."""

    mean: Tensor
    log_std: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device)
        return self.mean + self.log_std.exp() * noise

    def mode(self) -> Tensor:
        return self.mean

    def logp(self, action: Tensor) -> Tensor:
        return _GaussianLogp.apply(self.mean, self.log_std, action)

    def entropy(self) -> Tensor:
        total = self._log_std_sum() + 0.5 * (1 + LOG_2PI) * self.mean.shape[-1]
        return total.expand(self.mean.shape[:-1])

    def kl(self, other: DiagGaussian) -> Tensor:
        ratio = torch.exp(2 * (self.log_std - other.log_std))
        shift = ((self.mean - other.mean) * torch.exp(-other.log_std)).square()
        return (other.log_std - self.log_std + 0.5 * (ratio + shift - 1)).sum(-1)

    def detach(self) -> DiagGaussian:
        # log_std may be the parameter itself, which the optimiser changes in place.
        return DiagGaussian(self.mean.detach(), self.log_std.detach().clone())

    def _log_std_sum(self) -> Tensor:
        return self.log_std.sum(-1)


@dataclass
class Categorical:
    """One choice among n from its unnormalised log-probabilities `(B, n)`; `logits` are the normalised ones."""

    scores: Tensor
    logits: Tensor = field(default=None, kw_only=True)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.logits is None:
            self.logits = self.scores.log_softmax(-1)

    @classmethod
    def among(cls, scores: Tensor, mask: Tensor | None) -> Categorical:
        """The same with probability 0 where `mask` `(B, n)` is 0."""
        return cls(scores if mask is None else scores.masked_fill(~mask.bool(), -1e9))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """By the Gumbel trick, so that a sample depends on its own row alone."""
        return self.drawn(gumbel(self.logits.shape, generator, self.logits.device))

    def drawn(self, noise: Tensor) -> Tensor:
        """The samples that Gumbel noise makes: `(B,)` from `(B, n)`, `(B, K)` from `(B, K, n)`."""
        logits = self.logits if noise.dim() == self.logits.dim() else self.logits.unsqueeze(-2)
        return (logits + noise).argmax(-1)

    def mode(self) -> Tensor:
        return self.logits.argmax(-1)

    def logp(self, action: Tensor) -> Tensor:
        return _CategoricalLogp.apply(self.scores, self.logits, action.unsqueeze(-1))

    def entropy(self) -> Tensor:
        return -(self.logits.exp() * self.logits).sum(-1)

    def kl(self, other: Categorical) -> Tensor:
        return (self.logits.exp() * (self.logits - other.logits)).sum(-1)

    def detach(self) -> Categorical:
        return Categorical(self.scores.detach(), logits=self.logits.detach())


@dataclass
class MultiCategorical:
    """Several independent choices."""

    parts: Sequence[Categorical]

    @classmethod
    def among(cls, scores: Tensor, counts: Sequence[int], mask: Tensor | None) -> MultiCategorical:
        """From `scores` `(B, sum(counts))`, with probability 0 where `mask` of the same shape is 0."""
        masks = [None] * len(counts) if mask is None else mask.split(list(counts), -1)
        return cls([Categorical.among(*part) for part in zip(scores.split(list(counts), -1), masks, strict=True)])

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return torch.stack([part.sample(generator) for part in self.parts], -1)

    def mode(self) -> Tensor:
        return torch.stack([part.mode() for part in self.parts], -1)

    def logp(self, action: Tensor) -> Tensor:
        return torch.stack([part.logp(action[..., i]) for i, part in enumerate(self.parts)]).sum(0)

    def entropy(self) -> Tensor:
        return torch.stack([part.entropy() for part in self.parts]).sum(0)

    def kl(self, other: MultiCategorical) -> Tensor:
        return torch.stack([p.kl(q) for p, q in zip(self.parts, other.parts, strict=True)]).sum(0)

    def detach(self) -> MultiCategorical:
        return MultiCategorical([part.detach() for part in self.parts])


@dataclass
class SquashedGaussian:
    """tanh of independent normals: actions in (-1, 1); `mean` and `std` `(B, m)`."""

    mean: Tensor
    std: Tensor

    def rsample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The action tanh(mean + std * noise) and its log-density, `(B, m)` and `(B,)`; gradients flow through both."""
        action, logp, _ = _SquashedSample.apply(self.mean, self.std, noise)
        return action, logp

    def rsample_unsquashed(self, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Action, log-density and the unsquashed sample u itself, which `logp_unsquashed` of another policy takes."""
        return _SquashedSample.apply(self.mean, self.std, noise)

    def logp_unsquashed(self, u: Tensor) -> Tensor:
        """Log-density of the action tanh(u), given u itself (recovering u from the action would lose precision)."""
        return normal_logp((u - self.mean) / self.std, self.std) - squash_correction(u)


class _GaussianLogp(torch.autograd.Function):
    """log N(action; mean, exp(log_std)^2) as one node: with z = (action - mean) / std the gradients are
    g_mean = g z / std = -g_action and g_log_std = g (z^2 - 1), summed over the batch where log_std is shared by it."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
        inverse = torch.exp(-log_std)
        z = (action - mean) * inverse
        ctx.save_for_backward(z, inverse)
        return torch.addcmul(log_std, z, z, value=0.5).sum(-1).neg_().sub_(0.5 * LOG_2PI * mean.shape[-1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        once_differentiable()
        z, inverse = ctx.saved_tensors
        gz = g.unsqueeze(-1) * z
        g_log_std = torch.addcmul(-g.unsqueeze(-1), gz, z)
        g_mean = gz * inverse
        return g_mean, g_log_std.sum_to_size(inverse.shape), -g_mean if ctx.needs_input_grad[2] else None


class _CategoricalLogp(torch.autograd.Function):
    """log softmax(scores)[choice], given the log-softmax: the gradient is g (onehot - p)."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, logits: Tensor, choice: Tensor) -> Tensor:
        ctx.save_for_backward(logits, choice)
        return logits.gather(-1, choice).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        once_differentiable()
        logits, choice = ctx.saved_tensors
        g = g.unsqueeze(-1)
        return (logits.exp() * -g).scatter_add_(-1, choice, g), None, None


class _SquashedSample(torch.autograd.Function):
    """a = tanh(u), u = mean + std * noise, and log pi(a), as one node of few operations.

    log pi = sum [ 2 (u + softplus(-2u) - log 2) - log std - noise^2 / 2 - log(2 pi) / 2 ]; with d log(1 - tanh(u)^2)/du = -2 a
    the gradients are g_u = g_a (1 - a^2) + 2 a g_logp, g_mean = g_u and g_std = g_u noise - g_logp / std.
    """

    @staticmethod
    def forward(ctx: Any, mean: Tensor, std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        u = torch.addcmul(mean, std, noise)
        action = torch.tanh(u)
        # softplus with beta = -2 is -softplus(-2u) / 2.
        correction = torch.sub(u, F.softplus(u, beta=-2), alpha=2)
        surprise = torch.sub(torch.addcmul(std.log(), noise, noise, value=0.5), correction, alpha=2).sum(-1)
        logp = -(2 * LOG_2 + 0.5 * LOG_2PI) * mean.shape[-1] - surprise
        ctx.save_for_backward(action, std, noise)
        return action, logp, u

    @staticmethod
    def backward(ctx: Any, g_action: Tensor | None, g_logp: Tensor | None, g_unsquashed: Tensor | None) -> Any:
        once_differentiable()
        action, std, noise = ctx.saved_tensors
        g_u = torch.zeros_like(action) if g_unsquashed is None else g_unsquashed
        if g_action is not None:
            g_u = g_u + torch.addcmul(g_action, g_action * action, action, value=-1)
        if g_logp is None:
            return g_u, g_u * noise, None
        g_logp = g_logp.unsqueeze(-1)
        g_u = torch.addcmul(g_u, g_logp, action, value=2)
        return g_u, torch.addcdiv(g_u * noise, g_logp, std, value=-1), None


def gumbel(
    shape: Sequence[int], generator: torch.Generator | None = None, device: torch.device | None = None
) -> Tensor:
    """Standard Gumbel noise, -log of an exponential."""
    noise = torch.empty(shape, device=device).exponential_(generator=generator)
    # exponential_ may return 0, whose logarithm would make any action, a disallowed one too, win for certain.
    return noise.clamp_(min=TINY).log_().neg_()


def normal_logp(noise: Tensor, std: Tensor) -> Tensor:
    """log N(mean + std * noise; mean, std^2), summed over the last dimension."""
    return (-0.5 * noise.square() - std.log()).sum(-1) - 0.5 * LOG_2PI * noise.shape[-1]


def squash_correction(u: Tensor) -> Tensor:
    """sum log(1 - tanh(u)^2) over the last dimension, in the form that does not underflow: 2 (log 2 - u - softplus(-2u))."""
    return 2 * (LOG_2 * u.shape[-1] - (u + F.softplus(-2 * u)).sum(-1))
