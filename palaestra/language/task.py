"""Prompts with a judge as a task: what a language policy is asked, and how its answers are scored."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gymnasium.spaces import Text
from torch import Tensor

from palaestra.core import registry
from palaestra.core.errors import PalaestraError, Unscored, require
from palaestra.core.hints import check_ranges
from palaestra.core.method import labelled
from palaestra.core.policy import Policy
from palaestra.core.seeding import seed_for
from palaestra.core.task import Evaluation
from palaestra.language.judges.calls import Caller
from palaestra.language.judges.judge import Judge
from palaestra.language.judges.kinds import PairJudge, RewardScorer, Sign
from palaestra.language.rows import Message, Row, Rows, shown_prompt
from palaestra.language.sample import Sample, distinct

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Reply = str | Message | Sequence[Message]
"""What an environment says: text that is read as it is, or messages that the model's chat template writes."""
Environment = Callable[[str], "Reply | None"]
"""What replies to a turn of the policy, given as text: what the policy reads before its next turn, or None at the end."""
EXAMPLES = 5
"""Answers of an evaluation that are kept to be looked at."""
TEXT = Text(max_length=1 << 20)
"""The space of prompts and of answers."""


class Answering:
    """How answers are generated. These are attributes and not settings, so this is no dataclass: a task sets them in its class,
    or in `__post_init__` where they depend on its settings."""

    max_tokens: int = 64
    """The longest sensible answer; methods ask for at most that many unless told otherwise."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer, or special tokens as they are written, besides the model's own end of sequence."""
    sampled: bool = False
    """Whether an evaluation samples its answers at temperature 1, rather than taking the likeliest tokens."""
    evaluation_answers: int = 1
    """Answers to each prompt of an evaluation, where they are sampled."""


