"""Judges around judges: guarded, noisy, counted, remembered. Each takes a scorer or a pair judge, and is one of that kind."""

from __future__ import annotations

import inspect
import json
import random
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, Literal

import torch
from torch import Tensor

from palaestra.core.errors import BadSetting, require
from palaestra.core.seeding import seed_for
from palaestra.language.judges.calls import Caller, Failed
from palaestra.language.judges.judge import RewardFailed, function_name, said_of, shown
from palaestra.language.judges.kinds import (
    Around,
    PairJudge,
    Scorer,
    checked,
    identity,
    preferences,
    require_antisymmetric,
    unsaid_by,
)
from palaestra.language.rows import Row
from palaestra.language.sample import Answer, Sample

TRIED = 50
"""Pairs on which a judge is tested for a dependence on the order."""


class Guarded(Around):
    """A pair judge that may raise, hang or give something else than probabilities, guarded as `Judge` guards reward functions.

    A call may take `timeout` seconds. On a failure "stop" raises `RewardFailed`; with "skip" the pairs of the call are ties, and
    `unsaid`, and the first failure is a warning.
    """

    def __init__(self, judge: PairJudge, timeout: float | None = 60.0, on_error: Literal["stop", "skip"] = "stop"):
        require(timeout is None or timeout > 0, f"the time limit of a pair judge must be positive, got {timeout}")
        self.judge, self.timeout, self.on_error = judge, timeout, on_error
        self.__name__ = function_name(judge)
        _check_pairs(judge)
        self._caller, self._warned = Caller(), False

    def __call__(self, rows: Sequence[Row], first: Sequence[str], second: Sequence[str]) -> Tensor:
        try:
            said = checked(self.judge, self._asked(rows, first, second), len(rows), 0.0, 1.0)
            self.unsaid = unsaid_by(self.judge, len(rows))
            return said
        except RewardFailed as error:
            if self.on_error == "stop":
                raise
            if not self._warned:
                warnings.warn(f"pairs are left without a verdict: {error}", stacklevel=2)
            self._warned, self.unsaid = True, torch.ones(len(rows), dtype=torch.bool)
            return torch.full((len(rows),), 0.5)

    def _asked(self, *given: Sequence[Any]) -> Any:
        """What the judge returns; with a time limit, it is called in a thread of its own.

        Raises:
            RewardFailed: it raised or took too long.
        """
        call = partial(self.judge, *map(list, given))
        said = self._caller.ask(call, self.timeout)
        if isinstance(said, Failed):
            rows, first, second = given
            pair = f". Example: answers {shown(first[0])} and {shown(second[0])}" if rows else ""
            raise RewardFailed(f"the pair judge {self.__name__} {said_of(said)}{pair}") from None
        return said


def _check_pairs(judge: PairJudge) -> None:
    """Raise `BadSetting` for a function that does not take what a pair judge is asked."""
    try:
        taken = inspect.signature(judge)
    except (TypeError, ValueError):  # a built-in function that does not tell
        return
    try:
        taken.bind((), (), ())
    except TypeError:
        raise BadSetting(
            f"{function_name(judge)}{taken} is no pair judge, which is given three lists of the same length: rows, first and "
            "second answers"
        ) from None


class NoisyScores(Around):
    """A scorer with normal noise of standard deviation `deviation`, a function of the row, the answer and the seed."""

    def __init__(self, scorer: Scorer, deviation: float, seed: int = 0):
        require(deviation >= 0, f"a deviation must not be negative, got {deviation}")
        self.judge, self.deviation, self.seed = scorer, deviation, seed

    def __call__(self, rows: Sequence[Row], answers: Sequence[str]) -> Tensor:
        noise = [
            random.Random(_draw(self.seed, row, answer)).gauss(0, self.deviation) for row, answer in zip(rows, answers)
        ]
        scores = checked(self.judge, self.judge(rows, answers), len(rows), gaps=True)
        self.unsaid = unsaid_by(self.judge, len(rows))
        return scores + torch.tensor(noise)


class NoisyPairs(Around):
    """A pair judge whose verdict is reversed on a share `flip` of all pairs, the same ones in either order."""

    def __init__(self, judge: PairJudge, flip: float, seed: int = 0):
        require(0 <= flip <= 1, f"the share of flipped pairs is between 0 and 1, got {flip}")
        self.judge, self.flip, self.seed = judge, flip, seed

    def __call__(self, rows: Sequence[Row], first: Sequence[str], second: Sequence[str]) -> Tensor:
        draws = [
            random.Random(_draw(self.seed, row, *sorted(pair))).random() for row, *pair in zip(rows, first, second)
        ]
        said = preferences(self.judge, rows, first, second)
        self.unsaid = unsaid_by(self.judge, len(rows))
        return torch.where(torch.tensor(draws, dtype=torch.float64) < self.flip, 1 - said, said)


