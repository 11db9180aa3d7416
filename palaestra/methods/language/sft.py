"""Supervised fine-tuning: maximum likelihood of given answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from palaestra.core.errors import Unsupported
from palaestra.core.experience import Experience
from palaestra.core.hints import PositiveInt
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.language.endings import warn_of_cut_answers
from palaestra.language.preferences import cut_off
from palaestra.language.rows import Row
from palaestra.methods.language.batch import Batch
from palaestra.methods.language.language import LanguageMethod, Schedule
from palaestra.nets.gradient import Outputs
from palaestra.objectives.offline import weighted_likelihood
from palaestra.objectives.segments import step_weights


@dataclass
class SFT(LanguageMethod):
    """Behaviour cloning of text: the mean log-likelihood per token of rows' completions, given their prompts."""

    paper: ClassVar[Paper] = Paper(
        "Training Language Models to Follow Instructions with Human Feedback", 2022, "2203.02155"
    )
    summary: ClassVar[str] = "supervised fine-tuning on good answers"

    lr: float = 1e-3
    """Adam's learning rate; 1e-5 is usual for pretrained models."""
    warmup: int = 20
    schedule: Schedule = "cosine"
    batch_size: PositiveInt = 64
    """Answers per update."""

    def setup(self, task: Task) -> None:
        if "completion" not in self.task.rows("train")[0]:
            raise Unsupported(f"the rows of {task.name} have no 'completion' to learn from; give each a good answer")
        super().setup(task)
        warn_of_cut_answers(
            self.task.rows("train"),
            lambda row: [(row["completion"], cut_off(row))] if "completion" in row else [],
            self.language_policy.tokeniser,
            task.name,
        )

    def step(self) -> Metrics:
        batch = self.batch_of(self.next_rows(self.batch_size, "rows"))
        self.set_rate()
        metrics = self.descend(self.loss, batch.micro(self.micro_tokens))
        self.counters.updates += 1
        self.counters.episodes += len(batch)
        return metrics

    def batch_of(self, rows: Sequence[Row]) -> Batch:
        """Some rows as tokens, with the weight of each in the loss."""
        self.language_policy.clip_table.clips = []
        batch = Batch([self.encoded(row, i) for i, row in enumerate(rows)])
        return batch.with_weights(lambda mask, segment: step_weights(mask, segment, "token-mean"))

    def encoded(self, row: Row, number: int) -> Experience:
        """A row as tokens, of which those of the answer, and its end unless it was cut off, are to be learnt."""
        prompt, clip = self.language_policy.asked(row)
        self.language_policy.clip_table.clips.append(clip)
        ids, mask = self.language_policy.with_answer(prompt, row["completion"], cut_off(row))
        segment = torch.full((len(ids),), number)
        return Experience(action=ids, mask=mask, segment=segment, row=segment if self.language_policy.sees else None)

    def loss(self, batch: Experience) -> tuple[Tensor, Outputs]:
        """The negative log-likelihood of some packed answers."""
        scored = self.language_policy.score(batch)
        chosen = batch.mask.bool()
        loss = (weighted_likelihood(scored.logp[chosen], batch.weight[chosen])) * chosen.sum()
        tokens = torch.tensor(float(chosen.sum()))
        return loss, {"loss/policy": loss, "tokens": tokens, "policy/entropy": scored.entropy[chosen].sum()}
