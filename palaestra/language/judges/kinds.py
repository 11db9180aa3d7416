"""The four kinds of judge, and how one becomes another.

All are functions. An x is a row, so that a judge sees the prompt and whatever columns come with it; a y is an answer's text.
Numbers are checked where one kind becomes another: a judge that gives NaN, or fewer numbers than it was asked for, raises
`RewardFailed` with its name.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.language.judges.judge import Judge, RewardFailed, described, function_name
from palaestra.language.judges.notes import Notes
from palaestra.language.rows import Row
from palaestra.language.sample import Answer, Sample
from palaestra.language.verifiers.verdict import answer_text, each_row
from palaestra.objectives.games import order_effect

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
    """The scores `(n,)` of answers.

    Raises:
        RewardFailed: they are not one finite number per answer.
    """
    return checked(scorer, scorer(rows, answers), len(rows))


def preferences(judge: PairJudge, rows: Sequence[Row], first: Sequence[Any], second: Sequence[Any]) -> Tensor:
    """The probabilities `(n,)` that the first answer of each pair is better.

    Raises:
        RewardFailed: they are not one number between 0 and 1 per pair.
    """
    return checked(judge, judge(rows, first, second), len(rows), 0.0, 1.0)


def checked(
    judge: Any, values: Any, n: int, low: float = -torch.inf, high: float = torch.inf, gaps: bool = False
) -> Tensor:
    """`values`, which a judge gave for `n` answers or pairs, as a tensor `(n,)` on the CPU.

    With `gaps`, they may be NaN where the judge says that it had no verdict (`unsaid_by`).

    Raises:
        RewardFailed: they are not `n` finite numbers between `low` and `high`.
    """
    try:
        values = torch.as_tensor(values, dtype=torch.float32, device="cpu").to_dense()
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise RewardFailed(
            f"{function_name(judge)} gave {described(values)}, not numbers, where {n} were asked for"
        ) from None
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
    """On which of the `n` answers or pairs of its last call a judge had no verdict, `(n,)` bool.

    That is its attribute `unsaid`, if it has one. Pairs without a verdict are given 1/2, so that judges which do not pass
    `unsaid` on still give probabilities; a score is NaN or the middle of the scale.
    """
    told = getattr(getattr(judge, "__self__", judge), "unsaid", None)
    return told if isinstance(told, Tensor) and told.shape == (n,) else torch.zeros(n, dtype=torch.bool)


def notes_of(judge: Any) -> Notes | None:
    """The `Notes` on the reward functions that a judge calls; None if it calls none."""
    told = getattr(judge, "notes", None)
    return told if isinstance(told, Notes) else None


def either(both: Tensor) -> Tensor:
    """Whether either half of `(2 n,)` bool is true at each of `n` places."""
    return torch.stack(both.tensor_split(2)).any(0)


def identity(row: Row) -> str:
    """Text that is the same for equal rows alone."""
    return json.dumps(dict(row), sort_keys=True, default=repr)


# Scorers and reward functions.


class RewardScorer:
    """The total of a judge's reward functions as a scorer; an answer without one is `unsaid`, and its score is NaN.

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


def as_reward(scorer: Scorer, name: str | None = None) -> Callable[..., list[float | None]]:
    """A scorer as a reward function in trl's signature. An answer that is `unsaid`, with NaN as its score, has None.

    As of any reward function, None is "does not apply": beside other functions such an answer is scored by those alone.
    """

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        for of_answers in ("completion_ids", "truncated"):  # a row is what was asked, not what was answered
            columns.pop(of_answers, None)
        rows = each_row({"prompt": prompts, **columns}, len(prompts))
        said = scorer(rows, [answer_text(completion) for completion in completions])
        scores = checked(scorer, said, len(rows), gaps=True).tolist()
        return [None if math.isnan(score) else score for score in scores]

    reward.__name__ = name or function_name(scorer)
    reward.scorer = scorer  # type: ignore[attr-defined]  # which may remember (`judges.memory`)
    reward.notes = notes_of(scorer)  # type: ignore[attr-defined]  # which the judge of this reward takes over
    return reward


