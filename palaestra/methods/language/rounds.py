"""Base of on-policy methods for language models: rounds of sampling answers, judging them, and updating the policy."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from palaestra.core.errors import Unscored, require
from palaestra.core.hints import NonNegativeFloat, PositiveFloat, PositiveInt
from palaestra.core.method import Metrics
from palaestra.core.task import Task
from palaestra.core.world import world
from palaestra.language.anchors import Anchor
from palaestra.language.generation.sampling import Sampling
from palaestra.language.policy import LanguagePolicy
from palaestra.language.records import record
from palaestra.language.rows import Row
from palaestra.language.sample import Sample
from palaestra.language.task import TextTask
from palaestra.methods.language.batch import Batch, log_ratios, mean_log_ratio
from palaestra.methods.language.language import LanguageMethod
from palaestra.nets.gradient import Outputs
from palaestra.nets.shards import whole
from palaestra.objectives.correction import mismatch, truncated_ratio
from palaestra.objectives.segments import group_mean, has_spread

PATIENCE = 10
"""A run ends after so many rounds in a row in which no answer could be scored, or was learnt from."""
KLIn = Literal["loss", "answers", "tokens"]
"""Where a divergence counts: as a term of the loss, or taken off the rewards of answers or of tokens."""
LEFT_OUT = "settings that mask answers (overlong, difficulty) left all of them out of the loss"
"""Why a round is passed over whose answers were scored, but are all masked."""


@dataclass
class Rounds(LanguageMethod):
    """A round: `prompts` prompts, `group` answers to each, their scores, then `epochs` passes over them.

    A subclass defines `advantages`, or `credited` for those of single tokens, and `update`; `worth` may change what rewards count
    for, and `usable` leave answers out.
    """

    whole_groups: ClassVar[bool] = False
    """Whether the answers to a prompt stay together in one minibatch, as losses need that compare them."""
    learns_scores: ClassVar[bool] = True
    """Whether a task's own scores are learnt from, and not only comparisons."""
    in_vain: ClassVar[str] = "no reward function could score a single answer"
    """Why a round is passed over that has no answers to learn from."""
    kl_in: ClassVar[KLIn] = "loss"
    """Where the divergence from the reference counts."""
    watches_start: ClassVar[bool] = False
    """Whether the divergence from the model that training began with is logged even where it is no part of the loss."""
    correction: ClassVar[float] = 2.0
    """Cap of a token's importance weight, policy over what sampled it (`truncated_ratio`)."""
    ignores_sampling: ClassVar[bool] = False
    """Whether the loss uses log-probabilities at temperature 1 without importance weights, however answers were sampled."""

    prompts: PositiveInt = 16
    """Prompts per round."""
    group: PositiveInt = 8
    """Answers to each prompt."""
    max_tokens: PositiveInt | None = None
    """Longest answer in tokens; by default as many as the task allows."""
    temperature: PositiveFloat = 1.0
    """Of sampling, and of the log-probabilities that are learnt from."""
    top_k: int = 0
    """Sample from so many of the most likely tokens; 0 from all."""
    top_p: float = 1.0
    """Sample from the most likely tokens that make up this probability."""
    min_p: float = 0.0
    """Sample from the tokens that are at least so many times as likely as the most likely one."""
    epochs: PositiveInt = 1
    """Passes over a round's answers."""
    minibatches: PositiveInt = 1
    """Gradient steps per pass."""
    kl_weight: NonNegativeFloat = 0.0
    """Weight of the divergence from the reference."""
    reference: str = ""
    """The reference: a model's name, its folder, or soup:FOLDER,FOLDER; by default the model that training began with."""
    reward_model: str = ""
    """A reward model, by its folder or name, whose scores are learnt from in place of the task's judge; rm:MODEL is trained on
    the task's preferences first, once for each seed."""

    def check(self) -> None:
        super().check()
        _ = self.sampling  # which refuses cuts that make no sense
        used = self.refers or self.kl_weight > 0 or not self.reference
        require(used, f"nothing is compared with the reference {self.reference}; give a kl_weight above 0")
        units, kind = (self.prompts, "prompts") if self.whole_groups else (self.prompts * self.group, "answers")
        require(self.minibatches <= units, f"{units} {kind} a round cannot make {self.minibatches} minibatches")

    def check_task(self, task: Task) -> None:
        super().check_task(task)
        if not self.reward_model:
            self.find_judge(task)  # type: ignore[arg-type]
        count = len(task.rows("train"))  # type: ignore[attr-defined]
        if self.prompts > count:
            warnings.warn(
                f"a round asks {self.prompts} prompts, and {task.name} has {count}, so that it asks some of them more than once "
                f"before anything is learnt; prompts = {count} or fewer would not",
                stacklevel=2,
            )

    def find_judge(self, task: TextTask) -> None:
        """Raise `BadSetting` where nothing of the task says how good answers are."""
        with task.judge():
            pass

    def setup(self, task: Task) -> None:
        super().setup(task)
        self.check_room("train", self.max_tokens or self.task.max_tokens)
        self.learn_from(self.reward_model)
        self.anchor = Anchor.beside(self.language_policy, self.refers_to, self.task) if self.refers else None
        elsewhere = not self.refers or bool(self.refers_to)
        self.origin = Anchor.of(self.language_policy) if self.watches_start and elsewhere else None
        self.round = 0

    @property
    def refers(self) -> bool:
        """Whether the method has a reference."""
        return self.kl_weight > 0

    @property
    def refers_to(self) -> str:
        """The name of the reference; none for the model that training began with."""
        return self.reference

    @property
    def holds_all(self) -> bool:
        """Whether the loss has a term for answers without an advantage, too."""
        return self.kl_in == "loss" and self.kl_weight > 0

    def step(self) -> Metrics:
        samples, metrics = self.sample()
        if not samples:
            return self.passed_over(self.in_vain, self.notes.complaint)
        rewards = torch.tensor([s.reward for s in samples])
        group = torch.tensor([s.group for s in samples])
        own = [i for i, s in enumerate(samples) if s.source == 0]
        answers = [samples[i] for i in own]
        metrics |= _reward_metrics(answers, rewards[own], group[own]) | self.gold_reward(answers)
        if not any(bool(mask.any()) for mask in self.usable(samples)):
            return metrics | self.passed_over(LEFT_OUT, "raise max_tokens, ask what is solved sometimes, or mask less")
        self.notes.in_vain = 0
        batch = self.learnable(samples, rewards, group)
        metrics |= self.mismatch(samples, batch) | _divergence(batch) | self.from_start(answers)
        learnt = []
        for epoch in range(self.epochs):
            for part in self.minibatches_of(batch, epoch):
                self.set_rate()
                learnt.append(self.update(part))
                self.counters.updates += 1
        self.round += 1
        return metrics | over_updates(learnt) | self.looked_back(batch, rewards)

    def passed_over(self, in_vain: str, advice: str) -> Metrics:
        """Count a round that gives nothing to learn from, for the reason `in_vain`, such as a judge that cannot be reached.

        Raises:
            Unscored: it is one of too many in a row.
        """
        self.round += 1
        self.counters.passed_over += 1
        self.notes.in_vain += 1
        if self.notes.in_vain >= PATIENCE:
            raise Unscored(f"{in_vain} in {PATIENCE} rounds in a row{f'; {advice}' if advice else ''}")
        return {}

    # Sampling.

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p)

    @property
    def learning_temperature(self) -> float:
        """Of the log-probabilities that are learnt from."""
        return 1.0 if self.ignores_sampling else self.temperature

    def sample(self) -> tuple[list[Sample], Metrics]:
        """This round's answers with their rewards, those that could not be scored left out; none where none could be."""
        samples = self.answers(self.next_rows(self.prompts), f"round/{self.round}")
        return samples, {}

    def answers(self, rows: Sequence[Row], stream: str, **forms: Sequence[Tensor]) -> list[Sample]:
        """`group` answers to each row, judged; `forms` are `prompts` and `prefixes` of `LanguagePolicy.answer`."""

        def answer(mine: slice) -> list[Sample]:
            samples = self.language_policy.answer(
                rows[mine],
                first=mine.start,
                copies=self.group,
                max_tokens=self.max_tokens or self.task.max_tokens,
                sampling=self.sampling,
                stop=self.task.stop,
                environment=self.task.environment,
                seed=self.streams.integer(stream),
                **{name: form[mine] for name, form in forms.items()},
            )
            self.counters.episodes += len(samples)
            self.counters.steps += sum(int(s.mask.sum()) for s in samples)
            return samples

        with whole(self.language_policy):
            scored = self.judged_together(len(rows), answer)
        record(scored, self.language_policy, round=self.round)
        return scored

    def gold_reward(self, samples: list[Sample]) -> Metrics:
        """The mean reward of a round's answers by the judge of evaluations, where another is learnt from: only logged, and no
        judge call is counted."""
        same = self.learns_scores and self.proxy is None and type(self.task).gold is TextTask.gold
        if same or not self.task.evaluates:
            return {}

        def asked() -> Tensor:
            with self.task.gold() as judge:
                return judge(samples).total

        gold = world().alone(asked)
        return {} if bool(gold.isnan().all()) else {"reward/gold": gold.nanmean()}

    # Learning.

    def learnable(self, samples: list[Sample], rewards: Tensor, group: Tensor) -> Batch:
        """A round's answers as a batch, with log-probabilities under the policy and the reference, and with advantages."""
        batch = self.shown(samples).spread(group=group)
        logp = self.logp_of(samples, batch)
        batch = batch.replace(logp=logp)
        if not self.ignores_sampling and (self.language_policy.engine is not None or self.sampling.distorts):
            told = zip(logp, samples, strict=True)
            batch = batch.replace(weight=[truncated_ratio(x, s.sampled_logp, self.correction) for x, s in told])
        if self.anchor is not None:
            batch = batch.replace(ref_logp=self.scored(self.anchor.policy, batch))
        worth = self.worth(batch, rewards, group)  # of all that was said, also what is then masked out
        return self.credited(batch.replace(mask=self.usable(samples)), worth, group)

    def worth(self, batch: Batch, rewards: Tensor, group: Tensor) -> Tensor:
        """What answers are worth, `(n,)`: their rewards `(n,)`, less the divergence where it is of answers."""
        if self.kl_in != "answers" or not self.kl_weight:
            return rewards
        return rewards - self.kl_weight * log_ratios(batch)

    def shown(self, samples: Sequence[Sample]) -> Batch:
        """Answers as packed steps, with the films that they are about at hand."""
        batch = Batch.of(samples)
        if self.language_policy.sees:
            self.language_policy.clip_table.clips = [s.clip for s in samples]
            batch = batch.replace(row=[part.segment for part in batch.parts])
        return batch

    def logp_of(self, samples: Sequence[Sample], batch: Batch) -> list[Tensor]:
        """Log-probabilities `(L,)` of a round's answers under the policy that gives them, at the temperature of learning."""
        recorded = self.learning_temperature == 1 and self.language_policy.engine is None
        return [s.logp for s in samples] if recorded else self.scored(self.language_policy, batch)

    def from_start(self, samples: Sequence[Sample]) -> Metrics:
        """The divergence from the model that training began with, where that is to be logged and is not the reference."""
        if self.origin is None:
            return {}
        batch = self.shown(samples)
        batch = batch.replace(logp=self.logp_of(samples, batch), ref_logp=self.scored(self.origin.policy, batch))
        return {f"answers/kl_{'reference' if self.anchor is None else 'start'}": mean_log_ratio(batch)}

    def mismatch(self, samples: list[Sample], batch: Batch) -> Metrics:
        """How far the distribution that answers were sampled from is from the policy, where it is another."""
        if batch.parts[0].weight is None:
            return {}
        logp, mask = (torch.cat([getattr(part, name) for part in batch.parts]) for name in ("logp", "mask"))
        return dict(mismatch(logp, torch.cat([s.sampled_logp for s in samples]), self.correction, mask))

    def credited(self, batch: Batch, rewards: Tensor, group: Tensor) -> Batch:
        """The answers with the advantage of each token: that of its answer."""
        return batch.spread(advantage=self.advantages(rewards, group))

    def advantages(self, rewards: Tensor, group: Tensor) -> Tensor:
        """The advantage of each answer `(n,)`, given rewards and groups `(n,)`."""
        raise NotImplementedError

    def usable(self, samples: list[Sample]) -> list[Tensor]:
        """Which tokens of each answer are learnt from, `(L,)` each: those that the policy chose."""
        return [s.mask for s in samples]

    def minibatches_of(self, batch: Batch, epoch: int) -> Iterator[Batch]:
        """The answers in `minibatches` parts, in an order that changes from pass to pass."""
        if self.minibatches == 1:
            yield batch
            return
        generator = self.streams.generator(f"minibatches/{epoch}", self.round)
        unit = torch.arange(len(batch))
        if self.whole_groups:
            unit = torch.unique(batch.of_answers("group"), return_inverse=True)[1]
        for part in torch.randperm(int(unit.max()) + 1, generator=generator).tensor_split(self.minibatches):
            yield batch.take(torch.isin(unit, part).nonzero().squeeze(-1).tolist())

    def update(self, batch: Batch) -> Metrics:
        """One gradient step on a minibatch, in as many passes as it takes."""
        raise NotImplementedError

    def looked_back(self, batch: Batch, rewards: Tensor) -> Metrics:
        """Metrics of a round's answers after its last update."""
        return {}

    def through_answers(self, batch: Batch, loss: Callable[[Tensor], tuple[Tensor, Outputs]]) -> tuple[Batch, Outputs]:
        """A loss of whole answers as a loss of tokens: `weight` is its derivative by each token's log-probability.

        `loss` is given the answers' log-probabilities, sums over their tokens, `(n,)`. The sum of weight * logp over all tokens
        has the same gradient, and can be computed in several passes even where `loss` compares answers with each other.
        """
        chosen = [part.mask.to(torch.float32) for part in batch.parts]
        logp = zip(self.scored(self.language_policy, batch), chosen, strict=True)
        total = torch.stack([(x * mask).sum() for x, mask in logp]).requires_grad_()
        value, outputs = loss(total)
        (slope,) = torch.autograd.grad(value, total)
        weighed = batch.replace(weight=[g * mask for g, mask in zip(slope, chosen, strict=True)])
        return weighed, {name: x.detach() for name, x in outputs.items()}

    def scored(self, policy: LanguagePolicy, batch: Batch) -> list[Tensor]:
        """Log-probabilities `(L,)` of each answer's tokens under a policy, at the temperature of learning."""
        return policy.logps(batch.parts, self.learning_temperature, self.micro_tokens)


