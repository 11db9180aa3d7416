"""Base of methods that train a language model: the model, its optimiser, and the judge of its answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from palaestra.core.errors import Unsupported, require
from palaestra.core.hints import NonNegativeInt, PositiveFloat, PositiveInt, check_settings
from palaestra.core.method import Method, Metrics
from palaestra.core.task import Task
from palaestra.core.world import apart, world
from palaestra.language.anchors import Anchor
from palaestra.language.generation.engine import check_room
from palaestra.language.judges.endpoint import reach_all
from palaestra.language.judges.kinds import BradleyTerry
from palaestra.language.judges.memory import Memory
from palaestra.language.judges.notes import Notes
from palaestra.language.judges.wrappers import Counted, Once, Tried
from palaestra.language.models import hidden_size
from palaestra.language.packing import layers_of
from palaestra.language.policy import LanguagePolicy
from palaestra.language.reward_policy import RewardPolicy
from palaestra.language.rows import LazyRows, Row
from palaestra.language.sample import Sample
from palaestra.methods.language.batch import over_passes
from palaestra.nets.adam import Adam
from palaestra.nets.gradient import Outputs
from palaestra.nets.shards import shard

Schedule = Literal["constant", "cosine", "inverse-sqrt"]
"""Schedule of the learning rate after its warm-up: constant, half a cosine to 0 at the end of the budget, or in proportion to one
over the square root of updates, whatever the budget is."""
MADE = 200
"""How many prompts are searched for the longest one, where rows are generated when they are looked at."""


@dataclass
class LanguageMethod(Method):
    """A method whose policy is a language model."""

    family: ClassVar[str] = "language"
    action_kinds: ClassVar[tuple[str, ...]] = ("text",)
    learns_from: ClassVar[str] = "prompts"
    any_threads: ClassVar[bool] = (
        False  # products over thousands of tokens are summed in as many parts as there are threads
    )

    model: str = "tiny-64x2"
    """A hub name, a folder (of a run, too), tiny-WIDTHxLAYERS, which starts from scratch, or sft:MODEL, which is fine-tuned on
    the task's answers first."""
    adapter: int = 0
    """Rank of LoRA adapters, which alone are trained; 0 trains the whole model."""
    adapter_alpha: NonNegativeInt = 0
    """LoRA's alpha: what adapters add is scaled by alpha over their rank; 0 stands for twice the rank."""
    lr: PositiveFloat = 1e-4
    """Adam's learning rate."""
    warmup: NonNegativeInt = 0
    """Updates over which the learning rate rises from 0."""
    schedule: Schedule = "constant"
    """The learning rate after warm-up: constant, half a cosine to 0 over the budget, or one over the square root of updates."""
    max_grad_norm: PositiveFloat = 1.0
    """Clip of the global gradient norm."""
    micro_tokens: PositiveInt = 16_384
    """Tokens per forward and backward pass; a larger batch takes several, with the same gradient."""
    recompute: bool = False
    """Gradient checkpointing: keep only the inputs of layers for the backward pass; less memory, more time, same gradient."""

    def check(self) -> None:
        check_settings(self)
        for name, value in self.config.items():
            require(
                not isinstance(value, float) or math.isfinite(value), f"{name} must be a finite number, got {value}"
            )
        super().check()
        require(self.adapter >= 0, f"adapter is a rank, 0 or more, got {self.adapter}")
        require(
            self.adapter > 0 or not self.adapter_alpha, "there are no adapters for adapter_alpha to weigh; give adapter"
        )
        rises = self.schedule != "inverse-sqrt" or self.warmup > 0
        require(rises, "inverse-sqrt falls from the end of a warm-up on; give a warmup above 0")

    def setup(self, task: Task) -> None:
        judges = task.lasting_judges()  # type: ignore[attr-defined]
        reach_all(judges)
        remembered = Memory(judges)
        if remembered.judges:
            self.memory = remembered
        self.language_policy = self.make_policy()
        self.language_policy.recompute = self.recompute
        if self.evaluates_on(task):
            self.check_room("test", getattr(self, "max_tokens", None) or task.max_tokens)  # type: ignore[attr-defined]
        self.optimiser = Adam(
            self.language_policy.trainable(),
            self.lr,
            max_grad_norm=self.max_grad_norm,
        )
        self.asked = 0
        self.notes = Notes()
        self.proxy: Anchor | None = None

    def check_room(self, split: str, limit: int) -> None:
        """Refuse prompts of a split to which the model has no room for answers of `limit` tokens, before anything is trained.

        Raises:
            BadSetting: the longest in letters has too many tokens; where rows are made when looked at, of the first `MADE`.
        """
        policy, rows = self.language_policy, self.task.rows(split)
        if not hasattr(policy, "model") or hasattr(policy, "agreement"):
            return
        looked = min(len(rows), MADE) if isinstance(rows, LazyRows) else len(rows)
        longest = max((rows[i] for i in range(looked)), key=lambda row: len(str(row["prompt"])), default=None)
        if longest is not None:
            check_room(
                policy.model,
                len(policy.asked(longest)[0]),
                min(limit, self.task.max_tokens) if split == "test" else limit,
            )

    def learn_from(self, reward_model: str) -> None:
        """Let the scores of a reward model, if one is named, stand in for the task's judge."""
        self.proxy = Anchor(RewardPolicy.load(reward_model)) if reward_model else None

    def make_policy(self) -> LanguagePolicy:
        """The policy that training begins with."""
        return LanguagePolicy.make(self.model, self.task, self.adapter, self.adapter_alpha)

    def work(self) -> int:
        # Passes have thousands of tokens, but narrow ones are mostly element by element: width alone tells (docs/speed.md).
        return 512 * (hidden_size(self.model) or 1024)

    def policy(self) -> LanguagePolicy:
        return self.language_policy

    def set_rate(self) -> None:
        """Set the learning rate that is due in the next update."""
        update = self.counters.updates + 1
        rate = self.lr * min(1.0, update / max(1, self.warmup))
        if self.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * (1 - self.remaining)))
        elif self.schedule == "inverse-sqrt":
            rate *= math.sqrt(self.warmup / max(self.warmup, update))
        self.optimiser.lr = rate

    def descend(self, loss: Callable[[Any], tuple[Tensor, Outputs]], parts: Sequence[Any]) -> Metrics:
        """One gradient step down the sum of a loss over the parts of a minibatch, if there are any."""
        if not parts:
            return {}
        metrics = self.as_one(self.optimiser.accumulate(loss, parts))
        assert self.optimiser.norm is not None
        return {**metrics, "policy/gradient_norm": self.optimiser.norm}

    def as_one(self, outputs: list[Outputs]) -> Metrics:
        """The metrics of one gradient step, from the outputs of its passes."""
        return over_passes(outputs)

    def next_rows(self, count: int, stream: str = "prompts") -> list[Row]:
        """The next rows to learn from: each once before any again, in an order of its own every time."""
        rows = self.task.rows("train")
        asked = []
        for i in range(self.asked, self.asked + count):
            epoch, place = divmod(i, len(rows))
            if i == self.asked or place == 0:
                order = torch.randperm(len(rows), generator=self.streams.generator(stream, epoch))
            asked.append(rows[int(order[place])])
        self.asked += count
        return asked

    def pair_judge(self) -> Counted:
        """What compares answers as `answers_of` gives them, the task's pair judge or the reward model by Bradley and Terry's
        probability, and counts; it is tried before the first pairs of a run."""
        judge = self.task.pair_judge() if self.proxy is None else BradleyTerry(Once(self.proxied))
        return Counted(judge) if self.counters.judge_calls else Tried(judge)

    def proxied(self, samples: Sequence[Sample]) -> Tensor:
        """The reward model's scores `(n,)`."""
        assert self.proxy is not None
        return self.proxy.policy.judge(samples, self.language_policy.tokeniser, self.micro_tokens)

    def count(self, judge: Counted) -> None:
        """Add what a pair judge was asked to the counters."""
        self.counters.judge_calls += judge.asked
        self.counters.unscored += judge.without
        pairs, first, turned = judge.by_order
        self.counters.both_orders += pairs
        self.counters.first_shown += first
        self.counters.turned += turned
        if judge.notes is not None:
            self.notes.merge(judge.notes)

    def judged(self, samples: list[Sample]) -> list[Sample]:
        """The answers with their rewards written in; those without a score left out."""
        if not samples:
            return []
        self.counters.judge_calls += len(samples)
        if self.proxy is not None:
            for sample, score in zip(samples, self.proxied(samples).tolist(), strict=True):
                sample.reward = score
            return samples
        with self.task.judge() as judge:
            scores = judge(samples)
        self.counters.unscored += int(scores.total.isnan().sum())
        self.notes.merge(judge.notes)
        for i, sample in enumerate(samples):
            sample.reward = float(scores.total[i])
            sample.rewards = {name: float(values[i]) for name, values in scores.parts.items()}
        return [sample for sample, scored in zip(samples, ~torch.isnan(scores.total)) if scored]

    def judged_together(self, count: int, answer: Callable[[slice], list[Sample]]) -> list[Sample]:
        """The judged answers to `count` prompts: each process answers its part of them and judges that, and all are given all.

        `answer` gives those to a slice of the prompts, in groups that are numbered alike in every process. What counters, and
        failures of judges, have meanwhile become more by is that of all processes.
        """
        mine, before, failures = world().part(count), self.counters.state_dict(), dict(self.failures)
        with apart():
            scored = self.judged(answer(mine))
        since = {name: now - before[name] for name, now in self.counters.state_dict().items()}
        counted = world().gather([since])
        self.counters.load_state_dict({name: was + sum(own[name] for own in counted) for name, was in before.items()})
        own, self.notes.failures = self.notes.since(failures), failures
        for found in world().gather([own]):
            self.notes.count(found)
        return world().gather(scored)

    def reported(self) -> Metrics:
        return {name: torch.tensor(value) for name, value in self.notes.taken().items()}

    @property
    def failures(self) -> dict[str, int]:
        return self.notes.failures

    def shard(self) -> None:
        """Shard the policy; with adapters every process has it whole, and its few gradients alone are added up."""
        require(
            not hasattr(self, "memory"),
            "a judge that remembers what it was asked would remember less in each of several processes; train in one",
        )
        if not self.adapter:
            shard(self.language_policy, layers_of(self.language_policy.model), ("score",))
            self.optimiser.shard(self.language_policy.trainable())


def refuse_clips(task: Task, why: str, fits: str) -> None:
    """Raise `Unsupported` where the rows of a task show clips (column `video`); `why` not and what `fits` end its message."""
    if task.rows("train")[0].get("video") is not None:  # type: ignore[attr-defined]
        raise Unsupported(f"the rows of {task.name} show clips, {why}; {fits}")