class Counted(Around):
    """Counts the `calls` of a judge, the answers or pairs that it was `asked` about, and those `without` a verdict."""

    def __init__(self, judge: Callable[..., Tensor]):
        self.judge, self.calls, self.asked, self.without = judge, 0, 0, 0
        self.__name__ = function_name(judge)
        self._before = self.orders

    def __call__(self, rows: Sequence[Row], *answers: Sequence[str]) -> Tensor:
        self.calls += 1
        self.asked += len(rows)
        said = self.judge(rows, *answers)
        self.unsaid = unsaid_by(self.judge, len(rows))
        self.without += int(self.unsaid.sum())
        return said

    @property
    def by_order(self) -> tuple[int, float, int]:
        """The `orders` of the pairs that were asked about through this wrapper."""
        pairs, first, turned = (now - before for now, before in zip(self.orders, self._before))
        return int(pairs), first, int(turned)


class Tried(Counted):
    """At the first call, tests on `TRIED` pairs whether a pair judge depends on the order, unless it declares itself
    `antisymmetric`, and refuses one that does.

    Where the call has fewer pairs they are repeated, which shows whether verdicts are drawn at random. The test's questions count
    as `asked`.

    Raises:
        RewardFailed: it depends on the order.
    """

    def __call__(self, rows: Sequence[Row], *answers: Sequence[str]) -> Tensor:
        if rows and not self.asked and not self.antisymmetric:
            rows_tried, first, second = ([part[i % len(rows)] for i in range(TRIED)] for part in (rows, *answers))
            require_antisymmetric(self.judge, rows_tried, first, second)
            self.asked += 3 * TRIED
        return super().__call__(rows, *answers)


class Cached(Around):
    """Keeps the `size` verdicts that were asked for last, by a hash of the row and the answers, and asks a judge only about the
    others.

    For judges whose verdict is a function of these; `hits` counts the verdicts that were known. Where there was no verdict, none
    is kept, and the judge is asked again.
    """

    def __init__(self, judge: Callable[..., Tensor], size: int = 100_000):
        require(size >= 1, f"a cache has at least one place, got {size}")
        self.judge, self.size, self.hits = judge, size, 0
        self.__name__ = function_name(judge)
        self._known: OrderedDict[bytes, float] = OrderedDict()

    def __call__(self, rows: Sequence[Row], *answers: Sequence[str]) -> Tensor:
        asked = list(zip(rows, *answers))
        keys = [_hash(row, *map(_whole, texts)) for row, *texts in asked]
        known = {key: self._known[key] for key in keys if key in self._known}
        new = {key: one for key, one in zip(keys, asked) if key not in known}
        self.hits += len(keys) - len(new)
        without = set[bytes]()
        if new:
            said = checked(self.judge, self.judge(*map(list, zip(*new.values()))), len(new), gaps=True)
            known |= dict(zip(new, said.tolist()))
            without = {key for key, missing in zip(new, unsaid_by(self.judge, len(new)).tolist()) if missing}
        self.unsaid = torch.tensor([key in without for key in keys], dtype=torch.bool)
        for key in (key for key in keys if key not in without):
            self._known[key] = known[key]
            self._known.move_to_end(key)
        while len(self._known) > self.size:
            self._known.popitem(last=False)
        return torch.tensor([known[key] for key in keys])


class Once:
    """A function of samples `(n,)` as a scorer, which is asked about each sample once, in however many pairs it takes part."""

    def __init__(self, scores: Callable[[Sequence[Sample]], Tensor]):
        self.scores, self.known = scores, dict[int, tuple[Sample, float]]()

    def __call__(self, rows: Sequence[Row], answers: Sequence[Any]) -> Tensor:
        samples = [answer.sample for answer in answers]
        new = list({id(sample): sample for sample in samples if id(sample) not in self.known}.values())
        if new:
            self.known |= {id(s): (s, score) for s, score in zip(new, self.scores(new).tolist(), strict=True)}
        return torch.tensor([self.known[id(sample)][1] for sample in samples])


def _whole(answer: str) -> str:
    """What identifies an answer: its text and, if they are known, its ids and whether it was cut off."""
    known = answer.sample if isinstance(answer, Answer) else None
    return answer if known is None else json.dumps([answer, known.completion.tolist(), known.truncated])


def _hash(row: Row, *answers: str) -> bytes:
    digest = blake2b(digest_size=16)
    for part in (identity(row), *answers):
        data = part.encode(errors="surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


def _draw(seed: int, row: Row, *answers: str) -> int:
    return seed_for(seed, f"noise/{_hash(row, *answers).hex()}")
