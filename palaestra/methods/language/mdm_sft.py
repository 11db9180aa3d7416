"""Supervised fine-tuning of masked-diffusion language models, texts and images alike (MMaDA, Yang et al., arXiv 2505.15809)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from palaestra.core.errors import BadDataset, require
from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeFloat, PositiveInt
from palaestra.core.method import Paper
from palaestra.language.diffusion.policy import IMAGE, DiffusionLanguagePolicy
from palaestra.language.judges.judge import shown
from palaestra.language.preferences import cut_off
from palaestra.language.rows import Row, shown_prompt
from palaestra.methods.language.batch import Batch
from palaestra.methods.language.filling import Filling
from palaestra.methods.language.sft import SFT
from palaestra.nets.gradient import Outputs
from palaestra.objectives.masked_diffusion import image_mask, mask_probability, random_mask, unified_weights


class Layout(NamedTuple):
    """A row as tokens."""

    ids: Tensor  # (L,)
    prompt: int  # how many ids the prompt has
    end: int  # where what is learnt ends
    image: bool  # whether that is an image


@dataclass
class MDMSFT(Filling, SFT):
    """A random share of each completion is masked, and the masked tokens are predicted.

    Completions with thoughts before results make this the paper's mixed long-CoT fine-tuning; captions and images, its joint
    training. Texts are padded to their place with end tokens, so that lengths are learnt too.
    """

    paper: ClassVar[Paper] = Paper("MMaDA: Multimodal Large Diffusion Language Models", 2025, "2505.15809")
    summary: ClassVar[str] = "masked-diffusion fine-tuning on good answers, texts and images alike"

    max_tokens: PositiveInt | None = None
    """Tokens of the place for a text; by default as many as the task allows."""
    text_weight: NonNegativeFloat = 0.5
    """Weight of rows that are answered with text."""
    image_weight: NonNegativeFloat = 1.0
    """Weight of rows that are answered with an image."""
    image_masking: Literal["unified", "cosine"] = "unified"
    """How images are masked: as texts are, or by the released code's cosine schedule with all masked tokens alike."""
    drop_caption: float = 0.1
    """Share of an image's prompts that are masked, without which there is no guidance of images."""

    def check(self) -> None:
        super().check()
        require(0 <= self.drop_caption < 1, f"drop_caption is a share below 1, got {self.drop_caption}")

    def make_policy(self) -> DiffusionLanguagePolicy:
        self.room = self.max_tokens or self.task.max_tokens
        return self.filling_policy(self.task, self.adapter, self.adapter_alpha, self.room)

    def batch_of(self, rows: Sequence[Row]) -> Batch:
        return self.corrupted([self.laid_out(row) for row in rows])

    def laid_out(self, row: Row) -> Layout:
        """A row as tokens, its place filled up: with ends, or behind what was cut off and has no end with masks.

        Raises:
            BadDataset: the answer has no place in so many tokens.
        """
        policy = self.language_policy
        prompt, answer = policy.prompt_ids(row["prompt"]), policy.completion_ids(row["completion"])
        if row.get("modality") == IMAGE:  # of a length of its own, without an end
            answer, wanted = answer[:-1], policy.place(row, 0)
            require(
                len(answer) == wanted, f"images have {wanted} tokens, but one of {self.task.name} has {len(answer)}"
            )
            ids = policy.fitting(prompt, answer)
            return Layout(ids, len(prompt), len(ids), True)
        cut = cut_off(row)
        answer, last = (answer[:-1], policy.mask_id) if cut else (answer, int(answer[-1]))
        if len(answer) > self.room:
            asked, said = (shown(text, 40) for text in (shown_prompt(row["prompt"]), row["completion"]))
            raise BadDataset(
                f"the answer {said} to {asked} needs {len(answer)} tokens{'' if cut else ' with its end'}, but its place has "
                f"{self.room}; raise max_tokens, shorten it, or leave the row out"
            )
        filler = torch.full((self.room - len(answer),), last)
        ids = policy.fitting(prompt, torch.cat([answer, filler]))
        return Layout(ids, len(prompt), len(prompt) + len(answer) if cut else len(ids), False)

    def corrupted(self, rows: list[Layout]) -> Batch:
        """The rows with some tokens of each answer masked, and what each of those weighs."""
        lengths = torch.tensor([len(row.ids) for row in rows])
        place = torch.arange(int(lengths.max()))
        prompt, image = torch.tensor([row.prompt for row in rows]), torch.tensor([row.image for row in rows])
        end = torch.tensor([row.end for row in rows])
        eligible = (place >= prompt.unsqueeze(1)) & (place < end.unsqueeze(1))
        generator = self.streams.generator("masks", self.counters.updates)
        t, first, dropped = torch.rand(3, len(rows), generator=generator)
        each = torch.rand(eligible.shape, generator=generator)
        p = mask_probability(t)
        mask = random_mask(eligible, p, first, each)
        weight = unified_weights(mask, eligible, p) / max(1, int((~image).sum()))
        if self.image_masking == "cosine":
            masked = image_mask(eligible, t, each)
            mask = torch.where(image.unsqueeze(1), masked, mask)
            alike = masked.float() / max(1, int(masked[image].sum()))
        else:
            alike = weight * max(1, int((~image).sum())) / max(1, int(image.sum()))
        weight = torch.where(image.unsqueeze(1), self.image_weight * alike, self.text_weight * weight)
        blind = (image & (dropped < self.drop_caption)).unsqueeze(1) & (place < prompt.unsqueeze(1))
        ids = pad_sequence([row.ids for row in rows], batch_first=True)
        shown = ids.masked_fill(mask | blind, self.language_policy.mask_id)
        return Batch(
            [
                Experience(
                    obs=shown[i, :n],
                    action=ids[i, :n],
                    mask=mask[i, :n],
                    weight=weight[i, :n],
                    segment=torch.full((n,), i),
                )
                for i, n in enumerate(lengths.tolist())
            ]
        )

    def loss(self, batch: Experience) -> tuple[Tensor, Outputs]:
        """The weighed negative log-likelihood of what is masked in some packed rows."""
        scored = self.language_policy.score(batch)
        chosen = batch.mask.bool()
        loss = -(scored.logp * batch.weight).sum()
        tokens = chosen.sum().float()
        return loss, {"loss/policy": loss, "tokens": tokens, "policy/entropy": scored.entropy[chosen].sum()}
