"""The form of an answer: a thought and a result between tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from palaestra.language.verifiers.verdict import answer_text

THINK, THOUGHT, ANSWER, ANSWERED = TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def tags_in_order(text: str, tags: Sequence[str] = TAGS) -> bool:
    """Whether each tag stands in the text exactly once, one after the other."""
    places = [text.find(tag) for tag in tags]
    return all(text.count(tag) == 1 for tag in tags) and places == sorted(places)


def between(text: str, start: str = ANSWER, end: str = ANSWERED) -> str | None:
    """What stands between the last `start` and the `end` after it; None if they are not there."""
    _, found, rest = text.rpartition(start)
    inside, closed, _ = rest.partition(end)
    return inside.strip() if found and closed else None


class Tagged:
    """A reward function: 1 for a text that has each tag exactly once and in order, else 0."""

    def __init__(self, tags: Sequence[str] = TAGS):
        self.tags = tuple(tags)
        self.__name__ = "format"

    def __call__(self, completions: Sequence[Any], **_: Any) -> list[float]:
        return [float(tags_in_order(answer_text(completion), self.tags)) for completion in completions]
