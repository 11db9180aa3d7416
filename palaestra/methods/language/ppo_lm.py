"""PPO for language models (Schulman et al., arXiv 1707.06347; as in Ouyang et al., 2203.02155): a critic values every token."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from palaestra.core.errors import Unsupported, require
from palaestra.core.experience import Experience
from palaestra.core.method import Metrics, Paper
from palaestra.core.precision import passing
from palaestra.core.task import Task
from palaestra.language.packing import body, hidden_states, layers_of, layout_of
from palaestra.language.policy import LanguagePolicy
from palaestra.methods.language.grpo import GRPO
from palaestra.methods.language.rounds import Batch, over_passes
from palaestra.nets.adam import Adam
from palaestra.nets.gradient import Outputs
from palaestra.nets.split import split
from palaestra.objectives.policy import mean
from palaestra.objectives.returns import gae, standardise
from palaestra.objectives.segments import Average, Centre, Scale, step_weights


@dataclass
class PPOLM(GRPO):
    """Clipped surrogate with generalised advantages over tokens; the reward comes with the last one."""

    paper: ClassVar[Paper] = Paper("Proximal Policy Optimization Algorithms", 2017, "1707.06347")
    summary: ClassVar[str] = "PPO with a critic of tokens"
    kl_in_loss: ClassVar[bool] = False

    group: int = 1
    prompts: int = 128
    centre: Centre = "none"
    """What rewards are compared with before they are given; nothing, since the critic is the baseline."""
    scale: Scale = "none"
    """What rewards are divided by before they are given."""
    average: Average = "token-mean"
    lam: float = 0.95
    """Lambda of generalised advantage estimation; nothing is discounted."""
    value_lr: float = 1e-3
    """Adam's learning rate for the critic."""

    def check(self) -> None:
        super().check()
        require(0 <= self.lam <= 1, f"lam must be in [0, 1], got {self.lam}")
        require(self.value_lr > 0, f"value_lr must be positive, got {self.value_lr}")

    def setup(self, task: Task) -> None:
        super().setup(task)
        self.critic = Critic(self.language_policy)
        self.value_optimiser = Adam(self.critic.parameters(), self.value_lr, max_grad_norm=self.max_grad_norm)

    def spread(self) -> None:
        super().spread()
        split(self.critic, layers_of(self.critic.body))
        self.value_optimiser.share(self.critic.parameters())

    def credited(self, batch: Batch, rewards: Tensor, group: Tensor) -> Batch:
        with torch.no_grad():
            value = batch.each(self.critic, self.micro_tokens)
        chosen = [part.mask.bool() for part in batch.parts]
        steps = [v[c] for v, c in zip(value, chosen, strict=True)]
        reward = [
            self.token_rewards(part, given)
            for part, given in zip(batch.parts, self.advantages(rewards, group), strict=True)
        ]
        advantage = answer_advantages(reward, steps, self.lam)
        standard = standardise(torch.cat(advantage)).split([len(a) for a in advantage])
        target = [a + v for a, v in zip(advantage, steps, strict=True)]
        return batch.replace(
            advantage=[_spread(a, c) for a, c in zip(standard, chosen, strict=True)],
            target=[_spread(t, c) for t, c in zip(target, chosen, strict=True)],
        )

    def token_rewards(self, part: Experience, reward: Tensor) -> Tensor:
        """The rewards of an answer's chosen tokens `(T,)`: divergence from the reference, and the answer's own with the last."""
        rewards = torch.zeros(int(part.mask.sum()))
        if part.ref_logp is not None:
            rewards -= self.kl_weight * (part.logp - part.ref_logp)[part.mask.bool()]
        rewards[-1:] += reward
        return rewards

    def update(self, batch: Batch) -> Metrics:
        metrics = super().update(batch)
        weighed = batch.with_weights(lambda mask, segment: step_weights(mask, segment, "token-mean"))
        parts = weighed.micro(self.micro_tokens)
        return metrics | over_passes(self.value_optimiser.accumulate(self.value_loss, parts))

    def value_loss(self, batch: Experience) -> tuple[Tensor, Outputs]:
        """Half the squared error of the critic over some packed answers."""
        error = self.critic(batch) - batch.target
        loss = 0.5 * (error.square() * batch.weight).sum()
        spread = batch.target[batch.mask.bool()].var(correction=0).clamp(min=1e-8)
        unexplained = mean(error.detach().square(), batch.mask.float()) / spread
        tokens = batch.mask.sum().float()
        return loss, {"loss/value": loss, "tokens": tokens, "value/explained_variance": (1 - unexplained) * tokens}


class Critic(nn.Module):
    """A copy of the policy's body with one number on top: what is expected from here on, before each token is chosen."""

    def __init__(self, policy: LanguagePolicy):
        super().__init__()
        if not policy.packs:
            raise Unsupported("a critic needs a model that takes packed sequences, which this one does not")
        self.body: Any = copy.deepcopy(body(policy.model))
        self.body.requires_grad_(True)
        self.recompute = policy.recompute
        self.head = nn.Linear(policy.model.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Experience) -> Tensor:
        """Values `(N,)` of the states in which packed tokens were chosen; 0 where `mask` is 0."""
        layout = layout_of(batch)
        with passing(batch.action.device):
            value = self.head(hidden_states(self, batch.action, layout, self.recompute)).float().squeeze(-1)
        value = value.index_select(0, layout.at(torch.arange(len(batch.action))))
        return torch.cat([value.new_zeros(1), value[:-1]]) * batch.mask

    @property
    def base_model(self) -> Any:
        return self.body


def answer_advantages(rewards: list[Tensor], values: list[Tensor], lam: float) -> list[Tensor]:
    """Generalised advantages of answers, `(T_i,)` each; nothing is discounted, and each ends at its last token."""
    lengths = torch.tensor([len(r) for r in rewards])
    reward, value = pad_sequence(rewards), pad_sequence(values)  # (T, n)
    row = torch.arange(len(reward)).unsqueeze(1)
    ended = (row >= lengths - 1).float()
    next_value = torch.cat([value[1:], torch.zeros(1, len(rewards))])
    advantage = gae(reward, value, next_value, ended, torch.zeros_like(ended), 1.0, lam)
    return [advantage[:n, i] for i, n in enumerate(lengths.tolist())]


def _spread(values: Tensor, chosen: Tensor) -> Tensor:
    """Values of chosen tokens at their places, 0 elsewhere."""
    return torch.zeros(len(chosen)).masked_scatter(chosen, values)
