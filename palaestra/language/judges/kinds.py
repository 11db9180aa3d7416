"""The four kinds of judge, and how one becomes another.

All are functions. An x is a row, so that a judge sees the prompt and whatever columns come with it; a y is an answer's text.
Numbers are checked where one kind becomes another: a judge that gives NaN, or fewer numbers than it was asked for, is refused by
name.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.language.judges.judge import Judge, RewardFailed, function_name
from palaestra.language.judges.notes import Notes
from palaestra.language.sample import Answer, Sample
from palaestra.language.task import Row
from palaestra.language.verifiers.verdict import answer_text, each_row
from palaestra.objectives.games import order_effect
from palaestra.objectives.segments import pairs_within

Scorer = Callable[[Sequence[Row], Sequence[str]], Tensor]
"""(x, y) -> scores `(n,)`."""
TokenScorer = Callable[[Sequence[Row], Sequence[Tensor]], Sequence[Tensor]]
"""(x, ids of y `(T,)`) -> a score for each token `(T,)`, for each of n answers."""
PairJudge = Callable[[Sequence[Row], Sequence[str], Sequence[str]], Tensor]
"""(x, y, y') -> probabilities `(n,)` that y is the better answer. In contests texts know what they are of (`sample.Answer`), for
judges that go by more."""
ListJudge = Callable[[Row, Sequence[str]], Tensor]
"""(x, all answers to it) -> scores `(k,)`."""


def scores_of(scorer: Scorer, rows: Sequence[Row], answers: Sequence[str]) -> Tensor:
    """What a scorer says, refused unless it is one finite number per answer."""
    return checked(scorer, scorer(rows, answers), len(rows))


def preferences(judge: PairJudge, rows: Sequence[Row], first: Sequence[Any], second: Sequence[Any]) -> Tensor:
    """What a pair judge says, refused unless it is one probability per pair."""
    return checked(judge, judge(rows, first, second), len(rows), 0.0, 1.0)


def checked(
    judge: Any, values: Any, n: int, low: float = -torch.inf, high: float = torch.inf, gaps: bool = False
) -> Tensor:
    """What a judge gave for `n` answers or pairs `(n,)`; with `gaps`, NaN where it tells that it had no verdict (`unsaid_by`).

    Raises:
        RewardFailed: it is another number of numbers, or one is not finite, or outside its limits.
    """
    values = torch.as_tensor(values, dtype=torch.float32)
    if values.shape != (n,):
        raise RewardFailed(
            f"{function_name(judge)} gave numbers of shape {tuple(values.shape)} where {n} were asked for"
        )
    wrong = ~(values.isfinite() & (values >= low) & (values <= high))
    if gaps:
        wrong &= ~(values.isnan() & unsaid_by(judge, n))
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        fits = "a finite number" if high == torch.inf else f"between {low:g} and {high:g}"
        raise RewardFailed(f"{function_name(judge)} gave {values[i]:g} as number {i + 1} of {n}; it should be {fits}")
    return values


def unsaid_by(judge: Any, n: int) -> Tensor:
    """On which of the `n` answers or pairs of its last call a judge had no verdict, and gave what says nothing instead, `(n,)`
    bool: its `unsaid`, if it tells."""
    told = getattr(getattr(judge, "__self__", judge), "unsaid", None)
    return told if isinstance(told, Tensor) and told.shape == (n,) else torch.zeros(n, dtype=torch.bool)


def notes_of(judge: Any) -> Notes | None:
    """What a judge has noted of the reward functions that it asks, if it asks any."""
    told = getattr(judge, "notes", None)
    return told if isinstance(told, Notes) else None


def either(both: Tensor) -> Tensor:
    """Which of n pairs `(n,)` lack something, where it is known of all their first parts and then of the second, `(2 n,)`."""
    return torch.stack(both.tensor_split(2)).any(0)


# Scorers and reward functions.


class RewardScorer:
    """The total of a judge's reward functions as a scorer; NaN for an answer that has none, which is `unsaid`.

    An answer of a contest is seen as it is (`sample.Answer`), with its ids, its messages and whether it was cut off. A mere text
    is taken to have ended, and to look at its ids needs a `tokeniser`.
    """

    unsaid: Tensor  # (n,) bool of the last answers

    def __init__(self, judge: Judge, tokeniser: Any = None):
        self.judge, self.tokeniser = judge, tokeniser

    @property
    def notes(self) -> Notes:
        return self.judge.notes

    def __call__(self, rows: Sequence[Row], answers: Sequence[str]) -> Tensor:
        scores = self.judge([self._sample(i, *asked) for i, asked in enumerate(zip(rows, answers))]).total
        self.unsaid = scores.isnan()
        return scores

    def _sample(self, i: int, row: Row, text: str) -> Sample:
        if isinstance(text, Answer):
            return dataclasses.replace(text.sample, row=row)
        said = self.tokeniser(text, add_special_tokens=False).input_ids if self.tokeniser else []
        ids, zeros = torch.tensor(said, dtype=torch.int64), torch.zeros(len(said))
        return Sample(ids, zeros == 0, zeros, zeros, 0, text, False, row, i)


def as_reward(scorer: Scorer, name: str | None = None) -> Callable[..., list[float]]:
    """A scorer as a reward function in trl's signature."""

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        for name in ("completion_ids", "truncated"):  # a row is what was asked, not what was answered
            columns.pop(name, None)
        rows = each_row({"prompt": prompts, **columns}, len(prompts))
        return scores_of(scorer, rows, [answer_text(completion) for completion in completions]).tolist()

    reward.__name__ = name or function_name(scorer)
    reward.scorer = scorer  # type: ignore[attr-defined]  # which may remember (`judges.memory`)
    return reward


class Summed:
    """A token scorer as a scorer of ids: the sum over an answer's tokens."""

    def __init__(self, scorer: TokenScorer):
        self.scorer = scorer

    def __call__(self, rows: Sequence[Row], ids: Sequence[Tensor]) -> Tensor:
        scores = self.scorer(rows, ids)
        for given, asked in zip(scores, ids, strict=True):
            if given.shape != asked.shape:
                raise RewardFailed(
                    f"{function_name(self.scorer)} gave scores of shape {tuple(given.shape)} for {len(asked)} tokens"
                )
        return torch.stack([score.sum() for score in scores]) if len(scores) else torch.zeros(0)


class AtEnd:
    """A scorer as a token scorer: an answer's score with its last token, 0 with the others. `decode` makes text of ids."""

    def __init__(self, scorer: Scorer, decode: Callable[[list[int]], str]):
        self.scorer, self.decode = scorer, decode

    def __call__(self, rows: Sequence[Row], ids: Sequence[Tensor]) -> list[Tensor]:
        scores = scores_of(self.scorer, rows, [self.decode(said.tolist()) for said in ids])
        given = [torch.zeros(len(said)) for said in ids]
        for tokens, score in zip(given, scores, strict=True):
            tokens[-1:] = score
        return given


class Places:
    """A list judge as a scorer, which shows it all answers of a call to one row together.

    A score is an answer's place in the order that comes out, from 1 for the first to 0 for the last: the share of the others that
    it stands before, where one of the same worth counts half. An answer that is alone has 1/2, and nobody is asked.
    """

    def __init__(self, judge: ListJudge):
        self.judge = judge
        self.__name__ = f"places_{function_name(judge)}"

    def __call__(self, rows: Sequence[Row], answers: Sequence[str]) -> Tensor:
        together: dict[str, list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            together[identity(row)].append(i)
        found = torch.full((len(rows),), 0.5)
        for places in together.values():
            texts = list(dict.fromkeys(answers[i] for i in places))
            if len(texts) > 1:
                said = checked(self.judge, self.judge(rows[places[0]], texts), len(texts))
                worth = said[[texts.index(answers[i]) for i in places]]
                found[places] += (worth.unsqueeze(1) - worth).sign().sum(1) / (2 * (len(places) - 1))
        return found


# Pair judges.


class ByScores:
    """A scorer as a pair judge. A pair is a tie, and `unsaid`, where either answer has no score, or one that says nothing."""

    antisymmetric = True
    unsaid: Tensor  # (n,) bool of the last pairs

    def __init__(self, scorer: Scorer):
        self.scorer = scorer

    @property
    def notes(self) -> Notes | None:
        return notes_of(self.scorer)

    def leads(self, rows: Sequence[Row], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Differences of scores `(n,)`, all asked for at once."""
        said = self.scorer([*rows, *rows], [*first, *second])
        scores = checked(self.scorer, said, 2 * len(rows), gaps=True)
        self.unsaid = either(unsaid_by(self.scorer, len(scores)))
        return torch.sub(*scores.tensor_split(2)).masked_fill(self.unsaid, 0.0)


class Sign(ByScores):
    """The answer with the better score is preferred with certainty; of two with the same, either with probability 1/2."""

    def __call__(self, rows: Sequence[Row], first: Sequence[str], second: Sequence[str]) -> Tensor:
        return (self.leads(rows, first, second).sign() + 1) / 2


class BradleyTerry(ByScores):
    """P = sigmoid((s(x, y) - s(x, y')) / scale)."""

    def __init__(self, scorer: Scorer, scale: float = 1.0):
        require(scale > 0, f"the scale of a Bradley-Terry judge must be positive, got {scale}")
        super().__init__(scorer)
        self.scale = scale

    def __call__(self, rows: Sequence[Row], first: Sequence[str], second: Sequence[str]) -> Tensor:
        return torch.sigmoid(self.leads(rows, first, second) / self.scale)


class Around:
    """A judge around another."""

    judge: Callable[..., Any]
    unsaid: Tensor  # (n,) bool, on which of the last answers or pairs it had no verdict

    @property
    def orders(self) -> tuple[int, float, int]:
        """The pairs that were asked about in both orders so far; how many of them went to what was shown first, a mean over the
        orders; and on how many the order decided."""
        return getattr(getattr(self.judge, "__self__", self.judge), "orders", (0, 0.0, 0))

    @property
    def notes(self) -> Notes | None:
        return notes_of(self.judge)

    @property
    def antisymmetric(self) -> bool:
        """Whether the other says that it is, and need not be tried."""
        return bool(getattr(self.judge, "antisymmetric", False))


class BothOrders(Around):
    """Asks about each pair in both orders and averages, which makes any judge antisymmetric: P(y, y') + P(y', y) = 1. A pair on
    which there was no verdict in either order is a tie.

    It keeps count of how much the order mattered: see `report`.
    """

    antisymmetric = True

    def __init__(self, judge: PairJudge):
        self.judge = judge
        self._pairs, self._first, self._turned = 0, 0.0, 0

    def __call__(self, rows: Sequence[Row], first: Sequence[str], second: Sequence[str]) -> Tensor:
        asked = preferences(self.judge, [*rows, *rows], [*first, *second], [*second, *first])
        self.unsaid = either(unsaid_by(self.judge, len(asked)))
        forth, back = asked.tensor_split(2)
        self._pairs += len(forth)
        self._first += float((forth + back).double().sum()) / 2
        self._turned += int(((forth - 0.5) * (back - 0.5) > 0).sum())
        return ((forth + (1 - back)) / 2).masked_fill(self.unsaid, 0.5)

    @property
    def orders(self) -> tuple[int, float, int]:
        return self._pairs, self._first, self._turned

    def report(self) -> dict[str, float]:
        """Over all pairs so far: `first`, the mean probability that the one shown first is preferred, 1/2 without a bias; and
        `turned`, the share of pairs of which the preferred answer changed with the order."""
        n = max(self._pairs, 1)
        return {
            "pairs": float(self._pairs),
            "first": self._first / n if self._pairs else 0.5,
            "turned": self._turned / n,
        }


def asymmetry(judge: PairJudge, rows: Sequence[Row], first: Sequence[str], second: Sequence[str]) -> float:
    """The largest |P(y, y') + P(y', y) - 1| over some pairs: 0 for an antisymmetric judge."""
    both = preferences(judge, rows, first, second) + preferences(judge, rows, second, first)
    return float((both - 1).abs().max()) if len(both) else 0.0


def require_antisymmetric(
    judge: PairJudge, rows: Sequence[Row], first: Sequence[str], second: Sequence[str], tolerance: float = 1e-4
) -> None:
    """Refuse a pair judge that depends on the order; one that draws its answers may, by chance.

    Raises:
        RewardFailed: on one of the pairs by more than `tolerance`, or in the mean by more than chance.
    """
    forth, again = (preferences(judge, rows, first, second) - 0.5 for _ in range(2))
    off = order_effect(forth, again, preferences(judge, rows, second, first) - 0.5, tolerance)
    if off is not None:
        raise RewardFailed(
            f"the pair judge {function_name(judge)} depends on the order: P(y, y') + P(y', y) is off 1 by {off}; wrap it in "
            "BothOrders"
        )


# Win rates.


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
    """A pair judge as a list judge, and as a scorer of answers of which those to the same row stand side by side."""

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
            self.queues[key].append(str(answer))  # all that a checkpoint has of it
        return torch.where(count > 0, total / count.clamp(min=1), 0.5)

    def state_dict(self) -> dict[str, Any]:
        return {"queues": json.dumps({key: list(queue) for key, queue in self.queues.items()})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.queues.clear()
        for key, queue in json.loads(state["queues"]).items():
            self.queues[key].extend(queue)


@dataclass
class Tournament:
    """Who won and who lost, by place among the answers."""

    best: int
    worst: int
    confirmed: bool  # whether the best also beat the worst
    games: int = field(compare=False)


def tournament(judge: PairJudge, row: Row, answers: Sequence[Any]) -> Tournament:
    """The best and the worst of `k` answers in about 1.5 k games, 11 for 8: winners play winners, losers play losers, and the
    last two play each other. The first of two wins a tie; where the number is odd, the last has no game, and in the first round
    is among both.

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


def identity(row: Row) -> str:
    """What says that two rows are the same."""
    return json.dumps(dict(row), sort_keys=True, default=repr)
