"""A contextual bandit as one-token answers: what is seen of a policy by sampling can be computed from its probabilities."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from palaestra.core.errors import require, unknown
from palaestra.core.hints import NonNegativeFloat, PositiveInt
from palaestra.core.seeding import seed_for
from palaestra.language.judges.judge import Judge
from palaestra.language.rows import LazyRows, Row
from palaestra.language.task import TextTask
from palaestra.language.tokenisers import word_tokeniser
from palaestra.language.verifiers.knights import SCORES
from palaestra.language.verifiers.verdict import answer_text, each_row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from palaestra.language.policy import LanguagePolicy

Worth = Literal["binary", "levels", "cubed"]
END = ";"
"""Ends the name of an arm, and with it the answer."""


@dataclass
class Bandit(TextTask):
    """`17:` is answered with one of the arms, `5;`; what that is worth is drawn once for each context and arm.

    Rewards are "binary", 1 for a share of the arms of each context; of "levels" 1 to 4, a share of level 1 and equally many of
    the others, worth 3, -0.5, -1 and -3; or "cubed", u³ of a uniform u. Demonstrations show arms whose worth has nothing to do
    with how often they are shown, so that a model that imitates them has habits, and no knowledge. Both splits ask about the
    same contexts: there is nothing to generalise to, and evaluation is on what was trained on.
    """

    summary = "Choose one of many arms for each context; its worth is drawn once"
    max_tokens = 1
    stop = (END,)
    evaluation_episodes = 256

    contexts: PositiveInt = 256
    """How many different prompts."""
    arms: int = 64
    """How many answers."""
    worth: Worth = "binary"
    """What arms are worth: 0 or 1, a level, or a cubed uniform number."""
    share: float = 0.25
    """Share of arms that are right, or of level 1."""
    habit: NonNegativeFloat = 2.0
    """Deviation of the logits of arms in demonstrations; 0 shows all equally often."""
    train_rows: PositiveInt = 100_000
    """Demonstrations; every context takes its turn."""
    seed: int = 0
    """Which table of worths and which habits are drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.arms >= 2, f"arms must be at least 2, got {self.arms}")
        require(self.worth in get_args(Worth), f"worth is {', '.join(get_args(Worth))}, got {self.worth!r}")
        require(0 < self.share <= 1, f"share must be above 0 and at most 1, got {self.share}")

    # The table.

    @cached_property
    def levels(self) -> Tensor:
        """The level of every arm in every context, `(contexts, arms)`: 1 for the best; for others 2 where worth is binary."""
        place = self._uniform.argsort(-1).argsort(-1)
        best = max(1, round(self.share * self.arms))
        if self.worth == "binary":
            return torch.where(place < best, 1, 2)
        return torch.where(place < best, 1, 2 + 3 * (place - best) // max(1, self.arms - best))

    @cached_property
    def rewards(self) -> Tensor:
        """What every arm is worth in every context, `(contexts, arms)`."""
        if self.worth == "cubed":
            return (1 - self._uniform) ** 3
        if self.worth == "binary":
            return (self.levels == 1).float()
        return torch.tensor([0.0, *SCORES.values()])[self.levels]

    @cached_property
    def _shares(self) -> list[list[float]]:
        return self.habits.cumsum(-1).tolist()

    @cached_property
    def _uniform(self) -> Tensor:
        generator = torch.Generator().manual_seed(seed_for(self.seed, "bandit/worth"))
        return torch.rand(self.contexts, self.arms, generator=generator)

    @cached_property
    def habits(self) -> Tensor:
        """How likely each arm is to be demonstrated, `(contexts, arms)`."""
        generator = torch.Generator().manual_seed(seed_for(self.seed, "bandit/habits"))
        return (self.habit * torch.randn(self.contexts, self.arms, generator=generator)).softmax(-1)

    # The task.

    def rows(self, split: str) -> LazyRows:
        sizes = {"train": self.train_rows, "test": self.contexts}
        if split not in sizes:
            raise unknown("split", split, sizes)
        return LazyRows(sizes[split], self._row)

    def _row(self, index: int) -> Row:
        context = index % self.contexts
        shown = random.Random(seed_for(self.seed, "bandit/demonstrations", index))
        (arm,) = shown.choices(range(self.arms), cum_weights=self._shares[context])
        return {"prompt": f"{context}:", "completion": f"{arm}{END}", "context": context}

    def judge(self) -> Judge:
        return Judge({"worth": self.reward})

    def reward(self, completions: Sequence[Any], **columns: Any) -> list[float]:
        """A reward function: what the named arms are worth; no arm is worth what the worst one is."""
        worst = float(self.rewards.min())
        found = []
        for completion, row in zip(completions, each_row(columns, len(completions))):
            arm = self.arm(answer_text(completion))
            found.append(worst if arm is None else float(self.rewards[row["context"], arm]))
        return found

    def level(self, text: str, row: Mapping[str, Any]) -> int:
        """The level of an answer; 4 if it names no arm."""
        arm = self.arm(text)
        return 4 if arm is None else int(self.levels[row["context"], arm])

    def arm(self, text: str) -> int | None:
        """The arm that a text names, and nothing else."""
        if not (text.isascii() and text.isdigit() and text == str(int(text))):
            return None
        return int(text) if int(text) < self.arms else None

    def tokeniser(self) -> PreTrainedTokenizerBase:
        return word_tokeniser([*(f"{i}:" for i in range(self.contexts)), *(f"{i}{END}" for i in range(self.arms))])

    # The policy.

    @torch.no_grad()
    def probabilities(self, policy: LanguagePolicy) -> Tensor:
        """How likely a policy is to choose each arm in each context, `(contexts, arms)`; what is missing to 1 is no arm."""
        prompts = torch.stack([policy.prompt_ids(f"{i}:") for i in range(self.contexts)])
        answers = torch.stack([policy.completion_ids(f"{i}{END}")[0] for i in range(self.arms)])
        logits = policy.model(input_ids=prompts, use_cache=False).logits[:, -1]
        return logits.float().softmax(-1)[:, answers]
