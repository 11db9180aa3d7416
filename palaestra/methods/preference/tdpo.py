"""Token-level DPO (Zeng et al., arXiv 2404.11999): DPO with divergences of next-token distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeFloat, PositiveFloat
from palaestra.core.method import Paper
from palaestra.methods.language.batch import Batch
from palaestra.methods.preference.direct_alignment import DirectAlignment
from palaestra.objectives.answers import Answers
from palaestra.objectives.direct import tdpo1, tdpo2
from palaestra.objectives.segments import segment_sum


@dataclass
class TDPO1(DirectAlignment):
    """DPO on the difference of log-ratios less that of KL divergences summed over tokens, rejected less chosen."""

    paper: ClassVar[Paper] = Paper("Token-level Direct Preference Optimization", 2024, "2404.11999")
    summary: ClassVar[str] = "DPO with the divergence of next-token distributions"
    criterion = tdpo1
    asks_ahead: ClassVar[bool] = False  # type: ignore[misc]

    beta: PositiveFloat = 0.1
    """Weight of the divergence from the reference."""

    def objective(self, *sides: Answers) -> Tensor:
        return tdpo1(*sides, beta=self.beta)

    def seen(self, piece: Batch) -> Answers:
        assert self.anchor is not None
        tokens = Experience.cat(piece.parts)
        device, chosen = tokens.action.device, tokens.mask.bool()
        logp = self.language_policy.logits(tokens).log_softmax(-1)
        with torch.no_grad():
            ref_logp = self.anchor.policy.logits(tokens).log_softmax(-1)
        divergence = (ref_logp.exp() * (ref_logp - logp)).sum(-1).to(device)  # KL(pi_ref || pi) at each token

        def said(x: Tensor) -> Tensor:
            own = x.gather(-1, tokens.action[chosen].to(x.device).unsqueeze(-1)).squeeze(-1).to(device)
            return torch.zeros(len(chosen), device=device).masked_scatter(chosen, own)

        answers = self.whole(piece, tokens.replace(ref_logp=said(ref_logp)), said(logp))
        return answers.replace(kl=segment_sum(divergence, answers.tokens.answer[chosen], len(piece)))


@dataclass
class TDPO2(TDPO1):
    """TDPO with a weight alpha of the divergences, and no gradient through that of the chosen answer."""

    summary: ClassVar[str] = "TDPO whose divergences have a weight, that of chosen answers without gradient"
    criterion = tdpo2

    alpha: NonNegativeFloat = 0.5
    """Weight of the divergences beside the log-ratios."""

    def objective(self, *sides: Answers) -> Tensor:
        return tdpo2(*sides, beta=self.beta, alpha=self.alpha)
