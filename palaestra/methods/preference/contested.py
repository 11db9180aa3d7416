"""Mixin of methods in rounds that learn from comparisons between the policy's own answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from palaestra.core.method import Method
from palaestra.core.task import Evaluation, Task
from palaestra.language.judges.contests import win_rates
from palaestra.language.judges.kinds import PairJudge, preferences
from palaestra.language.kept import packed, unpacked
from palaestra.language.rows import Row
from palaestra.language.sample import Sample, answers_of
from palaestra.language.task import TextTask

if TYPE_CHECKING:
    from palaestra.language.policy import LanguagePolicy


class Said:
    """The answers of an evaluation, which checkpoints hold."""

    def __init__(self, samples: Sequence[Sample] = ()):
        self.tensors: Mapping[str, Tensor] = packed(samples)

    def __len__(self) -> int:
        return len(self.tensors["lengths"])

    def samples(self, rows: Sequence[Row]) -> list[Sample]:
        """The answers, which were to `rows`."""
        return unpacked(self.tensors, rows)

    def state_dict(self) -> Mapping[str, Tensor]:
        return self.tensors

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.tensors = state


class Contested(Method):
    """Requires a pair judge, logs the divergence from the start, and measures at every evaluation the win rate against the policy
    of the evaluation before."""

    family: ClassVar[str] = "preference"
    watches_start: ClassVar[bool] = True

    if TYPE_CHECKING:
        language_policy: LanguagePolicy
        max_tokens: int | None

    def find_judge(self, task: TextTask) -> None:
        task.pair_judge()

    def setup(self, task: Task) -> None:
        super().setup(task)
        # The last evaluation: what decides its prompts, and the answers to them.
        self.seed_before, self.said_before = 0, Said()

    def won(self, judge: PairJudge, samples: Sequence[Sample]) -> Tensor:
        """The mean probability `(n,)` of each answer's winning against another to the same prompt."""
        group = torch.tensor([s.group for s in samples], dtype=torch.int64)
        return win_rates(judge, [s.row for s in samples], answers_of(samples), group)

    def looked_at(self, evaluation: Evaluation) -> Evaluation:
        """Also how often the policy of now beats that of the evaluation before, on that one's prompts: its answers to them are
        there, and the policy of now gives new ones, with draws of their own."""
        evaluation = super().looked_at(evaluation)
        if len(self.said_before) and evaluation.answers:
            task: TextTask = self.task if self.max_tokens is None else self.task.within(self.max_tokens)
            rows = task.asked(len(self.said_before) // task.evaluation_copies, self.seed_before)
            now, before = task.replies(self.language_policy, rows, evaluation.seed), self.said_before.samples(rows)
            judge = task.gold_pair_judge()
            won = preferences(judge, [s.row for s in now], answers_of(now), answers_of(before))
            evaluation.measures["win_rate_previous"] = float(won.mean())
            self.counters.evaluation_steps += sum(int(s.mask.sum()) for s in now)
        self.seed_before, self.said_before = evaluation.seed, Said(evaluation.answers)
        return evaluation
