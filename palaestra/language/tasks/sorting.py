"""Digits in order: the smallest task on which every piece of reinforcement learning of text can be seen at work."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palaestra.core.errors import require
from palaestra.core.hints import UnitInterval
from palaestra.language.judges.judge import Judge
from palaestra.language.rows import Row
from palaestra.language.tasks.in_words import TAGGED, InWords
from palaestra.language.verifiers.verdict import RIGHT, Verdict, Verified, unparseable, wrong


@dataclass
class Sorting(InWords):
    """`5391=` is answered with `1359`. Held out are sets of digits, in every order."""

    summary = "Write the digits of the prompt in ascending order"
    max_tokens = 9

    least: int = 2
    """The fewest digits."""
    most: int = 8
    """The most digits; every number of them between is equally likely."""
    noise: UnitInterval = 0.0
    """Share of demonstrations in which two unequal neighbours are swapped, so that imitation ends below 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.least <= self.most, f"digits go from least to most, got {self.least} to {self.most}")
        self.max_tokens = self.room(self.most + 1)

    def draw(self, rng: random.Random) -> list[int]:
        return [rng.randrange(10) for _ in range(rng.randint(self.least, self.most))]

    def key(self, problem: Sequence[int]) -> str:
        return _text(sorted(problem))

    def row(self, problem: Sequence[int], rng: random.Random) -> Row:
        answer = sorted(problem)
        shown = list(answer)
        swaps = [i for i in range(len(shown) - 1) if shown[i] != shown[i + 1]]
        if swaps and rng.random() < self.noise:
            i = rng.choice(swaps)
            shown[i], shown[i + 1] = shown[i + 1], shown[i]
        return {"prompt": _text(problem) + "=", "completion": _text(shown), "answer": _text(answer)}

    def judge(self) -> Judge:
        return Judge({"correct": Verified(self.reading(in_order))})

    def vocabulary(self) -> list[str]:
        return [*"0123456789", "="]

    def question(self, row: Row) -> str:
        return (
            f"Write the digits {row['prompt'].rstrip('=')} in ascending order, each as often as it stands there, with nothing "
            f"between them. {TAGGED}"
        )

    def plain(self, answer: str, row: Row) -> str:
        return "".join(answer.replace(",", " ").split())


def in_order(text: str, row: Mapping[str, Any]) -> Verdict:
    """Whether a text is the row's `answer` and nothing else."""
    text = text.strip()
    if not (text.isascii() and text.isdigit()):
        return unparseable("an answer is digits")
    return RIGHT if text == row["answer"] else wrong(f"{row['answer']} was sought")


def _text(digits: Sequence[int]) -> str:
    return "".join(map(str, digits))
