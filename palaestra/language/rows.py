"""Rows: what a language policy is asked, with the columns that its judge needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]
"""A turn of a conversation: at least `role` and `content`."""
Prompt = str | Sequence[Message]
"""Text as it is, or messages that the model's chat template writes."""
Row = Mapping[str, Any]
"""What is asked: `prompt`, a `completion` where one is known to be good, and whatever columns the judge needs."""
Rows = Sequence[Row]
"""A list of rows, or anything with `len` and `[i]`, such as a `datasets.Dataset`."""


class LazyRows(Sequence[Row]):
    """`size` rows of which each is made when it is looked at: `make(i)` is a function of `i` alone."""

    def __init__(self, size: int, make: Callable[[int], Row]):
        self.size, self.make = size, make

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.make(i) for i in range(*index.indices(self.size))]
        if not -self.size <= index < self.size:
            raise IndexError(index)
        return self.make(index % self.size)


def shown_prompt(prompt: Prompt) -> str:
    """A prompt as text for people to read."""
    return prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m.get('content')}" for m in prompt)
