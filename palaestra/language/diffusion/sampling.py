"""Filling in masked tokens: text block by block, keeping what the model is surest of; images all over, on a cosine schedule.

As in LLaDA (Nie et al., arXiv 2502.09992) and MaskGIT (Chang et al. 2022), in MMaDA's form (Yang et al., arXiv 2505.15809). All
noise of a sequence comes from its own seed, so that what it becomes does not depend on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.hints import NonNegativeFloat, PositiveInt, check_ranges
from palaestra.language.generation.sampling import Sampling, cut

Predict = Callable[[Tensor, slice], Tensor]
"""Logits `(B, l, V)` of tokens `(B, L)` at a slice of their positions."""


@dataclass(frozen=True)
class Unmasking:
    """How answers are filled in."""

    steps: PositiveInt | None = None
    """Passes over a text, the same number in each block; by default one for every two tokens."""
    block: PositiveInt | None = None
    """Tokens of a block of text; blocks are filled from left to right. By default the whole answer is one."""
    guidance: NonNegativeFloat = 0.0
    """w of l_u + (w + 1) (l_c - l_u), with the logits l_u of a masked prompt; for text."""
    image_steps: PositiveInt = 18
    """Passes over an image."""
    image_guidance: NonNegativeFloat = 0.0
    """The same w for images; 3.5 to 5 is usual, for models that were trained with dropped captions."""
    image_temperature: NonNegativeFloat = 1.0
    """Of the noise on confidences, which falls to 0 over the passes of an image."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def plan(self, length: int) -> tuple[int, int]:
        """The tokens and the passes of a block, for answers of `length` tokens.

        Raises:
            BadSetting: the length is not a number of whole blocks, or the passes cannot be shared out evenly among them.
        """
        block = self.block or length
        require(
            length % block == 0, f"an answer of {length} tokens is not made of blocks of {block}; change one of them"
        )
        blocks = length // block
        steps = blocks * math.ceil(block / 2) if self.steps is None else self.steps
        require(steps % blocks == 0, f"{steps} steps cannot be shared out among {blocks} blocks; give a multiple")
        require(
            steps // blocks <= block, f"{steps // blocks} steps are more than the {block} tokens of a block, one a step"
        )
        return block, steps // blocks


class Filled(NamedTuple):
    """What masked positions became."""

    ids: Tensor  # (B, L)
    logp: Tensor  # (B, L) log-probability of each filled token at temperature 1 when it was kept; 0 elsewhere
    sampled_logp: Tensor  # (B, L) the same under the distribution it was drawn from

    @staticmethod
    def of(ids: Tensor) -> Filled:
        """A copy of ids of which none has been filled in yet."""
        return Filled(ids.clone(), *(torch.zeros(ids.shape, device=ids.device) for _ in range(2)))

    def write(self, part: slice, keep: Tensor, *chosen: Tensor) -> None:
        """Take over what was chosen at a slice of positions, three tensors `(B, l)`, where `keep` `(B, l)` says so."""
        for mine, new in zip(self, chosen, strict=True):
            mine[:, part] = torch.where(keep, new, mine[:, part])


