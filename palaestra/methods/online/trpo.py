"""Trust region policy optimisation (Schulman et al., arXiv 1502.05477)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.method import Metrics, Paper
from palaestra.methods.online.on_policy import OnPolicy
from palaestra.methods.online.value_fit import fit_values
from palaestra.nets.adam import Adam
from palaestra.nets.distributions import Distribution
from palaestra.nets.mlp import MLP
from palaestra.objectives.policy import surrogate
from palaestra.objectives.returns import standardise


@dataclass
class TRPO(OnPolicy):
    """The natural gradient, scaled to the border of a trust region KL(old || new) <= delta, with a line search."""

    paper: ClassVar[Paper] = Paper("Trust Region Policy Optimization", 2015, "1502.05477")
    summary: ClassVar[str] = "on-policy natural gradient within a KL trust region"

    lr: float = 1e-3
    """Adam's learning rate for the values; the policy has none."""
    max_kl: float = 0.01
    """delta: bound of the mean KL(old || new) per iteration."""
    cg_steps: int = 15
    """Most conjugate-gradient steps."""
    cg_damping: float = 0.1
    """Multiple of the identity added to the Fisher matrix."""
    line_search_steps: int = 10
    """Most step sizes tried before the step is given up."""
    line_search_shrink: float = 0.8
    """Factor between step sizes tried."""
    standardise_advantage: bool = True
    """Standardise advantages over each rollout."""
    value_epochs: int = 10
    """Passes over each rollout to fit the values."""
    value_minibatch: int = 128
    """Steps per gradient step of the values."""

    def check(self) -> None:
        super().check()
        require(self.max_kl > 0, f"max_kl must be positive, got {self.max_kl}")
        require(self.cg_damping >= 0, f"cg_damping must be >= 0, got {self.cg_damping}")
        require(0 < self.line_search_shrink < 1, f"line_search_shrink must be in (0, 1), got {self.line_search_shrink}")
        for name in ("cg_steps", "line_search_steps", "value_epochs", "value_minibatch"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")

    def setup_optimisers(self) -> None:
        self.value_optimiser = Adam(self.actor_critic.critic.parameters(), self.lr, eps=1e-5)

    def learn(self, batch: Experience) -> Metrics:
        metrics = self.improve(batch)
        self.counters.updates += 1
        value_loss = fit_values(self, batch, self.value_optimiser, self.value_epochs, self.value_minibatch)
        return {**metrics, "loss/value": value_loss}

    def improve(self, batch: Experience) -> Metrics:
        """One constrained step of the policy (appendix C of the paper)."""
        params = self.actor_critic.policy_parameters()
        advantage = standardise(batch.advantage) if self.standardise_advantage else batch.advantage
        dist = self.distribution(batch)
        old = dist.detach()
        old_logp = old.logp(batch.action)
        loss = surrogate(dist.logp(batch.action), old_logp, advantage)
        # The gradient of KL(old || new) is 0 here, and its derivative along v is the Fisher matrix times v.
        kl_gradient = flat(torch.autograd.grad(old.kl(dist).mean(), params, create_graph=True))
        descent = -flat(torch.autograd.grad(loss, params, retain_graph=True))

        def fisher(v: Tensor) -> Tensor:
            return flat(torch.autograd.grad(kl_gradient @ v, params, retain_graph=True)) + self.cg_damping * v

        direction = conjugate_gradient(fisher, descent, self.cg_steps)
        curvature = direction @ fisher(direction)
        step = direction * (2 * self.max_kl / curvature.clamp(min=1e-12)).sqrt()
        new_loss, kl = self.line_search(batch, advantage, old, old_logp, loss.detach(), step)
        return {
            "loss/policy": new_loss,
            "policy/kl": kl,
            "policy/entropy": dist.entropy().detach().mean(),
            "policy/gradient_norm": descent.norm(),
        }

    @torch.no_grad()
    def line_search(
        self, batch: Experience, advantage: Tensor, old: Distribution, old_logp: Tensor, loss: Tensor, step: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take the largest tried share of `step` that lowers the loss within the trust region, or none; (loss, KL)."""
        params = self.actor_critic.policy_parameters()
        start = [p.clone() for p in params]
        for _ in range(self.line_search_steps):
            move(params, start, step)
            new = self.distribution(batch)
            new_loss, kl = surrogate(new.logp(batch.action), old_logp, advantage), old.kl(new).mean()
            if bool((new_loss < loss) & (kl <= self.max_kl)):  # a branch on data: the one place a step needs one
                return new_loss, kl
            step = step * self.line_search_shrink
        move(params, start, torch.zeros_like(step))
        return loss, torch.zeros(())

    def distribution(self, batch: Experience) -> Distribution:
        """The policy at `batch.obs`, in a form that can be differentiated twice."""
        policy = self.actor_critic
        net = policy.actor
        forward = net.twice_differentiable if isinstance(net, MLP) else net
        return policy.make_distribution(forward(policy.features(batch.obs)), batch.action_mask)


def conjugate_gradient(product: Callable[[Tensor], Tensor], b: Tensor, steps: int, tolerance: float = 1e-10) -> Tensor:
    """The x with A x = b, for a symmetric positive definite A given as `product(v)` = A v; `b` `(n,)`.

    Stops after `steps` steps or once the squared residual is below `tolerance`.
    """
    x = torch.zeros_like(b)
    residual, direction = b.clone(), b.clone()
    squared = residual @ residual
    for _ in range(steps):
        if bool(squared < tolerance):
            break
        image = product(direction)
        length = squared / (direction @ image)
        x = x + length * direction
        residual = residual - length * image
        fresh = residual @ residual
        direction = residual + fresh / squared * direction
        squared = fresh
    return x


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors as one vector."""
    return torch.cat([t.reshape(-1) for t in tensors])


def move(params: Sequence[Tensor], start: Sequence[Tensor], step: Tensor) -> None:
    """params <- start + step, in place."""
    pieces = step.split([p.numel() for p in params])
    for p, s, piece in zip(params, start, pieces, strict=True):
        torch.add(s, piece.view_as(p), out=p)
