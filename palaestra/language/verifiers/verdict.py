"""What a verifier says about an answer, and how it becomes a reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["right", "wrong", "unparseable"]


@dataclass(frozen=True)
class Verdict:
    """An answer is right, wrong, or no answer at all: `unparseable`."""

    status: Status
    why: str = ""

    @property
    def right(self) -> bool:
        return self.status == "right"


RIGHT = Verdict("right")


def wrong(why: str = "") -> Verdict:
    return Verdict("wrong", why)


def unparseable(why: str = "") -> Verdict:
    return Verdict("unparseable", why)


Verifier = Callable[[str, Mapping[str, Any]], Verdict]
"""Says whether a text answers a row. It depends on these two and on nothing else."""


def answer_text(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """The text of a completion: itself, or of messages what the policy said in them, turn by turn on lines of their own.

    What an environment or a tool said is nobody's answer.
    """
    if isinstance(completion, str):
        return completion
    said = (message.get("content") for message in completion if message.get("role") == "assistant")
    return "\n".join(str(text) for text in said if text)


def each_row(columns: Mapping[str, Sequence[Any]], count: int) -> list[dict[str, Any]]:
    """The columns that a reward function is called with as rows; what is no list of `count` values is left out."""
    listed = {k: v for k, v in columns.items() if isinstance(v, list | tuple) and len(v) == count}
    return [{key: values[i] for key, values in listed.items()} for i in range(count)]


class Verified:
    """A verifier as a reward function in trl's signature: a number for each status."""

    def __init__(self, verifier: Verifier, right: float = 1.0, wrong: float = 0.0, unparseable: float = 0.0):
        self.verifier = verifier
        self.numbers: dict[Status, float] = {"right": right, "wrong": wrong, "unparseable": unparseable}
        self.__name__ = str(getattr(verifier, "__name__", "verified"))

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float]:
        rows = each_row(columns, len(completions))
        return [self.numbers[self.verifier(answer_text(c), row).status] for c, row in zip(completions, rows)]
