"""Base of direct alignment: a preference loss on judged answers that rows bring, or that the reference gives."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.errors import Unsupported, require
from palaestra.core.hints import PositiveInt
from palaestra.core.method import Metrics
from palaestra.core.task import Evaluation, Task
from palaestra.language.anchors import Anchor
from palaestra.language.endings import warn_of_cut_answers
from palaestra.language.policy import LanguagePolicy
from palaestra.language.preferences import Ranked, kind_of, logps_of, ranked_of, what_it_has
from palaestra.language.rows import Row
from palaestra.methods.language.batch import Batch, mean_log_ratio
from palaestra.methods.language.language import LanguageMethod, Schedule, refuse_clips
from palaestra.methods.preference.pool import Pool
from palaestra.methods.preference.preference_loss import Chosen, PreferenceLoss

RECORDED = "recorded"
"""Name of the reference that the log-probabilities in rows are of."""


@dataclass
class DirectAlignment(PreferenceLoss, LanguageMethod):
    """Gradient steps on minibatches of prompts, each with the answers of its row, or with answers of the reference."""

    family: ClassVar[str] = "preference"
    asks_ahead: ClassVar[bool] = True
    """Whether the reference is asked how likely answers are before they are learnt from; not where a step asks for more."""

    model: str = "sft:tiny-64x2"
    lr: float = 2e-4
    """Adam's learning rate; 5e-7 to 5e-6 is usual for pretrained models."""
    warmup: int = 20
    schedule: Schedule = "cosine"
    prompts: PositiveInt = 32
    """Prompts per update."""
    drawn: int = 0
    """Answers to each prompt drawn from the reference and judged by the task; 0 takes those that the rows bring."""
    beside: bool = False
    """Keep the answers that rows bring beside the drawn ones; all are judged."""
    pairs: Chosen = "all"
    """Which answers to a prompt make pairs: all that differ in score, or the best with the worst (extremes)."""
    reference: str = ""
    """The reference: a model's name, folder or soup; by default the model that training began with; recorded
    is who gave the answers, by the log-probabilities in the rows."""
    reference_rate: float = 0.0
    """How far the reference goes towards the policy after every update, as a moving average (TR-DPO, arXiv 2404.09656)."""
    reward_model: str = ""
    """A reward model, by its folder or name, that scores drawn answers in place of the task's judge."""
    rescored: bool = False
    """Have the answers that rows bring scored as drawn ones are, in place of the scores that they come with."""

    @property
    def recorded(self) -> bool:
        """Whether rows say how likely their answers are under the reference."""
        return self.reference == RECORDED

    @property
    def judges_anew(self) -> bool:
        """Whether answers have scores of the task's judge, or of the reward model, in place of what rows say of them."""
        return self.drawn > 0 or self.rescored

    @property
    def compares(self) -> bool:
        """Whether there is a reference."""
        return self.drawn > 0 or bool({"ref_logp", "kl"} & set(self.criterion.needs))

    def check(self) -> None:
        super().check()
        fewest = 1 if self.criterion.unit == "answer" else 2
        require(self.drawn == 0 or self.drawn >= fewest, f"drawn must be 0 or at least {fewest}, got {self.drawn}")
        require(
            self.judges_anew or not self.reward_model,
            f"nothing is drawn for {self.reward_model} to score; give drawn, or rescored",
        )
        require(0 <= self.reference_rate <= 1, f"reference_rate must be from 0 to 1, got {self.reference_rate}")
        require(
            not self.reference_rate or (self.compares and not self.drawn),
            "a reference that moves must be one that the loss compares with, and draws no answers; leave reference_rate at 0",
        )
        require(self.drawn > 0 or not self.beside, "nothing is drawn for rows' own answers to stand beside; give drawn")
        needs = set(self.criterion.needs)
        require(
            not self.recorded or ("ref_logp" in needs and not needs & {"kl", "advantage"}),
            f"{self.name} asks the reference about more than the answers that rows have, or has none; name a model as reference",
        )
        require(
            not self.recorded or not (self.drawn or self.reference_rate),
            "a reference that is recorded draws no answers and does not move; leave drawn and reference_rate at 0",
        )

    def check_task(self, task: Task) -> None:
        super().check_task(task)
        refuse_clips(task, f"which {self.name} does not look at", "take a method of rounds, such as iterated-dpo")
        row = task.rows("train")[0]  # type: ignore[attr-defined]
        if (self.beside or not self.drawn) and kind_of(row) is None:
            raise Unsupported(
                f"the rows of {task.name} have no judged answers to learn from, but {what_it_has(row)}; "
                "or let some be drawn and scored by a reward: --method.drawn 2"
            )
        if self.criterion.unit != "answer" and not self.judges_anew:
            given = (ranked_of(row).scores for row in task.rows("train"))  # type: ignore[attr-defined]
            if not any(len(scores if self.pairs_ties else set(scores)) > 1 for scores in given):
                which = "two answers" if self.pairs_ties else "two answers that differ in score"
                raise Unsupported(
                    f"{self.name} compares answers to a prompt, and no row of {task.name} has {which}; let some be drawn "
                    "(--method.drawn 2), or take a method of single answers, such as kto"
                )
        if self.recorded:
            logps = [logp for row in task.rows("train") for logp in logps_of(row)]  # type: ignore[attr-defined]
            known = sum(logp is not None for logp in logps)
            require(known > 0, f"no answer of {task.name} says how likely it was; name a model as reference")
            if known < len(logps):
                warnings.warn(
                    f"{len(logps) - known} of {len(logps)} answers of {task.name} do not say how likely they were, and are not "
                    "learnt from",
                    stacklevel=2,
                )

    def setup(self, task: Task) -> None:
        super().setup(task)
        self.learn_from(self.reward_model)
        if self.beside or not self.drawn:
            warn_of_cut_answers(
                self.task.rows("train"),
                lambda row: zip((ranked := ranked_of(row)).answers, ranked.truncated, strict=True),
                self.language_policy.tokeniser,
                task.name,
            )
        asked = self.compares and not self.recorded
        self.anchor = Anchor.beside(self.language_policy, self.reference, self.task) if asked else None
        self.pool = Pool(self)

    def scores_in(self, row: Row, ranked: Ranked) -> list[float]:
        """The scores of the answers that a row brings, as the method takes them: as they are."""
        return ranked.scores

    def learnt_of(self, row: Row, ranked: Ranked) -> list[bool]:
        """Which of the answers that a row brings are learnt from: all."""
        return [True] * len(ranked.answers)

    def looked_at(self, evaluation: Evaluation) -> Evaluation:
        """Also the mean log-ratio of the answers to the reference, which is the KL divergence where they were sampled."""
        evaluation = super().looked_at(evaluation)
        if self.anchor is None or not evaluation.answers:
            return evaluation
        batch = Batch.of(evaluation.answers)
        batch = batch.replace(logp=self.likely(self.language_policy, batch))
        batch = batch.replace(ref_logp=self.likely(self.anchor.policy, batch))
        name = "kl_reference" if self.task.sampled else "log_ratio_reference"
        evaluation.measures[name] = float(mean_log_ratio(batch))
        return evaluation

    def likely(self, policy: LanguagePolicy, batch: Batch) -> list[Tensor]:
        """How likely the tokens of answers are under a policy, `(L,)` each."""
        return policy.logps(batch.parts, tokens=self.micro_tokens)

    def step(self) -> Metrics:
        return self.learn(self.pool.take(self.prompts))

    def learn(self, batch: Batch) -> Metrics:
        """One gradient step on a minibatch, at the learning rate that is due."""
        self.set_rate()
        self.counters.updates += 1
        self.counters.episodes += len(batch)
        without, reference = self.without_pair(batch), self.anchor
        if not self.reference_rate or reference is None:
            return without | self.align(batch)
        if self.asks_ahead:
            batch = batch.replace(ref_logp=self.likely(reference.policy, batch))
        metrics = self.align(batch)
        reference.towards(self.language_policy, self.reference_rate)
        return without | metrics
