"""Addition, digit by digit: with carries thought out before the sum, and of a fixed length if wanted."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from palaestra.core.errors import require
from palaestra.language.judges.judge import Judge
from palaestra.language.rows import Row
from palaestra.language.tasks.in_words import TAGGED, InWords, tagged
from palaestra.language.verifiers.format import ANSWER, ANSWERED, TAGS, THINK, THOUGHT, Tagged, between, tags_in_order
from palaestra.language.verifiers.verdict import RIGHT, Verdict, Verified, unparseable, wrong

DIGITS = 18
"""No sum is longer."""


@dataclass
class Arithmetic(InWords):
    """`47+85=` is answered with `<think>1</think><answer>132</answer>`: the carries from right to left, then the sum.

    With two digits of fixed length that is addition with one scratch token in an answer of 8 tokens, on which masked diffusion
    can be tried; models without an end of sequence take `answer_tokens` for the length. Held out are pairs of numbers, in
    either order.
    """

    summary = "Add two numbers, carries first"
    max_tokens = 9

    digits: int = 2
    """The most digits of a number."""
    scratch: bool = True
    """Demonstrate carries between think tags, and the sum between answer tags; otherwise the sum alone."""
    fixed: bool = True
    """Write all numbers with leading zeros, so that all prompts are of one length and all answers are."""
    format_weight: float = 0.0
    """Weight of a reward for tags that stand exactly once and in order; being right has weight 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.digits < DIGITS, f"digits must be between 1 and {DIGITS - 1}, got {self.digits}")
        require(
            self.scratch or not self.format_weight, "a reward for the format needs scratch: there are no tags without"
        )
        self.max_tokens = self.room(self.answer_tokens + 1)

    @property
    def answer_tokens(self) -> int:
        """Tokens of the longest answer, and of every one if `fixed`, without the end of sequence."""
        return self.digits + 1 + (self.digits - 1 + len(TAGS) if self.scratch else 0)

    def draw(self, rng: random.Random) -> tuple[int, int]:
        if self.fixed:
            return rng.randrange(10**self.digits), rng.randrange(10**self.digits)
        a, b = (rng.randrange(10 ** rng.randint(1, self.digits)) for _ in range(2))
        return a, b

    def key(self, problem: tuple[int, int]) -> str:
        return f"{min(problem)}+{max(problem)}"

    def row(self, problem: tuple[int, int], rng: random.Random) -> Row:
        a, b = problem
        width = self.digits if self.fixed else 1
        total = str(a + b).zfill(width + 1 if self.fixed else 1)
        if self.scratch:
            places = self.digits if self.fixed else max(len(str(a)), len(str(b)))
            carries = "".join(map(str, carries_of(a, b, places)[:-1]))
            total = f"{THINK}{carries}{THOUGHT}{ANSWER}{total}{ANSWERED}"
        return {"prompt": f"{a:0{width}}+{b:0{width}}=", "completion": total, "answer": a + b}

    def judge(self) -> Judge:
        correct = Verified(tagged_sum if self.scratch and not self.worded else self.reading(bare_sum))
        if not self.scratch:
            return Judge({"correct": correct})
        return Judge({"correct": correct, "format": Tagged()}, {"correct": 1.0, "format": self.format_weight})

    def vocabulary(self) -> list[str]:
        return [*"0123456789+=", *TAGS]

    def question(self, row: Row) -> str:
        a, b = map(int, row["prompt"].rstrip("=").split("+"))
        return f"What is {a} + {b}? {TAGGED}"

    def shown(self, row: Row) -> str:
        return tagged(str(row["answer"]))

    def plain(self, answer: str, row: Row) -> str:
        return answer.replace(",", "")


def carries_of(a: int, b: int, places: int) -> list[int]:
    """What each of the last `places` digits carries to the one before it, from right to left."""
    return [int(a % 10**k + b % 10**k >= 10**k) for k in range(1, places + 1)]


def bare_sum(text: str, row: Mapping[str, Any]) -> Verdict:
    """Whether a text is the row's `answer` in digits; leading zeros do not matter."""
    text = text.strip()
    if not re.fullmatch(f"[0-9]{{1,{DIGITS}}}", text):
        return unparseable("a sum is digits")
    return RIGHT if int(text) == row["answer"] else wrong(f"the sum is {row['answer']}")


def tagged_sum(text: str, row: Mapping[str, Any]) -> Verdict:
    """Whether the row's `answer` stands between answer tags, in a text in which each tag stands once and in order."""
    inside = between(text)
    if inside is None or not tags_in_order(text):
        return unparseable("a sum stands between answer tags, after a thought between think tags")
    return bare_sum(inside, row)
