"""The implicit rewards of a policy as a token scorer: how much likelier it finds each token than its reference does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from palaestra.core.errors import Unsupported, require
from palaestra.core.experience import Experience
from palaestra.language.policy import LanguagePolicy
from palaestra.language.rows import Row
from palaestra.language.soups import same_vocabulary
from palaestra.objectives.token_mdp import implicit_reward


class ImplicitRewards:
    """beta log pi(y_t) / pi_ref(y_t) of each token of an answer, as a token scorer.

    Of a policy that DPO trained, at its beta, it is r + V(s') - V(s) for a reward r that explains the preferences (Rafailov et
    al. 2024, arXiv 2404.12358, eq. 10): credit for single tokens. Over an answer that has ended it adds up to R - V(s_0); one
    that was cut off lacks the value of its last state. Log-probabilities of both models are at temperature 1, whatever answers
    were sampled with.
    """

    def __init__(self, policy: LanguagePolicy, reference: LanguagePolicy, beta: float = 1.0):
        require(beta >= 0, f"beta must not be negative, got {beta}")
        same_vocabulary([policy.tokeniser, reference.tokeniser])
        self.policy, self.reference, self.beta = policy, reference, beta
        self.__name__ = "implicit_rewards"

    def __call__(self, rows: Sequence[Row], ids: Sequence[Tensor]) -> list[Tensor]:
        logp, ref_logp = self.logp(rows, ids)
        return [implicit_reward(own, other, self.beta) for own, other in zip(logp, ref_logp, strict=True)]

    def logp(self, rows: Sequence[Row], ids: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The log-probabilities `(T,)` of answers' tokens under the policy and under the reference."""
        parts = [self._whole(row, y, i) for i, (row, y) in enumerate(zip(rows, ids, strict=True))]

        def under(policy: LanguagePolicy) -> list[Tensor]:
            return [x[len(x) - len(y) :] for x, y in zip(policy.logps(parts), ids, strict=True)]

        return under(self.policy), under(self.reference)

    def of(self, parts: Sequence[Experience], tokens: int = 16_384) -> list[Tensor]:
        """The rewards `(L,)` of each sequence, 0 where its mask is 0. Where all have a `ref_logp`, that is used for the
        reference, and must be at temperature 1; at most `tokens` tokens are computed at a time."""
        known = all(part.ref_logp is not None for part in parts)
        other = [p.ref_logp for p in parts] if known else self.reference.logps(parts, tokens=tokens)
        own = self.policy.logps(parts, tokens=tokens)
        told = zip(own, other, parts, strict=True)
        return [implicit_reward(mine, theirs, self.beta) * part.mask for mine, theirs, part in told]

    def _whole(self, row: Row, answer: Tensor, number: int) -> Experience:
        """A prompt followed by an answer."""
        prompt, clip = self.policy.asked(row)
        if clip is not None:
            raise Unsupported("rewards of single tokens are read from text alone, and a row shows a video")
        ids = torch.cat([prompt, answer])
        chosen = torch.arange(len(ids)) >= max(1, len(prompt))  # nothing says how likely a first token is
        return Experience(action=ids, mask=chosen, segment=torch.full_like(ids, number))
