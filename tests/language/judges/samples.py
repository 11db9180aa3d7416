"""Answers to judge, from nothing but their texts."""

from __future__ import annotations

from typing import Any

import torch

from palaestra.language.sample import Sample


def answer(text: str, prompt: Any = "a question", group: int = 0, ids: int | None = None, **columns: Any) -> Sample:
    """An answer of `ids` tokens, by default one per character, after a prompt of two."""
    length = len(text) if ids is None else ids
    made = torch.arange(2 + length)
    zeros = torch.zeros(len(made))
    mask = made >= 2
    return Sample(made, mask, zeros, zeros, 2, text, False, {"prompt": prompt, **columns}, group)


def answers(*texts: str, **columns: Any) -> list[Sample]:
    """Answers to the same question, each a group of its own."""
    return [answer(text, group=i, **columns) for i, text in enumerate(texts)]
