"""Answers to one prompt compared with each other by a pair judge: win rates and tournaments."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.language.judges.judge import function_name
from palaestra.language.judges.kinds import PairJudge, identity, preferences
from palaestra.language.rows import Row
from palaestra.objectives.segments import pairs_within


def win_rates(judge: PairJudge, rows: Sequence[Row], answers: Sequence[Any], group: Tensor) -> Tensor:
    """The mean probability `(n,)` of being better than another answer of the same group; 1/2 for one that is alone.

    Each pair is asked about once, in one order: give an antisymmetric judge.
    """
    i, j = pairs_within(group)
    left, right = i.tolist(), j.tolist()
    won = preferences(judge, [rows[k] for k in left], [answers[k] for k in left], [answers[k] for k in right])
    total = torch.zeros(len(answers)).index_add_(0, i, won).index_add_(0, j, 1 - won)
    games = torch.bincount(torch.cat([i, j]), minlength=len(answers))
    return torch.where(games > 0, total / games.clamp(min=1), 0.5)


class WinRate:
    """A pair judge as a list judge, and as a scorer: the win rate of each answer among consecutive answers to the same row."""

    def __init__(self, judge: PairJudge):
        self.judge = judge
        self.__name__ = f"win_rate_{function_name(judge)}"

    def __call__(self, rows: Row | Sequence[Row], answers: Sequence[str]) -> Tensor:
        if isinstance(rows, Mapping):
            rows = [rows] * len(answers)
        keys = [identity(row) for row in rows]
        begins = torch.tensor([i > 0 and keys[i] != keys[i - 1] for i in range(len(keys))], dtype=torch.int64)
        return win_rates(self.judge, rows, answers, begins.cumsum(0))


class QueueWinRate:
    """The mean probability of being better than the last `size` answers to the same row, which are then joined by the new ones.

    Answers to a row that has none yet are compared with each other. Source: Swamy et al. 2024 (SPO), which compares a
    trajectory with a queue of its agent's own.
    """

    def __init__(self, judge: PairJudge, size: int = 10):
        require(size >= 1, f"a queue has at least one place, got {size}")
        self.judge, self.size = judge, size
        self.queues: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=size))
        self.__name__ = f"queue_{function_name(judge)}"

    def __call__(self, rows: Sequence[Row], answers: Sequence[str]) -> Tensor:
        keys = [identity(row) for row in rows]
        games = [
            (i, rival)
            for i, key in enumerate(keys)
            for rival in self.queues.get(key) or [answers[j] for j, other in enumerate(keys) if other == key and j != i]
        ]
        mine = torch.tensor([i for i, _ in games], dtype=torch.int64)
        won = preferences(
            self.judge, [rows[i] for i, _ in games], [answers[i] for i, _ in games], [r for _, r in games]
        )
        total, count = torch.zeros(len(answers)).index_add_(0, mine, won), torch.bincount(mine, minlength=len(answers))
        for key, answer in zip(keys, answers):
            self.queues[key].append(str(answer))  # not an `Answer`: a checkpoint has its text alone
        return torch.where(count > 0, total / count.clamp(min=1), 0.5)

    def state_dict(self) -> dict[str, Any]:
        return {"queues": json.dumps({key: list(queue) for key, queue in self.queues.items()})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.queues.clear()
        for key, queue in json.loads(state["queues"]).items():
            self.queues[key].extend(queue)


@dataclass
class Tournament:
    """The outcome of a tournament."""

    best: int  # index of the answer
    worst: int
    confirmed: bool  # whether the best also beat the worst
    games: int = field(compare=False)


def tournament(judge: PairJudge, row: Row, answers: Sequence[Any]) -> Tournament:
    """The best and the worst of `k` answers in about 1.5 k games, 11 for 8: after a first round, winners play winners until one
    is left, losers play losers, and these two play each other. The first of two wins a tie. In a round of an odd number, the
    last has no game; after the first round it is among both winners and losers.

    Source: Zhang et al. 2025 (INPO), experiments.
    """
    require(len(answers) >= 2, f"a tournament is of at least two answers, got {len(answers)}")
    games = 0

    def play(players: list[int]) -> tuple[list[int], list[int], list[int]]:
        nonlocal games
        left, right, free = players[0 : len(players) - 1 : 2], players[1::2], players[len(players) // 2 * 2 :]
        games += len(left)
        wins = preferences(judge, [row] * len(left), [answers[i] for i in left], [answers[i] for i in right]) >= 0.5
        up = [a if won else b for a, b, won in zip(left, right, wins.tolist())]
        down = [b if won else a for a, b, won in zip(left, right, wins.tolist())]
        return up, down, free

    winners, losers, free = play(list(range(len(answers))))
    winners, losers = winners + free, losers + free
    while len(winners) > 1:
        winners, _, free = play(winners)
        winners += free
    while len(losers) > 1:
        _, losers, free = play(losers)
        losers += free
    best, worst = winners[0], losers[0]
    confirmed = len(answers) == 2 or (best != worst and play([best, worst])[0] == [best])
    return Tournament(best, worst, confirmed, games)
