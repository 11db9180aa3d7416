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
    """The text of a completion: itself, or what its messages say."""
    if isinstance(completion, str):
        return completion
    return "".join(str(message.get("content") or "") for message in completion)


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
