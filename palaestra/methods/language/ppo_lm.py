"""PPO for language models (Schulman et al., arXiv 1707.06347; as in Ouyang et al., 2203.02155): with a critic of tokens."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.hints import PositiveFloat, UnitInterval
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.language.critic import Critic
from palaestra.language.packing import layers_of
from palaestra.language.sample import Sample
from palaestra.methods.language.batch import Batch, over_passes
from palaestra.methods.language.grpo import GRPO, at_chosen
from palaestra.methods.language.rounds import KLIn
from palaestra.nets.adam import Adam
from palaestra.nets.gradient import Outputs
from palaestra.nets.shards import shard
from palaestra.objectives.policy import mean
from palaestra.objectives.returns import gae
from palaestra.objectives.segments import Average, Centre, Scale, step_weights
from palaestra.objectives.value import clipped_value

OFF = {
    "critic_rounds": 0,
    "ptx_weight": 0.0,
    "ptx_data": "",
    "entropy_weight": 0.0,
    "entropy_level": 0.0,
    "ratio_to": "behaviour",
}
"""Settings that only `ppo-max` has now, with the values that switch them off."""


@dataclass
class PPOLM(GRPO):
    """Clipped surrogate with generalised advantage estimation over tokens; an answer's reward comes with its last token."""

    paper: ClassVar[Paper] = Paper("Proximal Policy Optimization Algorithms", 2017, "1707.06347")
    summary: ClassVar[str] = "PPO with a critic of tokens"
    kl_in: ClassVar[KLIn] = "tokens"

    group: int = 1
    prompts: int = 128
    centre: Centre = "none"
    """Baseline of the rewards before they are given; none, since the critic is one."""
    scale: Scale = "none"
    """What rewards are divided by before they are given."""
    average: Average = "token-mean"
    lam: UnitInterval = 0.95
    """Lambda of generalised advantage estimation; nothing is discounted."""
    value_lr: PositiveFloat = 1e-3
    """Adam's learning rate for the critic; it rises and falls with the policy's."""
    value_average: Average = "token-mean"
    """How the critic's loss averages over tokens; sequence-mean in 2404.18922 and its code."""
    value_clip: PositiveFloat | None = None
    """How far a value may move from what it was when the round began, in the critic's clipped loss; None clips nothing."""
    critic_from: Literal["policy", "reward-model"] = "policy"
    """What the critic begins as: the policy's body with a head of zeros, or the reward model."""
    endless: float | None = None
    """Reward of answers that the limit cut off, in place of their own; -10 in 2406.09279. None keeps their own."""
    standardise: bool = True

    def check(self) -> None:
        super().check()
        modelled = self.critic_from == "policy" or bool(self.reward_model)
        require(modelled, "there is no reward model for the critic to begin as; give reward_model")
        if self.reward_scale != "none" and self.standardise and self.value_clip is not None:
            warnings.warn(
                "rewards on a scale, standardised advantages and clipped values work against each other (2307.04964, B.1); "
                "leave one of reward_scale, standardise and value_clip out",
                stacklevel=2,
            )

    @classmethod
    def as_now(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What `ppo-max` alone has was once a setting of all PPO, and is left out where it was off."""
        own = cls.defaults()
        return {name: x for name, x in settings.items() if name in own or (name, x) not in OFF.items()}

    def setup(self, task: Task) -> None:
        super().setup(task)
        begun = self.proxy.policy if self.proxy is not None and self.critic_from == "reward-model" else None
        self.critic = Critic(self.language_policy, begun)  # type: ignore[arg-type]
        self.value_optimiser = Adam(self.critic.parameters(), self.value_lr, max_grad_norm=self.max_grad_norm)

    def shard(self) -> None:
        super().shard()
        shard(self.critic, layers_of(self.critic.body))
        self.value_optimiser.shard(self.critic.parameters())

    def judged(self, samples: list[Sample]) -> list[Sample]:
        scored = super().judged(samples)
        for sample in scored:
            if sample.truncated and self.endless is not None:
                sample.reward = self.endless
        return scored

    def credited(self, batch: Batch, rewards: Tensor, group: Tensor) -> Batch:
        rewards = self.advantages(rewards, group)
        with torch.no_grad():
            value = batch.each(self.critic, self.micro_tokens)
        chosen = [part.mask.bool() for part in batch.parts]
        steps = [v[c] for v, c in zip(value, chosen, strict=True)]
        reward = [self.token_rewards(part, given) for part, given in zip(batch.parts, rewards, strict=True)]
        advantage = answer_advantages(reward, steps, self.lam)
        target = [a + v for a, v in zip(advantage, steps, strict=True)]
        placed = [[at_chosen(x, c) for x, c in zip(each, chosen, strict=True)] for each in (advantage, target)]
        return self.whitened(batch.replace(value=value, advantage=placed[0], target=placed[1]))

    def token_rewards(self, part: Experience, reward: Tensor) -> Tensor:
        """The rewards of an answer's chosen tokens `(T,)`: their own, if they have any, divergence from the reference, and the
        answer's own with the last."""
        chosen = part.mask.bool()
        rewards = torch.zeros(int(part.mask.sum()))
        if part.reward is not None:
            rewards += part.reward[chosen]
        if part.ref_logp is not None:
            rewards -= self.kl_weight * (part.logp - part.ref_logp)[chosen]
        rewards[-1:] += reward
        return rewards

    def update(self, batch: Batch) -> Metrics:
        return super().update(batch) | self.valued(batch)

    def valued(self, batch: Batch) -> Metrics:
        """One gradient step of the critic on a minibatch."""
        limit = self.max_tokens or self.task.max_tokens
        weighed = batch.with_weights(lambda mask, segment: step_weights(mask, segment, self.value_average, limit))
        parts = weighed.micro(self.micro_tokens)
        self.value_optimiser.lr = self.value_lr * (self.optimiser.lr / self.lr)
        return over_passes(self.value_optimiser.accumulate(self.value_loss, parts)) if parts else {}

    def value_loss(self, batch: Experience) -> tuple[Tensor, Outputs]:
        """Half the squared error of the critic over some packed answers."""
        value = self.critic(batch)
        error = value - batch.target
        if self.value_clip is None:
            loss = 0.5 * (error.square() * batch.weight).sum()
        else:
            loss = clipped_value(value, batch.value, batch.target, self.value_clip, batch.weight)
        variance = batch.target[batch.mask.bool()].var(correction=0).clamp(min=1e-8)
        unexplained = mean(error.detach().square(), batch.mask.float()) / variance
        tokens = batch.mask.sum().float()
        return loss, {"loss/value": loss, "tokens": tokens, "value/explained_variance": (1 - unexplained) * tokens}


def answer_advantages(rewards: list[Tensor], values: list[Tensor], lam: float) -> list[Tensor]:
    """Generalised advantages of answers, `(T_i,)` each; nothing is discounted, and each ends at its last token."""
    lengths = torch.tensor([len(r) for r in rewards])
    reward, value = pad_sequence(rewards), pad_sequence(values)  # (T, n)
    row = torch.arange(len(reward)).unsqueeze(1)
    ended = (row >= lengths - 1).float()
    next_value = torch.cat([value[1:], torch.zeros(1, len(rewards))])
    advantage = gae(reward, value, next_value, ended, torch.zeros_like(ended), 1.0, lam)
    return [advantage[:n, i] for i, n in enumerate(lengths.tolist())]
