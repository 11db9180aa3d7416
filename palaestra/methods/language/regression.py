"""Base of methods that regress rewards on log-ratios pi / pi_old of whole answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from palaestra.core.errors import Diverged
from palaestra.core.experience import Experience
from palaestra.core.method import Metrics
from palaestra.methods.language.batch import Batch, without_advantage
from palaestra.methods.language.rounds import Rounds
from palaestra.nets.gradient import Outputs
from palaestra.objectives.divergences import kl_estimate
from palaestra.objectives.segments import step_weights


@dataclass
class Regression(Rounds):
    """Rounds whose loss is `regressed`: a function of the log-ratios pi / pi_old of whole answers, and of their rewards."""

    whole_groups: ClassVar[bool] = True

    length: Literal["sum", "mean"] = "sum"
    """Whether an answer's log-ratio is the sum over its tokens, as in the derivation, or their mean."""

    def regressed(self, ratio: Tensor, reward: Tensor, group: Tensor) -> Tensor:
        """The loss, given log-ratios, rewards and groups of answers, `(n,)` each."""
        raise NotImplementedError

    def advantages(self, rewards: Tensor, group: Tensor) -> Tensor:
        return rewards

    def update(self, batch: Batch) -> Metrics:
        sloped, outputs = self.through_answers(batch, lambda logp: self.whole(logp, batch))
        batch = batch.replace(advantage=[-part.weight for part in sloped.parts])
        batch = batch.with_weights(lambda mask, segment: step_weights(mask, segment, "sequence-mean"))
        parts = batch.micro(self.micro_tokens, None if self.holds_all else without_advantage)
        if not parts:
            return {}
        return {**outputs, **self.descend(self.loss, parts)}

    def whole(self, logp: Tensor, batch: Batch) -> tuple[Tensor, Outputs]:
        """The regression, given the log-probabilities of whole answers, `(n,)`."""
        if not bool(logp.isfinite().all()):
            raise Diverged("the log-probabilities of answers are no longer finite")
        ratio = logp - batch.total("logp")
        if self.length == "mean":
            ratio = ratio / batch.total("mask").clamp(min=1)
        loss = self.regressed(ratio, batch.of_answers("advantage"), batch.of_answers("group"))
        return loss, {"loss/policy": loss, "policy/log_ratio": ratio.square().mean().sqrt()}

    def loss(self, batch: Experience) -> tuple[Tensor, Outputs]:
        """A loss over tokens with the regression's gradient, and the divergence from the reference, of some packed answers."""
        scored = self.language_policy.score(batch, self.learning_temperature)
        chosen = batch.mask.bool()
        logp, old_logp, advantage, weight = (
            x[chosen] for x in (scored.logp, batch.logp, batch.advantage, batch.weight)
        )
        loss, difference = -(advantage * logp).sum(), logp.detach() - old_logp
        outputs = {
            "tokens": torch.tensor(float(len(logp))),
            "policy/entropy": scored.entropy[chosen].sum(),
            "policy/kl": (difference.exp() - 1 - difference).sum(),
        }
        if batch.ref_logp is not None:
            kl = kl_estimate(logp, batch.ref_logp[chosen])
            outputs["policy/kl_reference"] = kl.sum()
            if self.kl_in == "loss":
                loss = loss + self.kl_weight * (kl * weight).sum()
        return loss, outputs
