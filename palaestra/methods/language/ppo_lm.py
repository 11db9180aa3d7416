"""PPO for language models (Schulman et al., arXiv 1707.06347; as in Ouyang et al., 2203.02155): a critic values every token.

With every switch of "Secrets of RLHF, Part I" (Zheng et al., 2307.04964).
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from palaestra.core.errors import Unsupported, require
from palaestra.core.experience import Experience
from palaestra.core.method import Metrics, Paper
from palaestra.core.precision import passing
from palaestra.core.task import Task
from palaestra.language.generation.decoder import positions
from palaestra.language.packing import body, hidden_states, layers_of, layout_of
from palaestra.language.plain_text import PlainText
from palaestra.language.policy import LanguagePolicy
from palaestra.language.preferences import cut_off
from palaestra.language.reward_policy import RewardPolicy
from palaestra.language.sample import Sample
from palaestra.language.soups import same_vocabulary
from palaestra.language.task import Row
from palaestra.methods.language.batch import Batch, over_passes
from palaestra.methods.language.grpo import GRPO, at_chosen
from palaestra.nets.adam import Adam
from palaestra.nets.gradient import Outputs
from palaestra.nets.shards import shard
from palaestra.objectives.policy import mean
from palaestra.objectives.returns import gae
from palaestra.objectives.segments import Average, Centre, Scale, step_weights
from palaestra.objectives.value import clipped_value


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
    """Adam's learning rate for the critic; it rises and falls with the policy's."""
    value_average: Average = "token-mean"
    """How the critic's loss averages over tokens; sequence-mean in 2404.18922 and its code."""
    value_clip: float | None = None
    """How far a value may go from what it was when the round began, as its loss sees it; None clips nothing."""
    critic_from: Literal["policy", "reward-model"] = "policy"
    """What the critic begins as: the policy's body with a head of zeros, or the reward model."""
    critic_rounds: int = 0
    """Rounds at the beginning in which the critic alone learns."""
    endless: float | None = None
    """The reward of answers that the limit cut off, in place of their own; -10 in 2406.09279."""
    standardise: bool = True
    ptx_weight: float = 0.0
    """Weight of the likelihood of rows' completions, of which a gradient step takes as many as it has answers."""
    ptx_data: str = ""
    """Plain text that stays likely in place of completions: rows with a column text, by their file, folder or name."""
    entropy_weight: float = 0.0
    """Weight of how far the mean entropy of tokens is from `entropy_level`."""
    entropy_level: float = 0.0
    """The entropy, in nats, that tokens are held near."""
    ratio_to: Literal["behaviour", "reference"] = "behaviour"
    """What ratios compare with: the policy that gave the answers, or the reference, without importance sampling."""

    def check(self) -> None:
        super().check()
        require(self.value_clip is None or self.value_clip > 0, f"value_clip must be positive, got {self.value_clip}")
        for name in ("critic_rounds", "ptx_weight", "entropy_weight"):
            require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        require(self.ptx_weight > 0 or not self.ptx_data, f"{self.ptx_data} weighs nothing; give a ptx_weight above 0")
        modelled = self.critic_from == "policy" or bool(self.reward_model)
        require(modelled, "there is no reward model for the critic to begin as; give reward_model")
        if self.reward_scale != "none" and self.standardise and self.value_clip is not None:
            warnings.warn(
                "rewards on a scale, standardised advantages and clipped values work against each other (2307.04964, B.1); "
                "leave one of reward_scale, standardise and value_clip out",
                stacklevel=2,
            )
        require(0 <= self.lam <= 1, f"lam must be in [0, 1], got {self.lam}")
        require(self.value_lr > 0, f"value_lr must be positive, got {self.value_lr}")

    def check_task(self, task: Task) -> None:
        super().check_task(task)
        if self.ptx_data:
            PlainText(self.ptx_data)
        elif self.ptx_weight and "completion" not in task.rows("train")[0]:  # type: ignore[attr-defined]
            raise Unsupported(f"the rows of {task.name} have no 'completion' to be likely; leave ptx_weight at 0")

    @property
    def refers(self) -> bool:
        return super().refers or self.ratio_to == "reference"

    def setup(self, task: Task) -> None:
        alone, updates = self.critic_rounds * self.epochs * self.minibatches, self.budget.updates
        require(
            updates is None or updates > alone,
            f"in the first {alone} updates the critic learns alone (critic_rounds), and there are no more than {updates}",
        )
        super().setup(task)
        begun = self.proxy.policy if self.proxy is not None and self.critic_from == "reward-model" else None
        if self.ptx_data:
            self.texts = PlainText(self.ptx_data)
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
        metrics = super().update(batch) if self.round >= self.critic_rounds else {}
        limit = self.max_tokens or self.task.max_tokens
        weighed = batch.with_weights(lambda mask, segment: step_weights(mask, segment, self.value_average, limit))
        parts = weighed.micro(self.micro_tokens)
        self.value_optimiser.lr = self.value_lr * (self.optimiser.lr / self.lr)
        return metrics | (over_passes(self.value_optimiser.accumulate(self.value_loss, parts)) if parts else {})

    def passes(self, batch: Batch) -> list[Experience]:
        if self.ratio_to == "reference":
            batch = batch.replace(logp=[part.ref_logp for part in batch.parts])
        return super().passes(batch) + (self.demonstrations(len(batch)) if self.ptx_weight else [])

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
        return policy.with_answer(policy.prompt_ids(shown["prompt"]), shown["completion"], cut_off(shown))

    def loss(self, batch: Experience) -> tuple[Tensor, Outputs]:
        if batch.advantage is not None:
            return super().loss(batch)
        likelihood = (self.language_policy.score(batch).logp * batch.weight).sum()
        return -self.ptx_weight * likelihood, {"loss/ptx": -likelihood, "tokens": batch.mask.sum().float()}

    def further(self, entropy: Tensor, weight: Tensor) -> Tensor | float:
        if not self.entropy_weight:
            return 0.0
        return self.entropy_weight * ((entropy - self.entropy_level) * weight).sum().abs()

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


class Critic(nn.Module):
    """A copy of the policy's body with one number on top: what is expected from here on, before each token is chosen.

    Or the body and the number of a reward model, which may be of another size, but must have the policy's vocabulary.
    """

    def __init__(self, policy: LanguagePolicy, reward_model: RewardPolicy | None = None):
        super().__init__()
        begun = reward_model or policy
        if not begun.packs:
            raise Unsupported("a critic needs a model that takes packed sequences, which this one does not")
        same_vocabulary([policy.tokeniser, begun.tokeniser])
        self.body: Any = copy.deepcopy(body(begun.model))
        self.body.requires_grad_(True)
        self.recompute = policy.recompute
        self.head = nn.Linear(begun.model.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.head.to(begun.model.device)
        if reward_model is not None:
            self.head.weight.data.copy_(reward_model.head.weight)

    def forward(self, batch: Experience) -> Tensor:
        """Values `(N,)` of the states in which packed tokens were chosen; 0 where `mask` is 0."""
        asked, batch = batch, batch.to(self.head.weight.device)
        layout = layout_of(batch)
        with passing(self.head.weight.device):
            value = self.head(hidden_states(self, batch.action, layout, self.recompute)).float().squeeze(-1)
        value = value.index_select(0, layout.at(torch.arange(len(batch.action), device=value.device)))
        return (torch.cat([value.new_zeros(1), value[:-1]]) * batch.mask).to(asked.action.device)

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
