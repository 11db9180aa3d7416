"""Small images of a square, to be captioned or drawn: text and images in one vocabulary."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.seeding import seed_for
from palaestra.language.diffusion.images import PatchTokeniser
from palaestra.language.judges.judge import Judge
from palaestra.language.rows import Row
from palaestra.language.tasks.generated import GeneratedTask
from palaestra.language.verifiers.verdict import answer_text, each_row

COLOURS = {
    "black": (0.1, 0.1, 0.1),
    "white": (1.0, 1.0, 1.0),
    "red": (1.0, 0.1, 0.1),
    "green": (0.1, 0.9, 0.1),
    "blue": (0.1, 0.1, 1.0),
    "yellow": (1.0, 0.9, 0.1),
    "purple": (0.6, 0.1, 0.8),
    "cyan": (0.1, 0.8, 0.9),
}
SHADES = (0.6, 1.0)
"""What a colour is multiplied by; captions say nothing of it."""
NAMES = tuple(COLOURS)
SIZES = ("small", "medium", "large")
"""Squares of one, two and three patches."""
SIDE, PATCH = 4, 2
"""Patches of an image's side, and pixels of a patch's: images are 8 by 8 pixels, 16 tokens."""
CODES = len(COLOURS) * len(SHADES)
NOISE = 0.02
"""Deviation of a pixel."""
DRAW, LOOK, IMAGE, IMAGE_END = "<t2i>", "<mmu>", "<soi>", "<eoi>"
"""A caption follows and an image is asked for; an image follows and a caption is; an image begins; it ends."""
FITTED = 256
"""Images that the tokeniser is fitted to."""


class Square(NamedTuple):
    """What an image shows: the attributes of a caption."""

    size: int  # in patches
    colour: str
    background: str
    row: int  # of the upper left corner, in patches
    column: int

    @property
    def caption(self) -> str:
        return f"{SIZES[self.size - 1]} {self.colour} square on {self.background}, row {self.row}, column {self.column}"


@dataclass
class Squares(GeneratedTask):
    """Images of 8 by 8 pixels with a coloured square, as 16 tokens of 16 codes, and captions such as
    `large red square on blue, row 0, column 1`. Half the rows ask for the caption of an image, half for an image of a caption.

    An answer counts if every attribute is right. Codes are those of a k-means tokeniser of patches; each colour comes in a light
    and a dark shade, which captions leave open. Held out are combinations of attributes.
    """

    summary = "Captions of small images, and images of captions"
    max_tokens = 9
    image_tokens: ClassVar[int] = SIDE * SIDE
    image_symbols: ClassVar[tuple[str, ...]] = tuple(f"<image{code}>" for code in range(CODES))

    ask: Literal["both", "caption", "draw"] = "both"
    """What rows ask for."""
    colours: int = len(COLOURS)
    """How many colours there are, from black on."""
    largest: int = len(SIZES)
    """Patches of a side of the largest square."""
    shades: bool = True
    """Show each colour in a light and a dark shade, or in the light one alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(2 <= self.colours <= len(COLOURS), f"colours must be between 2 and {len(COLOURS)}, got {self.colours}")
        require(1 <= self.largest <= len(SIZES), f"largest must be between 1 and {len(SIZES)}, got {self.largest}")
        require(self.ask in ("both", "caption", "draw"), f"ask must be both, caption or draw, got {self.ask!r}")

    def draw(self, rng: random.Random) -> Square:
        return random_square(rng, self.colours, self.largest)

    def key(self, problem: Square) -> str:
        return problem.caption

    def row(self, problem: Square, rng: random.Random) -> Row:
        codes = tokeniser().encode(rendered(problem, rng, self.shades)[None])[0].tolist()
        image = "".join(self.image_symbols[code] for code in codes)
        draws = rng.random() < 0.5 if self.ask == "both" else self.ask == "draw"
        about = {"square": list(problem), "modality": "image" if draws else "text"}
        if draws:
            return {"prompt": f"{DRAW}{problem.caption}{IMAGE}", "completion": image, **about}
        return {"prompt": f"{LOOK}{IMAGE}{image}{IMAGE_END}", "completion": problem.caption, **about}

    def judge(self) -> Judge:
        return Judge({"caption": Captioned("text"), "image": Captioned("image")})

    def vocabulary(self) -> list[str]:
        words = [*(f"{size} " for size in SIZES), *NAMES, " square on ", ", row ", ", column ", *map(str, range(SIDE))]
        return [*words, DRAW, LOOK, IMAGE, IMAGE_END, *self.image_symbols]


