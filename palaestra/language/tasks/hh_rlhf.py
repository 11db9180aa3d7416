"""HH-RLHF: conversations with an assistant, of whose last answers people chose one (Bai et al. 2022, arXiv:2204.05862)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from palaestra.core.errors import BadDataset
from palaestra.core.hints import NonNegativeInt, check_ranges
from palaestra.data.real import real_data
from palaestra.language.preferences import ASKED
from palaestra.language.rows import Row, Rows
from palaestra.language.tasks.prompt_rows import PromptRows
from palaestra.language.tasks.prompts import Data, PromptTask


@dataclass
class HHRLHF(PromptTask):
    """The published pairs, as they are: `chosen` and `rejected` in one text each, which is parted into prompt and answers.

    `data` is a file or a folder as published, by default the one called `hh-rlhf` in the folder that `PALAESTRA_DATA` names.
    Pairs with an empty answer are left out, of which there are some. There is no reward in it: learn one, or give one. What
    people and models say in it is meant to offend.
    """

    summary = "Conversations of which people chose the better last answer (not shipped; offensive by design)"

    data: str | Data | None = None
    """Where the published files are."""
    limit: int = 128
    """Tokens that an answer may have."""
    stops: tuple[str, ...] = (ASKED,)
    """Texts that end an answer."""
    faulty: Literal["stop", "skip"] = "skip"
    """Whether a row that is wrong is an error or is left out."""
    longest_prompt: NonNegativeInt = 0
    """Characters of the longest prompt that is kept; 0 keeps all."""
    longest_answer: NonNegativeInt = 0
    """Characters of the longest answer in a pair that is kept; 0 keeps all."""

    def __post_init__(self) -> None:
        check_ranges(self)  # before anything is looked for
        self.data = self.data if self.data is not None else str(real_data("hh-rlhf"))
        super().__post_init__()

    @property
    def name(self) -> str:
        return "hh-rlhf"

    def _opened(self, source: Rows, where: str) -> PromptRows:
        rows = super()._opened(source, where)
        kept = rows.at([i for i, row in enumerate(rows) if self._is_short(row)])
        if not len(kept):
            raise BadDataset(f"no pair of {where} is as short as was asked for")
        return kept

    def _is_short(self, pair: Row) -> bool:
        limits = [("prompt", self.longest_prompt), ("chosen", self.longest_answer), ("rejected", self.longest_answer)]
        return all(not most or len(pair[column]) <= most for column, most in limits)
