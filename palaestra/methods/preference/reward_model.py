"""Reward models (Bradley and Terry 1952; Ouyang et al., arXiv 2203.02155; as in Zheng et al., 2307.04964)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from palaestra.core.errors import Diverged, Unsupported, require
from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeFloat
from palaestra.core.method import Method, Metrics, Paper
from palaestra.core.task import Task
from palaestra.language.anchors import Anchor
from palaestra.language.models import load_model
from palaestra.language.preferences import kind_of, ranked_of
from palaestra.language.reward_policy import RewardPolicy
from palaestra.language.sample import Sample
from palaestra.methods.language.batch import Batch
from palaestra.methods.preference.direct_alignment import DirectAlignment
from palaestra.methods.preference.preference_loss import judged_in
from palaestra.nets.gradient import Outputs
from palaestra.objectives.answers import Answers
from palaestra.objectives.direct import bt_rm
from palaestra.objectives.segments import segment_sum


@dataclass
class RewardModelling(DirectAlignment):
    """Training of a Bradley-Terry reward model: differences of scores are log-odds of preferences.

    It is evaluated by its accuracy on held-out pairs.
    """

    paper: ClassVar[Paper] = Paper(
        "Training Language Models to Follow Instructions with Human Feedback", 2022, "2203.02155"
    )
    summary: ClassVar[str] = "Bradley-Terry reward model of preferences, for methods that ask a judge"
    criterion = bt_rm

    margin: NonNegativeFloat = 0.0
    """Margin of the loss per unit by which the row's scores differ: clearer preferences ask for larger gaps."""
    lm_weight: NonNegativeFloat = 0.0
    """Weight of the likelihood of chosen answers, under a language head on the same trunk; 1 in 2307.04964."""
    lm_average: Literal["sequence-sum", "token-mean"] = "sequence-sum"
    """That likelihood as a sum over each answer's tokens (the paper), or the mean over those of all chosen answers (its code)."""

    def check(self) -> None:
        super().check()
        require(self.drawn > 0 or not self.reference, f"nothing is drawn from the reference {self.reference}; leave it")

    def check_task(self, task: Task) -> None:
        super().check_task(task)
        held_out = task.rows("test")  # type: ignore[attr-defined]
        if len(held_out) and (kind_of(held_out[0]) is None or len(ranked_of(held_out[0]).answers) < 2):
            raise Unsupported(
                f"a reward model is evaluated by held-out pairs, and the held-out rows of {task.name} have none, "
                f"but {', '.join(held_out[0])}"
            )

    def evaluates_on(self, task: Task) -> bool:
        return len(task.rows("test")) > 0  # type: ignore[attr-defined]  # whether or not new answers can be scored

    @property
    def compares(self) -> bool:
        return False

    def setup(self, task: Task) -> None:
        super().setup(task)
        if self.drawn:  # by a language model, which this one is not
            self.anchor = Anchor.named(self.reference or self.model, self.task)

    def make_policy(self) -> RewardPolicy:
        model, tokeniser = load_model(self.model, self.task)
        policy = RewardPolicy.on(model, tokeniser, self.adapter, self.adapter_alpha)
        head = model.get_output_embeddings().weight
        if head is model.get_input_embeddings().weight:  # what is tied is trained with the embeddings, else it stays
            head = policy.model.get_input_embeddings().weight
        self.language_head = head if self.lm_weight else None
        return policy

    def judged(self, samples: list[Sample]) -> list[Sample]:
        """Answers that end as those that it will be asked about are read."""
        assert isinstance(self.language_policy, RewardPolicy)
        return [self.language_policy.ended(sample) for sample in super().judged(samples)]

    def shard(self) -> None:
        Method.shard(self)

    def align(self, batch: Batch) -> Metrics:
        if self.lm_weight and self.lm_average == "token-mean" and len(batch):
            batch = batch.replace(weight=self.shares(batch))
        return super().align(batch)

    def shares(self, batch: Batch) -> list[Tensor]:
        """One over the mean length of the chosen answers of a minibatch's pairs, at each token of each answer."""
        length = torch.stack([part.mask.sum() for part in batch.parts]).float()
        share = 1 / length[self.paired(batch)[0]].mean()
        return [share.expand(len(part)) for part in batch.parts]

    def cost(self, piece: Batch, units: int) -> tuple[Tensor, Outputs]:
        """The share of some prompts in the mean over all pairs of a minibatch."""
        given, _ = judged_in(piece)
        better, worse = self.paired(piece)
        answers = self.seen(piece)
        if not bool(answers.score.isfinite().all()):
            raise Diverged("the scores of answers are no longer finite")
        margin = self.margin * (given[better] - given[worse])
        chosen, rejected = answers.at(better), answers.at(worse)
        weight = piece.parts[0].weight
        lm_weight = self.lm_weight if weight is None else self.lm_weight * weight[0]
        loss = bt_rm(chosen, rejected, margin=margin, lm_weight=lm_weight).sum() / units
        gap = (chosen.score - rejected.score).detach()
        return loss, {
            "loss/preference": loss,
            "tokens": torch.tensor(float(len(gap))),
            "reward/chosen": chosen.score.detach().sum(),
            "reward/rejected": rejected.score.detach().sum(),
            "preference/margin": gap.sum(),
            "preference/accuracy": (0.5 * (1 + gap.sign())).sum(),
        }

    def seen(self, piece: Batch) -> Answers:
        """Whole answers with the model's own scores."""
        assert isinstance(self.language_policy, RewardPolicy)
        tokens = Experience.cat(piece.parts)
        if self.language_head is None:
            return Answers(score=self.language_policy.rewards(tokens))
        score, logp = self.language_policy.rewards_and_logp(tokens, self.language_head)
        answer = torch.arange(len(piece)).repeat_interleave(torch.tensor([len(part) for part in piece.parts]))
        return Answers(score=score, logp=segment_sum(logp, answer, len(piece)))