def over_updates(learnt: list[Metrics]) -> Metrics:
    """The means over a round's updates, of which some may have had nothing to learn."""
    names = dict.fromkeys(name for metrics in learnt for name in metrics)
    return {name: torch.stack([metrics[name] for metrics in learnt if name in metrics]).mean() for name in names}


def _divergence(batch: Batch) -> Metrics:
    return {} if batch.parts[0].ref_logp is None else {"answers/kl_reference": mean_log_ratio(batch)}


def _sampled_entropy(samples: list[Sample]) -> Tensor:
    """The entropy of what tokens were sampled from, in nats: minus the mean log-probability of those that came up."""
    logp, mask = (torch.cat([getattr(s, name) for s in samples]) for name in ("sampled_logp", "mask"))
    return -(logp * mask).sum() / mask.sum().clamp(min=1)


def _reward_metrics(samples: list[Sample], rewards: Tensor, group: Tensor) -> Metrics:
    length = torch.tensor([float(s.mask.sum()) for s in samples])
    mean = rewards.double().mean()  # of equal rewards it is theirs
    metrics: Metrics = {
        "reward/mean": rewards.mean(),
        "reward/best_of_group": torch.stack([rewards[group == g].max() for g in group.unique()]).mean(),
        "answers/entropy": _sampled_entropy(samples),
        "answers/length": length.mean(),
        "answers/truncated": torch.tensor([float(s.truncated) for s in samples]).mean(),
        "groups/deviation": (rewards - group_mean(rewards, group)).square().mean().sqrt(),
    }
    # Of rewards 0 and 1, right and wrong ones.
    for name, which in (("better", rewards > mean), ("worse", rewards < mean)):
        if bool(which.any()):
            metrics[f"answers/length_{name}"] = length[which].mean()
    if len(group.unique()) < len(group):  # one that is alone has none in any case
        metrics["groups/without_spread"] = 1 - has_spread(rewards, group).float().mean()
    names = list(samples[0].rewards)
    if len(names) > 1:
        for name in names:
            given = torch.tensor([s.rewards[name] for s in samples])
            if not bool(given.isnan().all()):  # it may apply to none of a round's prompts
                metrics[f"reward/{name}"] = given.nanmean()
    return metrics