class Captioned:
    """A reward function: 1 for an answer of one modality with every attribute right, else 0; others have none."""

    def __init__(self, modality: Literal["text", "image"]):
        self.modality = modality
        self.__name__ = "image" if modality == "image" else "caption"

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        rows = each_row(columns, len(completions))
        return [self.score(answer_text(c), row) for c, row in zip(completions, rows, strict=True)]

    def score(self, text: str, row: Mapping[str, Any]) -> float | None:
        if row["modality"] != self.modality:
            return None
        square = Square(*row["square"])
        if self.modality == "text":
            return float(text == square.caption)
        return float(seen_in_text(text) == square)


def random_square(rng: random.Random, colours: int = len(COLOURS), largest: int = len(SIZES)) -> Square:
    size = rng.randint(1, largest)
    colour, background = rng.sample(NAMES[:colours], 2)
    return Square(size, colour, background, *(rng.randint(0, SIDE - size) for _ in range(2)))


def rendered(square: Square, rng: random.Random, shades: bool = True) -> Tensor:
    """An image `(3, 8, 8)` of a square, in shades and with noise of `rng`'s."""
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    light, dark = (rng.choice(SHADES if shades else SHADES[-1:]) for _ in range(2))
    image = (torch.tensor(COLOURS[square.background]) * light)[:, None, None].repeat(1, SIDE * PATCH, SIDE * PATCH)
    rows, columns = (slice(PATCH * start, PATCH * (start + square.size)) for start in (square.row, square.column))
    image[:, rows, columns] = (torch.tensor(COLOURS[square.colour]) * dark)[:, None, None]
    return image + NOISE * torch.randn(image.shape, generator=generator)


@cache
def tokeniser() -> PatchTokeniser:
    """The image tokeniser, the same whatever a task's seed is, so that images of one mean the same to models of another."""
    rngs = [random.Random(seed_for(0, "squares/tokeniser", i)) for i in range(FITTED)]
    return PatchTokeniser.fit(torch.stack([rendered(random_square(rng), rng) for rng in rngs]), CODES, PATCH)


@cache
def _palette() -> tuple[Tensor, list[str]]:
    """Every colour in every shade, `(16, 3)`, and what it is called."""
    shaded = [(shade * torch.tensor(value), name) for name, value in COLOURS.items() for shade in SHADES]
    return torch.stack([value for value, _ in shaded]), [name for _, name in shaded]


def seen_in_text(text: str) -> Square | None:
    """What an image shows that is written as 16 codes; None if it is no image, or not of one square."""
    parts = text.split(">")
    if (
        len(parts) != SIDE * SIDE + 1
        or parts[-1]
        or any(f"{part}>" not in Squares.image_symbols for part in parts[:-1])
    ):
        return None
    codes = torch.tensor([int(part.removeprefix("<image")) for part in parts[:-1]])
    return seen(tokeniser().decode(codes[None])[0])


def seen(image: Tensor) -> Square | None:
    """What an image `(3, 8, 8)` shows, by the nearest colour of each patch; None if it is not one square on one colour."""
    palette, names = _palette()
    mean = torch.nn.functional.avg_pool2d(image, PATCH).flatten(1).T
    patches = [names[i] for i in torch.cdist(mean, palette).argmin(-1).tolist()]
    if len(set(patches)) != 2:
        return None
    for background in set(patches):
        inside = [divmod(i, SIDE) for i, name in enumerate(patches) if name != background]
        (top, left), (bottom, right) = inside[0], inside[-1]
        size = bottom - top + 1
        filled = [(r, c) for r in range(top, bottom + 1) for c in range(left, left + size)]
        if right - left + 1 == size <= len(SIZES) and inside == filled:
            colour = next(name for name in patches if name != background)
            return Square(size, colour, background, top, left)
    return None
