"""Generated tasks that pretrained models can be asked, too: in words, with the rules and the form of an answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, TypeVar

from palaestra.core.errors import require
from palaestra.core.hints import NonNegativeInt
from palaestra.language.rows import Prompt, Row
from palaestra.language.tasks.generated import GeneratedTask
from palaestra.language.verifiers.format import ANSWER, ANSWERED, THINK, THOUGHT, between
from palaestra.language.verifiers.numbers import PHRASE, boxed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
TAGGED = "Think between <think> and </think>, then write the final answer alone between <answer> and </answer>."
ROOM = 512
"""Tokens that an answer to a question in words may have, unless it is told otherwise."""
AROUND = "*`$. \n\t"
"""Characters that are stripped from either end of an answer."""


def prompt_of(text: str, chat: bool) -> Prompt:
    """A question as a prompt: as it is, or as a message."""
    return [{"role": "user", "content": text.strip()}] if chat else text


def tagged(answer: str) -> str:
    """An answer between its tags, after no thought."""
    return f"{THINK}{THOUGHT}{ANSWER}{answer}{ANSWERED}"


def stated(text: str) -> str:
    """The answer of a text that argues: what stands between its last answer tags, else its last line from "answer:" on."""
    found = between(text)
    if found is None:
        lines = text.strip().splitlines()
        found = PHRASE.split(lines[-1])[-1] if lines else ""
    return (boxed(found) or found).strip(AROUND)


@dataclass
class InWords(GeneratedTask):
    """Base of generated tasks with a notation of their own, which can also be explained. A subclass defines `question`
    and sets `max_tokens` to what `room` says of its longest demonstration.

    Asked in words, an answer is looked for by `stated`, and the demonstrations are the answers alone between tags.
    """

    instructions: bool = False
    """Ask in plain English with the rules and the form of an answer, for pretrained models."""
    chat: bool = False
    """Ask so in a message instead of plain text, for models that have been tuned to chat."""
    limit: NonNegativeInt = 0
    """Tokens that an answer may have, its end included; 0 leaves room for the longest demonstration, in words for 512."""

    def __post_init__(self) -> None:
        super().__post_init__()
        form = getattr(self, "form", "direct")  # of tasks that can demonstrate a search, too
        require(
            not self.worded or form == "direct",
            f"form={form} demonstrates a search in the task's own notation; asked in words, with instructions or chat, "
            "the answer alone is demonstrated: set form=direct, or leave out instructions and chat",
        )

    def question(self, row: Row) -> str:
        """The question of a row in words."""
        raise NotImplementedError

    def shown(self, row: Row) -> str:
        """The demonstration where the question is in words."""
        return tagged(row["completion"])

    def plain(self, answer: str, row: Row) -> str:
        """An answer in the notation that verifiers read."""
        return answer

    @property
    def worded(self) -> bool:
        """Whether questions are in words."""
        return self.instructions or self.chat

    def room(self, longest: int) -> int:
        """How many tokens an answer may have, where the longest demonstration in the task's notation has so many."""
        return self.limit or (ROOM if self.worded else longest)

    def reading(self, verifier: Callable[[str, Row], T]) -> Callable[[str, Row], T]:
        """A function of an answer and its row, such as a verifier; of a question in words, it is given what `stated` finds."""
        if not self.worded:
            return verifier

        @wraps(verifier)
        def read(text: str, row: Row) -> T:
            return verifier(self.plain(stated(text), row), row)

        return read

    def tokeniser(self) -> PreTrainedTokenizerBase | None:
        return None if self.worded else super().tokeniser()

    def _make(self, split: str, index: int) -> Row:
        row = super()._make(split, index)
        if not self.worded:
            return row
        return {**row, "prompt": prompt_of(self.question(row), self.chat), "completion": self.shown(row)}
