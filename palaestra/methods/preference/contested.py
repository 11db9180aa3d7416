"""What methods of rounds share that learn from contests between answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from palaestra.core.method import Method
from palaestra.core.task import Evaluation, Task
from palaestra.language.judges.kinds import PairJudge, preferences, win_rates
from palaestra.language.sample import Sample
from palaestra.language.task import TextTask

if TYPE_CHECKING:
    from collections.abc import Callable

    from palaestra.language.policy import LanguagePolicy


class Contested(Method):
    """Mixed into such a method: a pair judge must say which of two answers is better, the start is watched, and every evaluation
    has the policy play against what it was at the one before."""

    family: ClassVar[str] = "preference"
    watches_start: ClassVar[bool] = True

    if TYPE_CHECKING:
        language_policy: LanguagePolicy
        max_tokens: int | None
        compared: Callable[[Sequence[Sample]], Sequence[Any]]

    def find_judge(self, task: TextTask) -> None:
        task.pair_judge()

    def setup(self, task: Task) -> None:
        super().setup(task)
        # The last evaluation: what decides its prompts, and the answers to them.
        self.seed_before, self.said_before = 0, list[str]()

    def won(self, judge: PairJudge, samples: Sequence[Sample]) -> Tensor:
        """The mean probability `(n,)` of each answer's winning against another to the same prompt."""
        group = torch.tensor([s.group for s in samples], dtype=torch.int64)
        return win_rates(judge, [s.row for s in samples], self.compared(samples), group)

    def looked_at(self, evaluation: Evaluation) -> Evaluation:
        """Also how often the policy of now beats that of the evaluation before, on that one's prompts: its answers to them are
        there, and the policy of now gives new ones, with draws of their own."""
        evaluation = super().looked_at(evaluation)
        if self.said_before and evaluation.answers:
            task: TextTask = self.task if self.max_tokens is None else self.task.within(self.max_tokens)
            rows = task.asked(len(self.said_before) // task.evaluation_copies, self.seed_before)
            now = task.replies(self.language_policy, rows, evaluation.seed)
            judge = task.gold_pair_judge()
            won = preferences(judge, [s.row for s in now], [s.text for s in now], self.said_before)
            evaluation.measures["win_rate_previous"] = float(won.mean())
            self.counters.evaluation_steps += sum(int(s.mask.sum()) for s in now)
        self.seed_before, self.said_before = evaluation.seed, [s.text for s in evaluation.answers]
        return evaluation
