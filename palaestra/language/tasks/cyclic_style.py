"""Answers in styles that beat each other in a circle: preferences that no score explains."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.hints import UnitInterval
from palaestra.language.judges.judge import Judge
from palaestra.language.judges.kinds import PairJudge
from palaestra.language.rows import Row
from palaestra.language.tasks.generated import GeneratedTask
from palaestra.language.tasks.noisy_sort import share_right
from palaestra.language.verifiers.verdict import answer_text

STYLES = "ABC"
LETTERS = "abcdefghijklmnop"
CONTENT = 4
"""Letters of an answer's content."""


@dataclass
class CyclicStyle(GeneratedTask):
    """`fk` is answered with a style and the two letters forth and back, `Bfkkf`.

    Of answers in different styles, A is preferred to B, B to C and C to A, with probability `prefer`; of two in the same style,
    the one with more of its content right. What has no style loses to what has. Demonstrations are in the styles with
    probabilities `styles`, and letters of theirs are spoilt. A score, which evaluation measures and methods without a pair
    judge learn from, is the share of the content that is right, the end's place too, and says nothing about styles. Held out are
    prompts.
    """

    summary = "Answer in a style that beats another in a circle: for methods that learn from pairs"
    max_tokens = CONTENT + 2
    sampled = True
    start_updates = 900
    updates = 400
    evaluation_episodes = 400

    train_rows: int = 3000
    """Rows of the training split."""
    prefer: UnitInterval = 0.8
    """Probability with which a style beats the next one."""
    styles: tuple[float, ...] = (0.6, 0.3, 0.1)
    """How often demonstrations are in the styles A, B and C."""
    noise: UnitInterval = 0.35
    """Share of the letters of a demonstration's content that is drawn anew."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.styles = tuple(self.styles)
        require(
            len(self.styles) == len(STYLES) and min(self.styles) >= 0 and abs(sum(self.styles) - 1) < 1e-6,
            f"styles are {len(STYLES)} probabilities that add up to 1, got {self.styles}",
        )

    def draw(self, rng: random.Random) -> str:
        return rng.choice(LETTERS) + rng.choice(LETTERS)

    def row(self, problem: str, rng: random.Random) -> Row:
        """The problem with two demonstrations, of which the judge prefers the one that scores 1; both score 1/2 if they tie."""
        row = {"prompt": problem, "answer": problem + problem[::-1]}
        shown = [self._shown(row["answer"], rng) for _ in range(2)]
        chance = self.chance(row, *shown)
        won = 0.5 if chance == 0.5 else float(rng.random() < chance)
        return {**row, "completion": shown[0], "completions": shown, "scores": [won, 1 - won]}

    def _shown(self, truth: str, rng: random.Random) -> str:
        (style,) = rng.choices(STYLES, self.styles)
        return style + "".join(rng.choice(LETTERS) if rng.random() < self.noise else letter for letter in truth)

    def chance(self, row: Mapping[str, Any], first: str, second: str) -> float:
        """The probability that the first answer is preferred."""
        one, other = style_of(first), style_of(second)
        if one != other:
            return self._beats(one, other)
        gap = content(first, row["answer"]) - content(second, row["answer"])
        return 0.5 if gap == 0 else float(gap > 0)

    def _beats(self, one: str, other: str) -> float:
        if not one or not other:
            return float(bool(one))
        return self.prefer if (STYLES.index(other) - STYLES.index(one)) % len(STYLES) == 1 else 1 - self.prefer

    def table(self) -> Tensor:
        """The probability that the style of the row is preferred to that of the column, `(3, 3)`."""
        return torch.tensor([[0.5 if one == other else self._beats(one, other) for other in STYLES] for one in STYLES])

    def pair_judge(self) -> PairJudge:
        def cyclic(rows: Sequence[Row], first: Sequence[str], second: Sequence[str]) -> Tensor:
            return torch.tensor([self.chance(*asked) for asked in zip(rows, first, second)])

        cyclic.antisymmetric = True  # type: ignore[attr-defined]
        return cyclic

    def gold_pair_judge(self) -> PairJudge:
        return self.pair_judge()

    def judge(self) -> Judge:
        return Judge({"content": content_right})

    def vocabulary(self) -> list[str]:
        return [*STYLES, *LETTERS]


def style_of(text: str) -> str:
    """The style of an answer; empty if it has none."""
    return text[:1] if text[:1] and text[0] in STYLES else ""


def content(text: str, truth: str) -> float:
    """The share of places after the style, and of the end's, at which an answer has what belongs there."""
    return share_right(text[len(style_of(text)) :], truth)


def content_right(completions: Sequence[Any], answer: Sequence[str], **columns: Any) -> list[float]:
    """A reward function: the share of the content that is right."""
    return [content(answer_text(text), truth) for text, truth in zip(completions, answer)]
