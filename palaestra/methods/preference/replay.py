"""Replay of answers of earlier rounds: of each older round half as many."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch

from palaestra.core.experience import Experience
from palaestra.methods.preference.pool import numbered

Group = list[Experience]
"""The answers to one prompt."""
KEPT = ("action", "mask", "reward", "source", "segment", "group")
"""The stored fields of an answer; its log-probabilities change with every round, and are computed anew."""


class Replay:
    """The prompts that the next round learns from once more, with the answers and verdicts that they had.

    They are a share of those of the round before, and of each round before that half as many as the last time: 30% of the last
    round's, 15% of the one before, as in Rosset et al. 2024.
    """

    def __init__(self, share: float):
        self.share = share
        self.rounds: list[Experience] = []  # the newest first

    def groups(self) -> list[Group]:
        """Those of all rounds, the newest first, without log-probabilities."""
        return [group for packed in self.rounds for group in groups_of(answers_in(packed))]

    def turn(self, fresh: list[Group], generator: torch.Generator) -> None:
        """Draw what the next round learns from again, given the prompts of this one."""
        if not self.share:
            return
        shares = [self.share, *(0.5 for _ in self.rounds)]
        before = [fresh, *(groups_of(answers_in(packed)) for packed in self.rounds)]
        drawn = [_some(groups, share, generator) for groups, share in zip(before, shares, strict=True)]
        self.rounds = [Experience.cat(numbered(groups)).only(*KEPT) for groups in drawn if groups]

    def state_dict(self) -> dict[str, Any]:
        return {"rounds": [dict(packed.items()) for packed in self.rounds]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rounds = [Experience(**fields) for fields in state["rounds"]]


def groups_of(answers: Iterable[Experience]) -> list[Group]:
    """Answers that stand prompt by prompt, those to one prompt together."""
    return [list(group) for _, group in itertools.groupby(answers, key=lambda part: int(part.group[0]))]


def answers_in(packed: Experience) -> list[Experience]:
    """The answers that were laid end to end."""
    _, lengths = torch.unique_consecutive(packed.segment, return_counts=True)
    ends = lengths.cumsum(0).tolist()
    return [packed[begin:end] for begin, end in zip([0, *ends], ends)]


def _some(groups: list[Group], share: float, generator: torch.Generator) -> list[Group]:
    """A share of the groups, rounded down, in their order."""
    chosen = torch.randperm(len(groups), generator=generator)[: int(share * len(groups))]
    return [groups[i] for i in sorted(chosen.tolist())]
