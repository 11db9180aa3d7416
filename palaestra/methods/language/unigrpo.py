"""UniGRPO (MMaDA, Yang et al., arXiv 2505.15809): group-relative policy gradients for masked-diffusion language models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.method import Metrics, Paper
from palaestra.language.diffusion.policy import DiffusionLanguagePolicy
from palaestra.language.sample import Sample
from palaestra.methods.language.batch import Batch, without_advantage
from palaestra.methods.language.clipped_surrogate import ClippedSurrogate, over_tokens
from palaestra.methods.language.filling import Filling
from palaestra.nets.gradient import Outputs
from palaestra.objectives.masked_diffusion import EPSILON, KL, TIMESTEPS, random_mask, structured_timesteps, unigrpo
from palaestra.objectives.segments import group_advantages

PROMPT_MASKING = 0.15
"""Share of the prompt that d1 masks (Zhao et al., arXiv 2504.12216)."""

PREVIOUS = "previous"
"""The `reference` that is the policy which answered."""


@dataclass
class Views(Batch):
    """A round's answers as each pass over them sees them: with other tokens masked."""

    views: list[Batch]


@dataclass
class UniGRPO(Filling, ClippedSurrogate):
    """GRPO on the log-likelihood of an answer's masked tokens given those shown, as filled-in answers have no chain rule.

    Each of the `epochs` passes over a round masks other tokens, by shares that are spread evenly."""

    paper: ClassVar[Paper] = Paper("MMaDA: Multimodal Large Diffusion Language Models", 2025, "2505.15809")
    summary: ClassVar[str] = "GRPO for masked-diffusion language models, texts and images alike"
    ignores_sampling: ClassVar[bool] = True

    epochs: int = 4
    """Passes over a round's answers, mu, each with masks of its own."""
    temperature: float = 1.0
    """Of sampling; what is learnt from are log-probabilities at temperature 1."""
    masking: Literal["structured", "random", "d1"] = "structured"
    """Shares of masked tokens: spread evenly over the passes from a random start, drawn anew in each, or all of the answer and
    some of the prompt (d1's)."""
    mask_range: tuple[float, float] = (0.0, 1.0)
    """Between which shares are drawn where masking is random; 0.1 to 0.9 in the released code."""
    clip: float = 0.2
    """Epsilon of the clipped ratio."""
    kl_weight: float = 0.01
    """Weight of the divergence from the reference."""
    kl: KL = "sequence"
    """The divergence of an answer: of its mean log-probability, or of masked tokens, summed (released code) or averaged."""
    reference: str = ""
    """The reference: a model's name, its folder, or soup:FOLDER,FOLDER; by default the model that training began with; previous
    is the one that answered, as in the released code."""

    def check(self) -> None:
        super().check()
        require(self.group > 1, "group = 1 has nothing to compare with; give 2 or more")
        require(0 < self.clip < 1, f"clip must be between 0 and 1, got {self.clip}")
        low, high = self.mask_range
        require(0 <= low < high <= 1, f"mask_range must rise within [0, 1], got {low} to {high}")

    def make_policy(self) -> DiffusionLanguagePolicy:
        room = self.max_tokens or self.task.max_tokens
        return self.filling_policy(self.task, self.adapter, self.adapter_alpha, room)

    @classmethod
    def as_now(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What the divergence is from was once called the anchor."""
        found = dict(settings)
        if found.pop("anchor", None) == PREVIOUS:
            found["reference"] = PREVIOUS
        return found

    @property
    def refers(self) -> bool:
        return super().refers and self.reference != PREVIOUS

    def advantages(self, rewards: Tensor, group: Tensor) -> Tensor:
        return group_advantages(rewards, group)

    def learnable(self, samples: list[Sample], rewards: Tensor, group: Tensor) -> Batch:
        """What each pass is to learn from: masks, and log-probabilities under them of the policies that it is compared with."""
        advantage = self.advantages(rewards, group)
        whole = Batch([self.laid_out(s, i, a) for i, (s, a) in enumerate(zip(samples, advantage, strict=True))])
        views = []
        for view in self.masked(whole):
            view = view.replace(logp=self.scored(self.language_policy, view))
            if self.anchor is not None:
                view = view.replace(ref_logp=self.scored(self.anchor.policy, view))
            views.append(view)
        return Views(whole.parts, views)

    def laid_out(self, sample: Sample, number: int, advantage: Tensor) -> Experience:
        """An answer in its place; what stands behind its end stays masked, and does not count."""
        room = self.language_policy.place(sample.row, self.max_tokens or self.task.max_tokens)
        rest = room - len(sample.completion)
        ids = torch.cat([sample.ids, torch.full((rest,), self.language_policy.mask_id)])
        return Experience(
            action=ids,
            mask=torch.cat([sample.mask, torch.zeros(rest, dtype=torch.bool)]),
            time=torch.arange(len(ids)) - sample.prompt,
            segment=torch.full((len(ids),), number),
            group=torch.full((len(ids),), sample.group),
            advantage=advantage.expand(len(ids)),
        )

    def masked(self, batch: Batch) -> Iterator[Batch]:
        """The answers of a round as each pass sees them, `mask` being what is masked and counts."""
        ids, counts, time = (
            pad_sequence([getattr(part, name) for part in batch.parts], batch_first=True)
            for name in ("action", "mask", "time")
        )
        lengths = [len(part) for part in batch.parts]
        rows, generator = len(batch), self.streams.generator("masks", self.round)
        start = torch.randint(TIMESTEPS, (rows,), generator=generator).float()
        shares = structured_timesteps(start, self.epochs) / TIMESTEPS
        for epoch in range(self.epochs):
            each = torch.rand(ids.shape, generator=generator)
            drawn, first = torch.rand(2, rows, generator=generator)
            if self.masking == "d1":
                mask, hidden = counts, (time < 0) & (each < PROMPT_MASKING)
            else:
                low, high = self.mask_range
                share = shares[:, epoch] if self.masking == "structured" else low + (high - low) * drawn
                mask = random_mask(counts, share.clamp(min=EPSILON), first, each)
                hidden = torch.zeros_like(mask)
            shown = ids.masked_fill(mask | hidden, self.language_policy.mask_id)
            yield batch.replace(
                obs=[shown[i, :n] for i, n in enumerate(lengths)], mask=[mask[i, :n] for i, n in enumerate(lengths)]
            )

    def minibatches_of(self, batch: Batch, epoch: int) -> Iterator[Batch]:
        assert isinstance(batch, Views)
        yield from super().minibatches_of(batch.views[epoch], epoch)

    def update(self, batch: Batch) -> Metrics:
        parts = batch.micro(self.micro_tokens, None if self.kl_weight else without_advantage)
        return self.descend(partial(self.loss, rows=len(batch)), parts)

    def loss(self, batch: Experience, rows: int) -> tuple[Tensor, Outputs]:
        """The clipped surrogate, and the divergence from the reference, of some of a minibatch's `rows` answers."""
        scored = self.language_policy.score(batch)
        chosen = batch.mask.bool()
        ids, logp, old_logp, advantage, entropy = (
            x[chosen] for x in (batch.action, scored.logp, batch.logp, batch.advantage, scored.entropy)
        )
        segment = torch.unique_consecutive(batch.segment[chosen], return_inverse=True)[1]
        anchor = None
        if self.kl_weight:
            anchor = (batch.logp if batch.ref_logp is None else batch.ref_logp)[chosen]
        loss, ratio, divergence = unigrpo(
            logp,
            old_logp,
            advantage,
            segment,
            rows,
            self.clip,
            kl_weight=self.kl_weight,
            anchor_logp=anchor,
            kl=self.kl,
        )
        outputs = {"loss/policy": loss, **over_tokens(ids, ratio, advantage, (self.clip, self.clip), entropy)}
        return loss, outputs if anchor is None else {**outputs, "loss/kl": divergence}
