"""Digits in order, shown with errors: a task for learning from preferences, whose truth is a program."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from palaestra.core.errors import require
from palaestra.core.hints import PositiveFloat, PositiveInt, UnitInterval
from palaestra.language.judges.judge import Judge
from palaestra.language.judges.kinds import PairJudge
from palaestra.language.judges.wrappers import NoisyPairs
from palaestra.language.rows import Row
from palaestra.language.tasks.generated import GeneratedTask
from palaestra.language.verifiers.verdict import answer_text

BASE = 8
"""Digits are 0 to 7."""
UNIFORM, BIASED = 0.35, 0.55
"""Shares of digits that are spoilt unless `noise` says otherwise."""
MIX = (0.15, 0.8)
"""The noise of either half of the rows of a mix."""


@dataclass
class NoisySort(GeneratedTask):
    """`5310=` is answered with `0135`, but demonstrations have wrong digits. A score is the share of right places, the end's too.

    With `biased`, every spoilt digit is the next one, so that the likeliest answer of who imitates them is wrong; otherwise it is
    drawn anew, and may be right by chance. A row's `completions` are independent demonstrations with their `scores`; the first of
    them is its `completion`. Held out are prompts: digits in one order may be trained on in another.
    """

    summary = "Write digits in ascending order, from demonstrations with errors and from preferences"
    max_tokens = 5
    sampled = True
    start_updates = 900
    updates = 400
    evaluation_episodes = 400

    train_rows: int = 3000
    """Rows of the training split."""
    digits: PositiveInt = 4
    """Digits of a prompt."""
    noise: UnitInterval | None = None
    """Share of digits that is spoilt; by default 0.35, or 0.55 if biased."""
    biased: bool = False
    """Spoil a digit by adding one (7 becomes 0), rather than by drawing another."""
    mix: bool = False
    """Spoil a share of 0.15 in half of the rows and of 0.8 in the others, in place of `noise`."""
    places: tuple[int, ...] = ()
    """The places whose digits may be spoilt, the first is 1; all if empty."""
    answers: PositiveInt = 2
    """Demonstrations in a row."""
    flip: UnitInterval = 0.0
    """Share of the rows whose scores are the wrong way round, and of the pairs that the pair judge gets wrong."""
    scale: PositiveFloat = 1.0
    """What the scores that are learnt from are multiplied by."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not self.mix or self.noise is None, "a mix has its own noise: leave noise out, or mix")
        self.places = tuple(self.places)
        require(
            all(1 <= place <= self.digits for place in self.places),
            f"places are between 1 and {self.digits}, got {self.places}",
        )
        self.max_tokens = self.digits + 1

    def draw(self, rng: random.Random) -> str:
        return drawn(self.digits, rng)

    def row(self, problem: str, rng: random.Random) -> Row:
        truth = "".join(sorted(problem))
        noise = self.noise if self.noise is not None else BIASED if self.biased else UNIFORM
        if self.mix:
            noise = rng.choice(MIX)
        shown = [spoilt(truth, noise, rng, self.biased, self.places) for _ in range(self.answers)]
        return {"prompt": f"{problem}=", **scored(shown, truth, self.flip, self.scale, rng)}

    def judge(self) -> Judge:
        return Judge({"right": right}, {"right": self.scale})

    def gold(self) -> Judge:
        return Judge({"right": right})

    def pair_judge(self) -> PairJudge:
        return NoisyPairs(super().pair_judge(), self.flip, self.seed) if self.flip else super().pair_judge()

    def vocabulary(self) -> list[str]:
        return [*map(str, range(BASE)), "="]


def drawn(count: int, rng: random.Random) -> str:
    """Digits, each as likely as any other."""
    return "".join(str(rng.randrange(BASE)) for _ in range(count))


def spoilt(digits: str, noise: float, rng: random.Random, biased: bool = False, places: Sequence[int] = ()) -> str:
    """The digits with a share `noise` of them replaced: by the next digit if `biased`, else by one that is drawn.

    Only those at `places`, counted from 1, if there are any.
    """
    made = list(digits)
    for i, digit in enumerate(digits):
        if (not places or i + 1 in places) and rng.random() < noise:
            made[i] = str((int(digit) + 1) % BASE if biased else rng.randrange(BASE))
    return "".join(made)


def scored(shown: Sequence[str], truth: str, flip: float, scale: float, rng: random.Random) -> dict[str, Any]:
    """The columns of a row with these demonstrations, the first of them for imitation.

    With probability `flip` the scores are mirrored, so that the best answer has the worst one's and gaps stay as they are.
    """
    scores = [scale * share_right(text, truth) for text in shown]
    if rng.random() < flip:
        scores = [max(scores) + min(scores) - score for score in scores]
    return {"completion": shown[0], "completions": list(shown), "scores": scores, "answer": truth}


def share_right(text: str, truth: str) -> float:
    """The share of the places of `truth`, and of its end, at which a text has what belongs there."""
    return (sum(a == b for a, b in zip(text, truth)) + (len(text) == len(truth))) / (len(truth) + 1)


def right(completions: Sequence[Any], answer: Sequence[str], **columns: Any) -> list[float]:
    """A reward function: `share_right` of a row's `answer`."""
    return [share_right(answer_text(text), truth) for text, truth in zip(completions, answer)]
