"""PPO-max (Zheng et al., arXiv 2307.04964): what of PPO's details keeps learning from a reward model stable.

With PPO's own settings, every switch of "Secrets of RLHF, Part I".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from palaestra.core.errors import Unsupported, require
from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeFloat, NonNegativeInt, PositiveFloat
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.language.generation.decoder import positions
from palaestra.language.generation.sampling import Sampling
from palaestra.language.packing import in_packs
from palaestra.language.plain_text import PlainText
from palaestra.language.preferences import cut_off
from palaestra.language.rows import Row
from palaestra.methods.language.batch import Batch
from palaestra.methods.language.grpo import RewardScale
from palaestra.methods.language.language import Schedule
from palaestra.methods.language.ppo_lm import PPOLM
from palaestra.nets.gradient import Outputs
from palaestra.objectives.segments import step_weights


@dataclass
class PPOMax(PPOLM):
    """PPO with rewards that are standardised and clipped, a KL penalty per token, a clipped value loss, a critic that is trained
    alone at first, and a likelihood loss of demonstrations (PPO-ptx)."""

    paper: ClassVar[Paper] = Paper("Secrets of RLHF in Large Language Models Part I: PPO", 2023, "2307.04964")
    summary: ClassVar[str] = "PPO with running reward scales, token divergence, a clipped critic and demonstrations"
    family: ClassVar[str] = "preference"

    model: str = "sft:tiny-64x2"
    repetition_penalty: PositiveFloat = 1.0
    """Makes tokens that the prompt or the answer already has less likely when answers are sampled; 1 for none."""
    minibatches: int = 4
    kl_weight: float = 0.05
    """Weight of the divergence from the reference, on the scale of the standardised rewards."""
    reward_scale: RewardScale = "standardise"
    reward_clip: float | None = 0.8
    value_clip: float | None = 0.2
    critic_rounds: NonNegativeInt = 5
    """Rounds at the beginning in which the critic alone learns."""
    standardise: bool = False
    ptx_weight: NonNegativeFloat = 0.1
    """Weight of the likelihood of rows' completions, of which a gradient step takes as many as it has answers."""
    ptx_data: str = ""
    """Plain text for that loss, in place of completions: rows with a column text, by their file, folder or name."""
    entropy_weight: NonNegativeFloat = 0.0
    """Weight of the distance of the mean entropy of tokens from `entropy_level`."""
    entropy_level: float = 0.0
    """Target of the mean entropy of tokens, in nats."""
    ratio_to: Literal["behaviour", "reference"] = "behaviour"
    """Denominator of the ratios: the policy that gave the answers, or the reference, which is no importance sampling."""

    def check(self) -> None:
        super().check()
        require(self.ptx_weight > 0 or not self.ptx_data, f"{self.ptx_data} weighs nothing; give a ptx_weight above 0")

    def check_task(self, task: Task) -> None:
        super().check_task(task)
        if self.ptx_data:
            PlainText(self.ptx_data)
        elif self.ptx_weight and "completion" not in task.rows("train")[0]:  # type: ignore[attr-defined]
            raise Unsupported(f"the rows of {task.name} have no 'completion' to be likely; leave ptx_weight at 0")

    def setup(self, task: Task) -> None:
        alone, updates = self.critic_rounds * self.epochs * self.minibatches, self.budget.updates
        require(
            updates is None or updates > alone,
            f"in the first {alone} updates the critic learns alone (critic_rounds), and there are no more than {updates}",
        )
        super().setup(task)
        self.side: float | None = None
        """Which side of its level a minibatch's mean entropy is on, 1 or -1; None where its one pass can tell."""
        if self.ptx_data:
            self.texts = PlainText(self.ptx_data)

    @property
    def sampling(self) -> Sampling:
        return replace(super().sampling, repetition_penalty=self.repetition_penalty)

    @property
    def refers(self) -> bool:
        return True  # how far the policy has gone is watched in any case

    def update(self, batch: Batch) -> Metrics:
        return super().update(batch) if self.round >= self.critic_rounds else self.valued(batch)

    def passes(self, batch: Batch) -> list[Experience]:
        if self.ratio_to == "reference":
            batch = batch.replace(logp=[part.ref_logp for part in batch.parts])
        parts = super().passes(batch)
        if self.entropy_weight and self.entropy_level > 0:  # no entropy is below 0
            self.side = self.side_of(parts) if len(parts) > 1 else None
        return parts + (self.demonstrations(len(batch)) if self.ptx_weight else [])

    @property
    def holds_all(self) -> bool:
        return super().holds_all or self.entropy_weight > 0

    @torch.no_grad()
    def side_of(self, parts: list[Experience]) -> float:
        """Which side of its level the mean entropy of a minibatch is on, of which each pass has a part."""
        entropy = in_packs(
            parts, lambda part: self.language_policy.score(part, self.learning_temperature).entropy, self.micro_tokens
        )
        apart = [((x - self.entropy_level) * part.weight).sum() for x, part in zip(entropy, parts, strict=True)]
        return float(torch.stack(apart).sum().sign())

    def demonstrations(self, count: int) -> list[Experience]:
        """Some texts, or the completions of some rows, drawn anew for every gradient step, in parts for the loss."""
        rows = self.texts if self.ptx_data else self.task.rows("train")
        drawn = torch.randint(
            len(rows), (count,), generator=self.streams.generator("demonstrations", self.counters.updates)
        )
        parts = []
        for i, place in enumerate(drawn.tolist()):
            ids, mask = self.demonstrated(rows[place])
            parts.append(Experience(action=ids, mask=mask, segment=torch.full((len(ids),), i)))
        weighed = Batch(parts).with_weights(lambda mask, segment: step_weights(mask, segment, "token-mean"))
        return weighed.micro(self.micro_tokens)

    def demonstrated(self, shown: str | Row) -> tuple[Tensor, Tensor]:
        """A plain text, as much of it as one pass takes, or a row's completion behind its prompt: ids and which of them are to
        be likely, `(L,)` each."""
        policy = self.language_policy
        if isinstance(shown, str):
            longest = positions(policy.model) or self.micro_tokens
            ids = policy.completion_ids(shown)[:longest]
            return ids, torch.arange(len(ids)) > 0  # nothing says how likely a first token is
        return policy.with_answer(
            policy.prompt_ids(shown["prompt"], shown.get("tools")), shown["completion"], cut_off(shown)
        )

    def loss(self, batch: Experience) -> tuple[Tensor, Outputs]:
        if batch.advantage is not None:
            return super().loss(batch)
        likelihood = (self.language_policy.score(batch).logp * batch.weight).sum()
        return -self.ptx_weight * likelihood, {"loss/ptx": -likelihood, "tokens": batch.mask.sum().float()}

    def further(self, entropy: Tensor, weight: Tensor) -> Tensor | float:
        if not self.entropy_weight:
            return 0.0
        apart = ((entropy - self.entropy_level) * weight).sum()
        return self.entropy_weight * (apart.abs() if self.side is None else self.side * apart)

    def looked_back(self, batch: Batch, rewards: Tensor) -> Metrics:
        """What tells of a collapse before rewards do: perplexities of answers, and what the critic made of them."""
        logp, ref_logp, value, target = (
            torch.cat([getattr(part, name)[part.mask.bool()] for part in batch.parts])
            for name in ("logp", "ref_logp", "value", "target")
        )
        return {
            "answers/perplexity": (-logp.mean()).exp(),
            "answers/perplexity_reference": (-ref_logp.mean()).exp(),
            "value/mean": value.mean(),
            "value/target": target.mean(),
        }


@dataclass
class PPOMaxReleased(PPOMax):
    """What the released scripts switch on of it: rewards divided by their deviation, and clips of values and of ratios.

    How answers are sampled is no part of what they teach: both sides of a ratio are the model's own at temperature 1.
    """

    summary: ClassVar[str] = "PPO-max as its released scripts have it: rewards divided by their deviation"
    ignores_sampling: ClassVar[bool] = True

    temperature: float = 0.8
    """Of sampling alone; log-probabilities that are learnt from are at 1."""
    top_p: float = 0.9
    repetition_penalty: float = 1.1
    warmup: int = 100
    schedule: Schedule = "inverse-sqrt"
    kl_weight: float = 0.01
    """Weight of the divergence from the reference, on the scale of the rewards as divided."""
    reward_scale: RewardScale = "deviation"
    reward_clip: float | None = None
    critic_rounds: int = 0
    ptx_weight: float = 0.0