@dataclass
class TextTask(Answering):
    """Base of tasks in text. A subclass is a dataclass whose fields are its settings, and defines `rows` and `judge`.

    What `rows("train")` and `rows("test")` hold must be disjoint, and must not depend on anything but the settings.
    """

    offers: ClassVar[str] = "prompts"
    summary: ClassVar[str] = ""
    observation_space: ClassVar[Text] = TEXT
    action_space: ClassVar[Text] = TEXT

    evaluation_episodes: ClassVar[int] = 100
    """Prompts per evaluation, unless the engine is told otherwise."""
    start_updates: ClassVar[int] = 0
    """Updates of supervised fine-tuning on completions after which a tiny model can answer; 0 where the task cannot say."""
    updates: ClassVar[int | None] = None
    """Updates of a run or a comparison that does not say how long; None where it has to."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def rows(self, split: str) -> Rows:
        """The prompts of a split, "train" or "test"."""
        raise NotImplementedError

    def environment(self, row: Row) -> Environment | None:
        """What replies to an answer's turns, made anew for every answer; None where an answer is one turn.

        A turn ends at a text of `stop` or at the model's own end of sequence. What is replied counts among the answer's tokens,
        is never learnt from, and is no part of what judges read. Both this and what it makes may be `async`.
        """
        return None

    def judge(self) -> Judge:
        """What scores answers that are learnt from; it may hold processes or caches, so each user makes one."""
        raise NotImplementedError

    def gold(self) -> Judge:
        """What scores answers in evaluations: what is really wanted, where `judge` is only a proxy for it."""
        return self.judge()

    def pair_judge(self) -> PairJudge:
        """What says which of two answers is better; by default, the one with the better score of `judge`."""
        return Sign(RewardScorer(self.judge()))

    def gold_pair_judge(self) -> PairJudge:
        """What says in evaluations which of two answers is better; by default, the one with the better score of `gold`."""
        return Sign(RewardScorer(self.gold()))

    def lasting_judges(self) -> dict[str, Any]:
        """Judges and reward functions that last as long as the task, by name: what they remember of what they were asked, if they
        have `state_dict` and `load_state_dict`, is in checkpoints."""
        return {}

    def tokeniser(self) -> PreTrainedTokenizerBase | None:
        """The tokeniser of models from scratch; None where only a pretrained model can take part."""
        return None

    @property
    def name(self) -> str:
        """What it is called, with the settings that are not the default ones, as in `countdown-numbers=4`."""
        changed = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return labelled(registry.source_of(type(self)).rpartition(":")[2], changed)

    @property
    def label(self) -> str:
        """The name of the task in the names of folders."""
        return self.name

    @property
    def evaluates(self) -> bool:
        """Whether there are held-out prompts to evaluate on."""
        return len(self.rows("test")) > 0

    def evaluate(self, policy: Policy, episodes: int, seed: int, video: Path | None = None) -> Evaluation:
        """Answer `episodes` held-out prompts, greedily unless the task is `sampled`; a return is a score, a length in tokens.

        A reward model is asked about as many pairs of the answers that held-out rows bring; a return is 1 where it is right.
        """
        require(episodes >= 1, f"the number of episodes must be at least 1, got {episodes}")
        if video is not None:
            raise PalaestraError(f"{self.name} is text, of which there is no film")
        if hasattr(policy, "agreement"):  # what scores answers, and gives none
            return policy.agreement(self, episodes, seed)
        samples = self.replies(policy, self.asked(episodes, seed), seed)
        with self.gold() as judge:
            judged = judge(samples)
        scores = judged.total
        scored = (~scores.isnan()).nonzero().squeeze(-1).tolist()
        if not scored:
            complaint = "".join(f"; {text}" for text in judged.complaints.values())
            raise Unscored(f"the judge of {self.name} could not score a single answer of an evaluation{complaint}")
        examples = [
            {"prompt": shown_prompt(samples[i].row["prompt"]), "answer": samples[i].text, "score": float(scores[i])}
            for i in scored[:EXAMPLES]
        ]
        lengths = [int(samples[i].mask.sum()) for i in scored]
        said = [sample.ids[sample.mask] for sample in samples]
        measures = {f"distinct_{n}": distinct(said, n) for n in (1, 2, 3)}
        return Evaluation([float(scores[i]) for i in scored], lengths, examples, measures, samples, seed)

    def asked(self, prompts: int, seed: int) -> list[Row]:
        """Some held-out rows; which ones is a function of the seed."""
        rows = self.rows("test")
        require(len(rows) > 0, f"{self.name} has no held-out prompts to evaluate on")
        start = seed_for(seed, "evaluate") % len(rows)
        return [rows[(start + i) % len(rows)] for i in range(min(prompts, len(rows)))]

    def answered(
        self, policy: Policy, prompts: int, seed: int, *, copies: int = 1, **how: Any
    ) -> tuple[list[Sample], Tensor]:
        """`copies` answers to each of some held-out prompts, and their scores `(prompts * copies,)`, NaN where there is none.

        `how` goes to `LanguagePolicy.answer`. Which prompts is a function of the seed.
        """
        samples = self.replies(policy, self.asked(prompts, seed), seed, copies=copies, **{"greedy": False, **how})
        with self.gold() as judge:
            return samples, judge(samples).total

    @property
    def evaluation_copies(self) -> int:
        """How many answers an evaluation asks for to each prompt."""
        return self.evaluation_answers if self.sampled else 1

    def replies(self, policy: Policy, rows: Sequence[Row], seed: int, **how: Any) -> list[Sample]:
        """A policy's answers to some prompts, as evaluations ask for them but for what `how` says."""
        usual = {
            "copies": self.evaluation_copies,
            "greedy": not self.sampled,
            "max_tokens": self.max_tokens,
            "stop": self.stop,
        }
        return policy.answer(rows, seed=seed, **{**usual, "environment": self.environment, **how})

    def within(self, limit: int) -> TextTask:
        """The same task with answers of at most `limit` tokens."""
        task = copy.copy(self)
        task.max_tokens = min(limit, self.max_tokens)
        return task

    def sampling(self) -> TextTask:
        """The same task with evaluations that sample their answers."""
        task = copy.copy(self)
        task.sampled = True
        return task

    def describe(self) -> dict[str, Any]:
        """The task as JSON, enough to make it again."""
        settings = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"kind": "prompts", "spec": registry.source_of(type(self)), "kwargs": settings}


def talks(environment: Callable[[Row], Any] | None, row: Row) -> bool:
    """Whether anybody replies to the turns of an answer to a row."""
    return environment is not None and Caller().ask(partial(environment, row), None) is not None
