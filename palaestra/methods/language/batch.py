"""Batches of answers as packed token sequences, and the metrics of a gradient step in several passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from palaestra.core.experience import Experience
from palaestra.core.method import Metrics
from palaestra.core.world import world
from palaestra.language.packing import bins, in_packs
from palaestra.language.sample import Sample
from palaestra.nets.gradient import Outputs


@dataclass
class Batch:
    """Answers as packed steps, one `Experience` each."""

    parts: list[Experience]

    @staticmethod
    def of(samples: Sequence[Sample]) -> Batch:
        """A batch of samples, of which the tokens count that the policy chose."""
        return Batch(
            [
                Experience(
                    action=s.ids, mask=s.mask, segment=torch.full((len(s),), i), group=torch.full((len(s),), s.group)
                )
                for i, s in enumerate(samples)
            ]
        )

    def __len__(self) -> int:
        return len(self.parts)

    def take(self, index: Sequence[int]) -> Batch:
        return Batch([self.parts[i] for i in index])

    def of_answers(self, name: str) -> Tensor:
        """A field that is the same for all tokens of an answer, as one value for each answer, `(n,)`."""
        return torch.stack([getattr(part, name)[0] for part in self.parts])

    def total(self, name: str) -> Tensor:
        """The sum of a field over the tokens of each answer that count, `(n,)`; of `mask` itself, how many those are."""
        return torch.stack([(getattr(part, name) * part.mask).sum() for part in self.parts])

    def replace(self, **fields: Sequence[Tensor]) -> Batch:
        """A copy with some fields set, given as one tensor `(L,)` for each answer."""
        columns = zip(*fields.values(), strict=True)
        return Batch(
            [
                part.replace(**dict(zip(fields, values, strict=True)))
                for part, values in zip(self.parts, columns, strict=True)
            ]
        )

    def spread(self, **values: Tensor) -> Batch:
        """A copy with some fields set, given as one value for each answer, `(n,)`, which is that of all its tokens."""
        fields = {
            name: [x.expand(len(part)) for x, part in zip(of, self.parts, strict=True)] for name, of in values.items()
        }
        return self.replace(**fields)

    def with_weights(self, weigh: Callable[[Tensor, Tensor], Tensor]) -> Batch:
        """A copy whose tokens are weighed by `weigh(mask, segment)` of all answers together, times the weights they have."""
        lengths = [len(part) for part in self.parts]
        segment = torch.arange(len(self.parts)).repeat_interleave(torch.tensor(lengths))
        weight = weigh(torch.cat([part.mask for part in self.parts]), segment)
        if self.parts and self.parts[0].weight is not None:
            weight = weight * torch.cat([part.weight for part in self.parts])
        return self.replace(weight=weight.split(lengths))

    def each(self, measure: Callable[[Experience], Tensor], tokens: int) -> list[Tensor]:
        """`measure` of every token, `(L,)` for each answer, in passes of at most `tokens` tokens."""
        return in_packs(self.parts, measure, tokens)

    def micro(self, tokens: int, needless: Callable[[Experience], bool] | None = None) -> list[Experience]:
        """Pieces of at most `tokens` tokens, answers of similar length together; those that are `needless`, or of which no token
        counts, left out."""
        counted = [part for part in self.parts if bool(part.mask.any())]
        kept = [part for part in counted if needless is None or not needless(part)]
        groups = bins([len(part) for part in kept], tokens, world().size)
        return [Experience.cat([kept[i] for i in group]) for group in groups]


def without_advantage(part: Experience) -> bool:
    """Whether all advantages of an answer are 0, so that it has no policy gradient."""
    return not bool(part.advantage.any())


def log_ratios(batch: Batch) -> Tensor:
    """log pi / pi_ref of each answer, in nats, over the tokens that count, `(n,)`."""
    return torch.stack([((part.logp - part.ref_logp) * part.mask).sum() for part in batch.parts])


def mean_log_ratio(batch: Batch) -> Tensor:
    """The mean over answers of log pi / pi_ref, in nats: of sampled answers, an estimate of the KL divergence from the reference.
    Answers of which no token counts are left out."""
    counted = [part for part in batch.parts if bool(part.mask.any())]
    return log_ratios(Batch(counted)).mean() if counted else torch.zeros(())


def over_passes(found: list[Outputs]) -> Metrics:
    """The metrics of one gradient step from the outputs of its passes: losses add up; anything else is a sum over tokens, and
    becomes a mean over those of the passes that have it."""

    def as_one(name: str) -> Tensor:
        own = [outputs for outputs in found if name in outputs]
        total, tokens = (torch.stack([outputs[key] for outputs in own]).sum() for key in (name, "tokens"))
        return total if name.startswith("loss/") else total / tokens

    return {name: as_one(name) for name in dict.fromkeys(n for outputs in found for n in outputs) if name != "tokens"}
