"""How often one of several answers is right: pass@k of a policy on a task's held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.language.generation.sampling import Sampling
from palaestra.language.policy import LanguagePolicy
from palaestra.language.task import TextTask
from palaestra.objectives.coverage import pass_at_k


@dataclass(frozen=True)
class Passes:
    """Of each prompt, how many of its `samples` answers were right, and how many different ones."""

    right: Tensor  # (n,)
    distinct: Tensor  # (n,)
    samples: int

    def of_each(self, k: int) -> Tensor:
        """pass@k of each prompt, without bias, `(n,)`."""
        return pass_at_k(self.right, self.samples, k)

    def at(self, k: int) -> float:
        """pass@k over all prompts."""
        return float(self.of_each(k).mean())


def passes(
    policy: LanguagePolicy,
    task: TextTask,
    samples: int,
    prompts: int,
    seed: int = 0,
    right_from: float = 1.0,
    sampling: Sampling | None = None,
) -> Passes:
    """`samples` answers to each of the first `prompts` held-out prompts; right are those that score at least `right_from`."""
    require(samples >= 1 and prompts >= 1, f"pass@k needs answers and prompts, got {samples} to {prompts}")
    held_out = task.rows("test")
    rows = [held_out[i] for i in range(min(prompts, len(held_out)))]
    answers = policy.answer(
        rows,
        copies=samples,
        max_tokens=task.max_tokens,
        sampling=sampling,
        stop=task.stop,
        environment=task.environment,
        seed=seed,
    )
    require(
        len(answers) == len(rows) * samples,
        f"pass@k counts {samples} answers to each prompt, and some have no more to give",
    )
    with task.gold() as judge:
        score = judge(answers).total
    texts: list[set[str]] = [set() for _ in rows]
    for sample, correct in zip(answers, (score >= right_from).tolist(), strict=True):
        if correct:
            texts[sample.group].add(sample.text)
    right = (score >= right_from).view(len(rows), samples).sum(-1)
    return Passes(right, torch.tensor([len(t) for t in texts]), samples)


def rates(found: Passes, ks: Sequence[int]) -> dict[str, float]:
    """pass@k by name, for a few k, and how many different right answers a prompt got."""
    return {**{f"pass@{k}": found.at(k) for k in ks}, "distinct_right": float(found.distinct.float().mean())}
