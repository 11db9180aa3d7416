"""Tasks whose problems are drawn, not stored: any number of rows, each a function of the settings and its index."""

from __future__ import annotations

import random
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from palaestra.core.errors import BadSetting, require, unknown
from palaestra.core.hints import NonNegativeInt, PositiveInt
from palaestra.core.seeding import seed_for
from palaestra.language.rows import LazyRows, Row
from palaestra.language.task import TextTask
from palaestra.language.tokenisers import word_tokeniser

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRIES = 10_000
"""Problems that are drawn for one row, before it is said that a split has none."""


@dataclass
class GeneratedTask(TextTask):
    """Base of generated tasks. A subclass defines `draw`, `row` and `vocabulary`, and `key` where a problem can be
    written in several ways.

    A problem belongs to one split by the hash of its key, whatever the seed: what was trained on with one seed is not tested with
    another. Rows of one split can repeat where there are few problems.
    """

    start_updates = 300

    train_rows: PositiveInt = 100_000
    """Rows of the training split."""
    test_rows: NonNegativeInt = 1000
    """Rows of the held-out split."""
    held_out: float = 0.1
    """Share of the problems that is never trained on."""
    seed: int = 0
    """Which rows are drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.held_out < 1, f"held_out is a share between 0 and 1, got {self.held_out}")

    def draw(self, rng: random.Random) -> Any:
        """A problem."""
        raise NotImplementedError

    def key(self, problem: Any) -> str:
        """What identifies a problem, the same for all ways to write it, such as its numbers in sorted order."""
        return str(problem)

    def row(self, problem: Any, rng: random.Random) -> Row:
        """The problem as a row, with a demonstration."""
        raise NotImplementedError

    def vocabulary(self) -> list[str]:
        """What rows are made of, the tokens of models from scratch; nothing where those cannot take part."""
        return []

    def tokeniser(self) -> PreTrainedTokenizerBase | None:
        symbols = self.vocabulary()
        return word_tokeniser(symbols) if symbols else None

    def belongs(self, problem: Any, split: str) -> bool:
        """Whether a problem is one of this split."""
        return is_held_out(self.key(problem), self.held_out) == (split == "test")

    def rows(self, split: str) -> LazyRows:
        sizes = {"train": self.train_rows, "test": self.test_rows}
        if split not in sizes:
            raise unknown("split", split, sizes)
        return LazyRows(sizes[split], lambda i: self._make(split, i))

    def _make(self, split: str, index: int) -> Row:
        rng = random.Random(seed_for(self.seed, f"rows/{split}", index))
        for _ in range(TRIES):
            problem = self.draw(rng)
            if self.belongs(problem, split):
                return self.row(problem, rng)
        raise BadSetting(
            f"none of {TRIES} problems of {self.name} belongs to the {split} split; there are too few problems"
        )


def is_held_out(key: str, share: float) -> bool:
    """Whether the problem of this key is among the `share` of all that is held out."""
    return int.from_bytes(blake2b(key.encode(), digest_size=7).digest(), "big") < share * 2.0**56