def transfer_counts(count: int, steps: int) -> list[int]:
    """How many of `count` tokens each step keeps: an even split, the remainder to the first steps. 10 in 4: 3, 3, 2, 2."""
    return [count // steps + (step < count % steps) for step in range(steps)]


def still_masked(count: int, unknown: int, step: int, steps: int) -> int:
    """Of an image's `count` tokens, `unknown` of them masked, how many are masked after step s: floor(count cos(pi/2 (s+1)/S)).

    At least one is kept in each step, and one left but in the last."""
    if step + 1 == steps:
        return 0
    return min(max(1, math.floor(count * math.cos(math.pi / 2 * (step + 1) / steps))), unknown - 1)


def gumbel(shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> Tensor:
    """Standard Gumbel noise `(B, *shape)` in float64, since single precision changes what is sampled (Zheng et al. 2024); each
    row from its own generator."""
    uniform = torch.stack([torch.rand(shape, generator=g, dtype=torch.float64) for g in generators])
    return -torch.log(-torch.log(uniform.clamp(min=1e-300)))


def generators_of(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@torch.no_grad()
def fill_text(
    predict: Predict,
    ids: Tensor,
    start: int,
    mask_id: int,
    forbidden: Tensor,
    seeds: Sequence[int],
    sampling: Sampling,
    unmasking: Unmasking,
    end_ids: Sequence[int] = (),
) -> Filled:
    """Fill in what is masked in `ids[:, start:]`, block by block (MMaDA's semi-autoregressive sampling).

    Each pass predicts all masked tokens of the block, by Gumbel noise if the temperature is above 0, and keeps those that the
    noiseless softmax is surest of. `forbidden` `(V,)` are never chosen, [MASK] among them. Where all rows have one of `end_ids`
    in finished blocks, what follows is left masked: nobody reads it.
    """
    block, steps = unmasking.plan(ids.shape[1] - start)
    filled, generators = Filled.of(ids), generators_of(seeds)
    ids = filled.ids
    ends = torch.tensor(list(end_ids), device=ids.device)
    for left in range(start, ids.shape[1], block):
        part = slice(left, left + block)
        todo = (ids[:, part] == mask_id).sum(-1)
        plan = torch.tensor([transfer_counts(n, steps) for n in todo.tolist()], device=ids.device)
        for step in range(steps):
            masked = ids[:, part] == mask_id
            logits = predict(ids, part).float().masked_fill(forbidden, -torch.inf)
            noise = None if sampling.greedy else gumbel((block, logits.shape[-1]), generators).to(ids.device)
            token, chance, drawn = chosen(logits, noise, sampling)
            keep = surest(chance.masked_fill(~masked, -torch.inf), plan[:, step]) & masked
            filled.write(part, keep, token, chance, drawn)
        if len(ends) and bool(torch.isin(ids[:, start : left + block], ends).any(-1).all()):
            break
    return filled


@torch.no_grad()
def fill_image(
    predict: Predict,
    ids: Tensor,
    start: int,
    mask_id: int,
    forbidden: Tensor,
    seeds: Sequence[int],
    sampling: Sampling,
    unmasking: Unmasking,
) -> Filled:
    """Fill in what is masked in `ids[:, start:]` all over, on a cosine schedule (MaskGIT's parallel decoding).

    Each pass predicts every masked token and masks those again whose log-confidence, with noise that falls to 0, is lowest.
    `forbidden` `(V,)` is whatever is no image code.
    """
    filled, generators, steps = Filled.of(ids), generators_of(seeds), unmasking.image_steps
    ids = filled.ids
    part, count = slice(start, ids.shape[1]), ids.shape[1] - start
    for step in range(steps):
        masked = ids[:, part] == mask_id
        unknown = masked.sum(-1)
        if not bool(unknown.any()):
            break
        logits = predict(ids, part).float().masked_fill(forbidden, -torch.inf)
        noise = None if sampling.greedy else gumbel((count, logits.shape[-1] + 1), generators).to(ids.device)
        token, chance, drawn = chosen(logits, None if noise is None else noise[..., 1:], sampling)
        confidence = chance.double()
        if noise is not None:
            confidence = confidence + unmasking.image_temperature * (1 - (step + 1) / steps) * noise[..., 0]
        left = [still_masked(count, n, step, steps) for n in unknown.tolist()]
        kept = unknown - torch.tensor(left, device=ids.device)
        keep = surest(confidence.masked_fill(~masked, -torch.inf), kept) & masked
        filled.write(part, keep, token, chance, drawn)
    return filled


def chosen(logits: Tensor, noise: Tensor | None, sampling: Sampling) -> tuple[Tensor, Tensor, Tensor]:
    """A token at each position of `logits` `(..., V)`, its log-probability at temperature 1, and under what it was drawn from.

    `noise` `(..., V)` is standard Gumbel; without it, the most likely token.
    """
    plain = logits.log_softmax(-1)
    if noise is None:
        chance, token = plain.max(-1)
        return token, chance, torch.zeros_like(chance)
    drawn = plain if sampling.temperature == 1 else (logits / sampling.temperature).log_softmax(-1)
    if sampling.cuts:
        drawn = cut(drawn.flatten(0, -2).exp(), sampling).log().view_as(drawn)
    token = (drawn.double() + noise).argmax(-1, keepdim=True)
    return token.squeeze(-1), plain.gather(-1, token).squeeze(-1), drawn.gather(-1, token).squeeze(-1)


def surest(confidence: Tensor, count: Tensor) -> Tensor:
    """The `count` `(B,)` positions of highest confidence `(B, L)`, as `(B, L)` bool; of equals, the first."""
    rank = confidence.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return rank < count.unsqueeze(-1)
