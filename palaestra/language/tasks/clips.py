"""Short clips of coloured squares with questions that have one answer: video for models of a hundred thousand parameters."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from palaestra.core.hints import NonNegativeInt, PositiveInt, UnitInterval
from palaestra.language.judges.judge import Judge
from palaestra.language.rows import Row
from palaestra.language.tasks.generated import GeneratedTask
from palaestra.language.verifiers.format import ANSWER, ANSWERED, TAGS, THINK, THOUGHT, between, tags_in_order
from palaestra.language.verifiers.verdict import RIGHT, Verdict, Verified, unparseable, wrong

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
DARK = "dark"
WAYS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
IN_WORDS = {
    "colour?": "What colour is the square?",
    "first?": "The square changes its colour. What colour was it first?",
    "way?": "Which way does the square move: left, right, up or down?",
    "flashes?": "In how many of the eight frames is there no square?",
}
QUESTIONS = tuple(IN_WORDS)
TAGGED = " Think between <think> and </think>, then write the answer alone between <answer> and </answer>."
PLACE = ("<|vision_start|>", "<|video_pad|>", "<|vision_end|>")
"""Where a clip stands in a prompt, as models of Qwen2-VL's form have it."""
FRAMES, SIDE, SQUARE, MOST = 8, 16, 4, 3


class Scene(NamedTuple):
    """What a clip shows, and what is asked about it."""

    asked: str  # one of the questions
    colours: tuple[str, str]  # in the first half and in the second
    way: str
    start: tuple[int, int]  # row and column of the square's corner
    flashes: tuple[int, ...]  # frames that are dark


@dataclass
class Clips(GeneratedTask):
    """A square moves over eight frames of 16 by 16; it may change its colour halfway, and go dark for single frames.

    Asked is its colour where it has but one, which colour came first, which way it goes, or how often it went dark: from trivial
    to hard. Demonstrations say what is seen in each frame, or where at first and at last, and then answer. Rows carry the
    frames as `video`, `(8, 3, 16, 16)` bytes. Held out are scenes.
    """

    summary = "Answer questions about films of a moving square"
    max_tokens = FRAMES + len(TAGS) + 2

    trivial: UnitInterval = 0.5
    """Share of questions about a colour that never changes."""
    scale: PositiveInt = 1
    """Pixels on each side that one of the 16 by 16 is shown as; 7 suits Qwen2.5-VL, whose tokens are 28 by 28."""
    chat: bool = False
    """Ask in words, in a message, for models that have been tuned to chat."""
    limit: NonNegativeInt = 0
    """Tokens that an answer may have; 0 leaves room for a demonstration."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.max_tokens = self.limit or self.max_tokens

    def draw(self, rng: random.Random) -> Scene:
        asked = QUESTIONS[0] if rng.random() < self.trivial else rng.choice(QUESTIONS[1:])
        one = rng.choice(list(COLOURS))
        other = one if asked == "colour?" else rng.choice([c for c in COLOURS if c != one])
        dark = rng.sample(range(FRAMES), rng.randint(0, MOST)) if asked == "flashes?" else []
        way = rng.choice(list(WAYS))
        room = SIDE - SQUARE - (FRAMES - 1)
        row, column = (
            rng.randint(0, SIDE - SQUARE) if step == 0 else rng.randint(0, room) + (FRAMES - 1 if step < 0 else 0)
            for step in WAYS[way]
        )
        return Scene(asked, (one, other), way, (row, column), tuple(sorted(dark)))

    def key(self, problem: Scene) -> str:
        return repr(tuple(problem))

    def row(self, problem: Scene, rng: random.Random) -> Row:
        thought, answer = solved(problem)
        place = "".join(PLACE)
        asked = [{"role": "user", "content": place + IN_WORDS[problem.asked] + TAGGED}]
        return {
            "prompt": asked if self.chat else place + problem.asked,
            "completion": f"{THINK}{thought}{THOUGHT}{ANSWER}{answer}{ANSWERED}",
            "answer": answer,
            "asked": problem.asked,
            "video": film(problem).repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3),
        }

    def noised(self, row: Row, share: float, generator: torch.Generator) -> Row:
        """The row with Gaussian noise on its frames, of a deviation that is a `share` of full brightness."""
        noise = share * 255 * torch.randn(row["video"].shape, generator=generator)
        return {**row, "video": (row["video"] + noise).round().clamp(0, 255).to(torch.uint8)}

    def judge(self) -> Judge:
        return Judge({"correct": Verified(named)})

    def vocabulary(self) -> list[str]:
        numbers = [f"{i};" for i in range(SIDE)]
        return [*PLACE, *QUESTIONS, *(f"{c} " for c in (*COLOURS, DARK)), *WAYS, *numbers, *TAGS]


def solved(scene: Scene) -> tuple[str, str]:
    """What there is to say about a scene before its question is answered, and the answer."""
    if scene.asked == "way?":
        last = [start + (FRAMES - 1) * step for start, step in zip(scene.start, WAYS[scene.way], strict=True)]
        return "".join(f"{place};" for place in (*scene.start, *last)), scene.way
    shown = [DARK if i in scene.flashes else scene.colours[i * 2 // FRAMES] for i in range(FRAMES)]
    answer = f"{len(scene.flashes)};" if scene.asked == "flashes?" else f"{scene.colours[0]} "
    return "".join(f"{colour} " for colour in shown), answer


def film(scene: Scene) -> Tensor:
    """The frames of a scene, `(8, 3, 16, 16)` bytes."""
    frames = torch.zeros(FRAMES, 3, SIDE, SIDE, dtype=torch.uint8)
    for i in set(range(FRAMES)) - set(scene.flashes):
        y, x = (start + i * step for start, step in zip(scene.start, WAYS[scene.way], strict=True))
        colour = torch.tensor(COLOURS[scene.colours[i * 2 // FRAMES]], dtype=torch.uint8)
        frames[i, :, y : y + SQUARE, x : x + SQUARE] = colour.view(3, 1, 1)
    return frames


def named(text: str, row: Mapping[str, Any]) -> Verdict:
    """Whether the row's `answer` stands between answer tags, in a text in which each tag stands once and in order."""
    inside = between(text)
    if inside is None or not tags_in_order(text):
        return unparseable("an answer stands between answer tags, after a thought between think tags")
    sought = row["answer"].strip("; ")
    return RIGHT if inside.strip("; .").lower() == sought else wrong(f"{sought} was sought")
