"""Beginnings of stories for a small story writer, such as stories260K, and rewards that a program can give for their ends."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from palaestra.core.errors import require
from palaestra.core.hints import PositiveInt
from palaestra.language.judges.judge import Judge
from palaestra.language.rows import Row
from palaestra.language.tasks.generated import GeneratedTask
from palaestra.language.verifiers.verdict import answer_text

GIRLS = ("Lily", "Mia", "Sue", "Anna", "Lucy", "Sara", "Amy", "Emma")
BOYS = ("Tim", "Ben", "Tom", "Max", "Sam", "Jack", "Bob", "Timmy")
HABITS = (
    "loved to play outside",
    "liked to play with toys",
    "loved to run in the park",
    "liked to help mom",
    "loved to look at the birds",
    "liked to sing and dance",
)
LOOKS = ("big", "little", "red", "blue", "pretty", "funny", "old", "shiny", "soft", "yellow")
THINGS = (
    *("ball", "cat", "dog", "bird", "tree", "car", "doll", "hat", "box", "flower", "cake", "boat"),
    *("fish", "bear", "book", "rock", "frog", "truck", "apple", "bag"),
)
HAPPY = frozenset(
    (
        "happy",
        "glad",
        "fun",
        "smile",
        "smiled",
        "laughed",
        "hugged",
        "love",
        "loved",
        "friend",
        "friends",
        "proud",
        "best",
    )
)
"""Words of a happy end."""
NEAR = 2
"""Sentences at the end in which one of them has to be."""


class Beginning(NamedTuple):
    """What a story is to be about."""

    name: str
    habit: str
    look: str
    thing: str


@dataclass
class StoriesTask(GeneratedTask):
    """`Once upon a time, … One day, she saw a big ball.` is to be a story of them both, short, fresh and with a happy end.

    Four rewards between 0 and 1: `mentions`, `ending`, `length` and `variety`; the score is their weighted mean. Held out are
    combinations of a name, a thing and its look. A model from scratch cannot take part: it needs one that writes stories.
    """

    summary = "Finish a short story about the one and the thing it began with, with a happy end"
    max_tokens = 96

    mentions: float = 1.0
    """Weight of the share of the two, name and thing, that the answer mentions."""
    ending: float = 1.0
    """Weight of ending with a sentence that is whole (a half) and happy (all)."""
    length: float = 1.0
    """Weight of having as many words as is asked for."""
    variety: float = 1.0
    """Weight of saying nothing twice: the share of runs of three words that are new."""
    words: tuple[int, int] = (20, 60)
    """The fewest and the most words of an answer that is as long as it should be."""
    limit: PositiveInt = 96
    """Tokens that an answer may have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = self.mentions, self.ending, self.length, self.variety
        require(min(weights) >= 0 and sum(weights) > 0, f"weights are at least 0 and not all 0, got {weights}")
        self.words = (int(self.words[0]), int(self.words[1]))
        require(1 <= self.words[0] <= self.words[1], f"words are the fewest and the most, got {self.words}")
        self.max_tokens = self.limit

    def draw(self, rng: random.Random) -> Beginning:
        return Beginning(rng.choice(GIRLS + BOYS), rng.choice(HABITS), rng.choice(LOOKS), rng.choice(THINGS))

    def key(self, problem: Beginning) -> str:
        return f"{problem.name} {problem.look} {problem.thing}"

    def row(self, problem: Beginning, rng: random.Random) -> Row:
        girl = problem.name in GIRLS
        article = "an" if problem.look[0] in "aeiou" else "a"
        prompt = (
            f"Once upon a time, there was a little {'girl' if girl else 'boy'} named {problem.name}. "
            f"{'She' if girl else 'He'} {problem.habit}. "
            f"One day, {'she' if girl else 'he'} saw {article} {problem.look} {problem.thing}."
        )
        return {"prompt": prompt, "words": [problem.name, problem.thing]}

    def judge(self) -> Judge:
        weights = {"mentions": self.mentions, "ending": self.ending, "length": self.length, "variety": self.variety}
        rewards = {"mentions": mentions, "ending": ending, "length": Length(*self.words), "variety": variety}
        total = sum(weights.values())
        return Judge(rewards, {name: weight / total for name, weight in weights.items()})


def mentions(completions: Sequence[Any], words: Sequence[Sequence[str]], **columns: Any) -> list[float]:
    """The share of a row's `words` that its answer has, in the singular, the plural or the genitive."""
    return [
        sum(any(f"{word.lower()}{end}" in said for end in ("", "s", "'s", "’s")) for word in sought) / len(sought)
        for said, sought in zip((set(spoken(answer_text(text))) for text in completions), words)
    ]


def ending(completions: Sequence[Any], **columns: Any) -> list[float]:
    """1 for an answer that ends with a whole sentence and happily, a half for one that only ends with a whole sentence."""
    return [_ending(answer_text(text)) for text in completions]


def _ending(text: str) -> float:
    text = text.rstrip().rstrip("\"'”’")
    if not text or text[-1] not in ".!?":
        return 0.0
    last = re.split(r"[.!?]+", text[:-1])[-NEAR:]
    return 1.0 if HAPPY & {word for sentence in last for word in spoken(sentence)} else 0.5


class Length:
    """A reward for having between `least` and `most` words; outside, it falls to 0 at none and at twice the most."""

    def __init__(self, least: int, most: int):
        self.least, self.most = least, most
        self.__name__ = "length"

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float]:
        counts = [len(spoken(answer_text(text))) for text in completions]
        return [max(0.0, min(1.0, count / self.least, 2 - count / self.most)) for count in counts]


def variety(completions: Sequence[Any], **columns: Any) -> list[float]:
    """The share of runs of three words that did not come before in the answer; 0 for one with fewer than three words."""
    rewards = []
    for text in completions:
        words = spoken(answer_text(text))
        runs = list(zip(words, words[1:], words[2:]))
        rewards.append(len(set(runs)) / len(runs) if runs else 0.0)
    return rewards


def spoken(text: str) -> list[str]:
    """The words of a text in small letters."""
    return re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", text.lower())