class Summed:
    """A token scorer as a scorer of ids: the sum over an answer's tokens."""

    def __init__(self, scorer: TokenScorer):
        self.scorer = scorer

    def __call__(self, rows: Sequence[Row], ids: Sequence[Tensor]) -> Tensor:
        scores = self.scorer(rows, ids)
        if not isinstance(scores, list | tuple) or not all(isinstance(given, Tensor) for given in scores):
            raise RewardFailed(f"{function_name(self.scorer)} gave {described(scores)}, not a tensor for each answer")
        if len(scores) != len(ids):
            raise RewardFailed(f"{function_name(self.scorer)} gave scores of {len(scores)} answers for {len(ids)}")
        for given, asked in zip(scores, ids, strict=True):
            if given.shape != asked.shape:
                raise RewardFailed(
                    f"{function_name(self.scorer)} gave scores of shape {tuple(given.shape)} for {len(asked)} tokens"
                )
        return torch.stack([score.sum() for score in scores]) if len(scores) else torch.zeros(0)


class AtEnd:
    """A scorer as a token scorer: the last token of an answer has its score, the others have 0. `decode` turns ids into text."""

    def __init__(self, scorer: Scorer, decode: Callable[[list[int]], str]):
        self.scorer, self.decode = scorer, decode

    def __call__(self, rows: Sequence[Row], ids: Sequence[Tensor]) -> list[Tensor]:
        scores = scores_of(self.scorer, rows, [self.decode(said.tolist()) for said in ids])
        given = [torch.zeros(len(said)) for said in ids]
        for tokens, score in zip(given, scores, strict=True):
            tokens[-1:] = score
        return given


class Places:
    """A list judge as a scorer: all answers of a call to the same row are judged together, and scored by their rank.

    A score is the share of the other answers that are ranked lower, from 1 for the first to 0 for the last; one with the same
    score counts half. An answer that is alone has 1/2, without asking the judge.
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
    """A scorer as a pair judge. A pair of which either answer has no score is a tie, and `unsaid`."""

    antisymmetric = True
    unsaid: Tensor  # (n,) bool of the last pairs

    def __init__(self, scorer: Scorer):
        self.scorer = scorer

    @property
    def notes(self) -> Notes | None:
        return notes_of(self.scorer)

    def leads(self, rows: Sequence[Row], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """The first answer's score minus the second's, `(n,)`; 0 where either has none."""
        said = self.scorer([*rows, *rows], [*first, *second])
        scores = checked(self.scorer, said, 2 * len(rows), gaps=True)
        self.unsaid = either(unsaid_by(self.scorer, len(scores)))
        return torch.sub(*scores.tensor_split(2)).masked_fill(self.unsaid, 0.0)


class Sign(ByScores):
    """P = 1 for the answer with the higher score, and 1/2 for equal scores."""

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
    """Base of judges that wrap another."""

    judge: Callable[..., Any]
    unsaid: Tensor  # (n,) bool, on which of the last answers or pairs it had no verdict

    @property
    def orders(self) -> tuple[int, float, int]:
        """How many pairs were judged in both orders so far; how many of them went to the answer shown first, as a mean over both
        orders; and for how many the preferred answer changed with the order."""
        return getattr(getattr(self.judge, "__self__", self.judge), "orders", (0, 0.0, 0))

    @property
    def notes(self) -> Notes | None:
        return notes_of(self.judge)

    @property
    def antisymmetric(self) -> bool:
        """Whether the inner judge declares that it is, so that it need not be tested."""
        return bool(getattr(self.judge, "antisymmetric", False))


class BothOrders(Around):
    """Judges each pair in both orders and averages, which makes any judge antisymmetric: P(y, y') + P(y', y) = 1. A pair that
    lacks a verdict in one of the orders is a tie.

    `report` says how much the order mattered.
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
    """The largest |P(y, y') + P(y', y) - 1| over the pairs: 0 for an antisymmetric judge."""
    both = preferences(judge, rows, first, second) + preferences(judge, rows, second, first)
    return float((both - 1).abs().max()) if len(both) else 0.0


def require_antisymmetric(
    judge: PairJudge, rows: Sequence[Row], first: Sequence[str], second: Sequence[str], tolerance: float = 1e-4
) -> None:
    """Refuse a pair judge that depends on the order by more than chance, since some judges draw their answers.

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
