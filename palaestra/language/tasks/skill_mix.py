"""Three skills with digits in one task: what preferences about some of them do to each."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from palaestra.core.errors import require
from palaestra.core.hints import PositiveFloat, PositiveInt, UnitInterval
from palaestra.language.judges.judge import Judge
from palaestra.language.rows import Row
from palaestra.language.tasks.generated import GeneratedTask
from palaestra.language.tasks.noisy_sort import BASE, UNIFORM, drawn, scored, share_right, spoilt
from palaestra.language.verifiers.verdict import answer_text

SKILLS: dict[str, Callable[[str], str]] = {
    "sort": lambda digits: "".join(sorted(digits)),
    "reverse": lambda digits: digits[::-1],
    "max": max,
}
"""What each skill makes of digits."""


class Asked(NamedTuple):
    skill: str
    digits: str


@dataclass
class SkillMix(GeneratedTask):
    """`sort 5301=` is answered with `0135`, `reverse 5301=` with `1035`, `max 5301=` with `5`.

    A score is the share of right places, the end's too, and is given under its skill's name. Demonstrations are spoilt as in
    `noisy-sort`. Data of other qualities are the same task with other settings: `flip=0.3` has preferences of which 30 percent
    are the wrong way round, `skills=("max",)` has some about one skill alone, and `skills=("reverse",)` are prompts that target
    one. All skills are evaluated, whatever is trained on. Held out are digits with their skill.
    """

    summary = "Sort, reverse or find the largest of four digits, from data of several qualities"
    max_tokens = 5
    sampled = True
    start_updates = 1500
    updates = 400
    evaluation_episodes = 600

    train_rows: int = 3000
    """Rows of the training split."""
    skills: tuple[str, ...] = tuple(SKILLS)
    """Skills that are asked for in the training split."""
    noise: UnitInterval = UNIFORM
    """Share of digits that is drawn anew in demonstrations."""
    answers: PositiveInt = 2
    """Demonstrations in a row."""
    flip: UnitInterval = 0.0
    """Share of the rows whose scores are the wrong way round."""
    scale: PositiveFloat = 1.0
    """What the scores that are learnt from are multiplied by."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.skills = tuple(self.skills)
        require(
            bool(self.skills) and set(self.skills) <= set(SKILLS),
            f"skills are of {', '.join(SKILLS)}, got {self.skills}",
        )

    def draw(self, rng: random.Random) -> Asked:
        return Asked(rng.choice(tuple(SKILLS)), drawn(4, rng))

    def key(self, problem: Asked) -> str:
        return " ".join(problem)

    def belongs(self, problem: Asked, split: str) -> bool:
        return (split == "test" or problem.skill in self.skills) and super().belongs(problem, split)

    def row(self, problem: Asked, rng: random.Random) -> Row:
        truth = SKILLS[problem.skill](problem.digits)
        shown = [spoilt(truth, self.noise, rng) for _ in range(self.answers)]
        made = scored(shown, truth, self.flip, self.scale, rng)
        return {"prompt": f"{problem.skill} {problem.digits}=", "skill": problem.skill, **made}

    def judge(self) -> Judge:
        return Judge({skill: partial(right_of, skill) for skill in SKILLS}, [self.scale] * len(SKILLS))

    def gold(self) -> Judge:
        return Judge({skill: partial(right_of, skill) for skill in SKILLS})

    def vocabulary(self) -> list[str]:
        return [*(f"{skill} " for skill in SKILLS), *map(str, range(BASE)), "="]


def right_of(
    which: str, completions: Sequence[Any], answer: Sequence[str], skill: Sequence[str], **columns: Any
) -> list[float | None]:
    """A reward function of one skill: `share_right`, None for rows of the others."""
    return [
        share_right(answer_text(text), truth) if asked == which else None
        for text, truth, asked in zip(completions, answer, skill)
    ]
