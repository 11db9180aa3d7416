"""Trust region policy optimisation (Schulman et al., arXiv 1502.05477)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeFloat, PositiveFloat, PositiveInt
from palaestra.core.method import Metrics, Paper
from palaestra.methods.online.on_policy import OnPolicy
from palaestra.methods.online.value_fit import fit_values
from palaestra.nets import trust_region
from palaestra.nets.adam import Adam
from palaestra.nets.distributions import Distribution
from palaestra.nets.mlp import MLP
from palaestra.nets.trust_region import TrustRegion
from palaestra.objectives.returns import standardise


@dataclass
class TRPO(OnPolicy):
    """The natural gradient, scaled to the border of a trust region KL(old || new) <= delta, with a line search."""

    paper: ClassVar[Paper] = Paper("Trust Region Policy Optimization", 2015, "1502.05477")
    summary: ClassVar[str] = "on-policy natural gradient within a KL trust region"

    lr: float = 1e-3
    """Adam's learning rate for the values; the policy has none."""
    max_kl: PositiveFloat = 0.01
    """delta: bound of the mean KL(old || new) per iteration."""
    cg_steps: PositiveInt = 15
    """Most conjugate-gradient steps."""
    cg_damping: NonNegativeFloat = 0.1
    """Multiple of the identity added to the Fisher matrix."""
    line_search_steps: PositiveInt = 10
    """Most step sizes tried before the step is given up."""
    line_search_shrink: float = 0.8
    """Factor between step sizes tried."""
    standardise_advantage: bool = True
    """Standardise advantages over each rollout."""
    value_epochs: PositiveInt = 10
    """Passes over each rollout to fit the values."""
    value_minibatch: PositiveInt = 128
    """Steps per gradient step of the values."""

    def check(self) -> None:
        super().check()
        require(0 < self.line_search_shrink < 1, f"line_search_shrink must be in (0, 1), got {self.line_search_shrink}")

    def setup_optimisers(self) -> None:
        self.value_optimiser = Adam(self.actor_critic.critic.parameters(), self.lr, eps=1e-5)

    def learn(self, batch: Experience) -> Metrics:
        metrics = self.improve(batch)
        self.counters.updates += 1
        value_loss = fit_values(self, batch, self.value_optimiser, self.value_epochs, self.value_minibatch)
        return {**metrics, "loss/value": value_loss}

    def improve(self, batch: Experience) -> Metrics:
        """One constrained step of the policy (appendix C of the paper)."""
        advantage = standardise(batch.advantage) if self.standardise_advantage else batch.advantage
        region = TrustRegion(
            self.max_kl,
            self.cg_steps,
            self.cg_damping,
            self.line_search_steps,
            self.line_search_shrink,
            kl_limit=self.max_kl,
        )
        params = self.actor_critic.policy_parameters()
        taken = trust_region.step(params, lambda: self.distribution(batch), batch.action, advantage, region)
        return {
            "loss/policy": taken.loss,
            "policy/kl": taken.kl,
            "policy/entropy": taken.entropy,
            "policy/gradient_norm": taken.gradient_norm,
        }

    def distribution(self, batch: Experience) -> Distribution:
        """The policy at `batch.obs`, in a form that can be differentiated twice."""
        policy = self.actor_critic
        net = policy.actor
        forward = net.twice_differentiable if isinstance(net, MLP) else net
        return policy.make_distribution(forward(policy.features(batch.obs)), batch.action_mask)
