"""Reward functions in trl's signature as one judge, with functions that fail caught.

A function is called with keywords, `prompts`, `completions`, `completion_ids`, `truncated` and a list for every column that all
rows have, and gives one number per answer, or None where it does not apply. One that raises, hangs or returns anything else is
caught, counted and named, and the run stops or goes on, as it was asked to.
"""

from __future__ import annotations

import inspect
import math
import traceback
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from palaestra.core.errors import PalaestraError, require, unknown
from palaestra.language.judges.calls import Caller, Failed, call_here, is_async
from palaestra.language.judges.notes import Notes, tell, trainer_state
from palaestra.language.judges.scores import Scores
from palaestra.language.sample import Sample

RewardFunction = Callable[..., Any]
"""`(prompts=..., completions=..., completion_ids=..., **columns) -> list of numbers`, plain or `async`."""
RESERVED = ("prompt", "completion", "completion_ids", "truncated", "tools")
"""Columns that functions are not given: what was asked comes as `prompts`, and `completion` is an answer known to be good, or
`truncated` one that the row brings."""
SHOWN = 80
"""Characters of a prompt or an answer in a message."""
LARGEST = float(torch.finfo(torch.float32).max)
FITS = "return a list with one number, or None where it does not apply, for each of `completions`"


class RewardFailed(PalaestraError):
    """A reward function raised, hung, or returned something else than one number per answer."""


class Judge:
    """Scores answers by one reward function or several, called in a thread beside the run's own.

    `rewards` is a function, a list of them, or {name: function}; `weights` a list in that order or {name: weight}, 1 unless
    given. A call over a batch may take `timeout` seconds of wall clock; with None there is no limit, and functions that are not
    asynchronous are called in the caller's own thread, which functions that set signals need. On a failure "stop" raises
    `RewardFailed`, and "skip" leaves the answers without a score and warns. A function that raises on a batch is then asked
    about each group of answers by itself, so that an answer which cannot be scored costs its own group only.

    `close` also closes what is in `closes`, such as reward functions that hold processes.

    `calls` counts the answers that were scored since the judge was made, `failures` those that each function failed on.
    """

    def __init__(
        self,
        rewards: RewardFunction | Sequence[RewardFunction] | Mapping[str, RewardFunction],
        weights: Sequence[float] | Mapping[str, float] | None = None,
        timeout: float | None = 60.0,
        on_error: Literal["stop", "skip"] = "stop",
        closes: Sequence[Any] = (),
    ):
        require(on_error in ("stop", "skip"), f"on_error must be stop or skip, got {on_error!r}")
        require(timeout is None or timeout > 0, f"the time limit of a reward function must be positive, got {timeout}")
        self.rewards = named_rewards(rewards)
        self.weights = _weights(weights, list(self.rewards))
        self.timeout, self.on_error, self.closes = timeout, on_error, closes
        self.trainer_state: Any = None
        """What functions with an argument `trainer_state`, as in trl, are given; None for the progress of the current run."""
        self.notes = Notes()
        """What the functions have reported, and how often they failed."""
        self.calls = 0
        self.failures = dict.fromkeys(self.rewards, 0)
        self._caller = Caller()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the thread and close what is in `closes`; another call would start a new thread."""
        self._caller.close()
        for one in self.closes:
            one.close()

    def __call__(self, samples: Sequence[Sample]) -> Scores:
        """The scores of the answers, in their order.

        Raises:
            RewardFailed: a function failed and is not to be skipped, or takes a column that not all rows have.
        """
        n, log = len(samples), _Log()
        self.calls += n
        columns = {name: self._checked(name, returned, samples) for name, returned in self._ask(samples, log).items()}
        scores = Scores(self._total(columns, samples), {name: column.values for name, column in columns.items()})
        for name, column in columns.items():
            if bool(column.wrong.any()):
                scores.failures[name] = int(column.wrong.sum())
                scores.complaints[name] = _message(name, column.complaint, samples[int(column.wrong.nonzero()[0])])
                self._note(name, scores)
        scores.metrics = {name: sum(values) / len(values) for name, values in log.metrics.items()}
        scores.extra = {name: values for name, values in log.extra.items() if len(values) == n}
        self.notes.add(scores)
        for function in self.rewards.values():
            if isinstance(inner := getattr(function, "notes", None), Notes):  # of a judge that it asks in turn
                self.notes.merge(inner)
        return scores

    def _checked(self, name: str, returned: Any, samples: Sequence[Sample]) -> _Column:
        """What a function returned for the answers; of one that raised, what it returns for each group of them.

        Raises:
            RewardFailed: it failed, and is not to be skipped.
        """
        column = _column(returned, len(samples))
        if column.complaint and self.on_error == "stop":
            example = self._example(name, samples) if column.raised else samples[int(column.wrong.nonzero()[0])]
            raise RewardFailed(_message(name, column.complaint, example))
        return self._by_group(name, samples, column) if column.raised else column

    def _total(self, columns: Mapping[str, _Column], samples: Sequence[Sample]) -> Tensor:
        """The weighted sums `(n,)` of what functions returned. Of one that single precision cannot hold, the function with the
        largest part has failed.

        Raises:
            RewardFailed: there is such a sum, and failures are not to be skipped.
        """
        parts = torch.stack([column.values for column in columns.values()])
        failed = torch.stack([column.wrong for column in columns.values()]).any(0)
        weights = torch.tensor([self.weights[name] for name in columns], dtype=torch.float64)
        weighted = weights.unsqueeze(1) * parts
        exact = weighted.nansum(0)
        total = exact.float().masked_fill(failed | parts.isnan().all(0), math.nan)
        for i in total.isinf().nonzero().flatten().tolist():
            name, column = list(columns.items())[int(weighted[:, i].abs().nan_to_num().argmax())]
            complaint = (
                f"returned {column.values[i]:g} for answer {i + 1} of {len(samples)}, which with its weight of "
                f"{self.weights[name]:g} makes a total of {exact[i]:g}, more than the {LARGEST:.2g} of single precision"
            )
            if self.on_error == "stop":
                raise RewardFailed(_message(name, complaint, samples[i]))
            column.values[i], column.wrong[i], column.complaint = math.nan, True, column.complaint or complaint
        return total.masked_fill(total.isinf(), math.nan)

    def _ask(self, samples: Sequence[Sample], log: _Log) -> dict[str, Any]:
        """What each function returns, or how it `Failed`: asynchronous ones concurrently, the others in turn."""
        if not samples:
            return {name: [] for name in self.rewards}
        given = arguments(samples)
        calls = {name: self._bound(name, samples, log, given) for name in self.rewards}
        waiting = [name for name, function in self.rewards.items() if is_async(function)]
        returned = dict(zip(waiting, self._caller.gather([calls[name] for name in waiting], self.timeout)))
        return {
            name: returned[name] if name in returned else self._caller.ask(call, self.timeout)
            for name, call in calls.items()
        }

    def _bound(
        self, name: str, samples: Sequence[Sample], log: _Log, given: dict[str, Any] | None = None
    ) -> Callable[[], Any]:
        """The function bound to the arguments that it takes, in lists that it may change, and so messages and rows' lists."""
        function = self.rewards[name]
        given = {key: _copied(values) for key, values in (given or arguments(samples)).items()}
        given |= {"trainer_state": self.trainer_state or trainer_state()}
        given |= {"log_extra": log.add_extra, "log_metric": log.add_metric}
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # a built-in function that does not tell
            return partial(function, **given)
        needed = [
            p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        if missing := [column for column in needed if column not in given]:
            has = ", ".join(str(key) for key in samples[0].row) or "nothing"
            raise RewardFailed(
                f"the reward function {name} takes {', '.join(missing)}, which is not a column of every row (the first has "
                f"{has}); give it a default, or every row the column"
            )
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            given = {p.name: given[p.name] for p in parameters if p.name in given}
        return partial(function, **given)

    def _example(self, name: str, samples: Sequence[Sample]) -> Sample:
        """One answer on which a function raises that raised on all of `samples`, found by bisection."""
        while len(samples) > 1:
            half = len(samples) // 2
            raised = isinstance(self._caller.ask(self._bound(name, samples[:half], _Log()), self.timeout), Failed)
            samples = samples[:half] if raised else samples[half:]
        return samples[0]

    def _by_group(self, name: str, samples: Sequence[Sample], together: _Column) -> _Column:
        """The answers scored one group at a time; `together` is how the function failed on all of them.

        By group, not by answer, since some functions compare the answers of a group.
        """
        groups: dict[int, list[int]] = defaultdict(list)
        for place, sample in enumerate(samples):
            groups[sample.group].append(place)
        if len(groups) == 1:
            return together
        column = _Column(together.values, together.wrong, "")
        for places in groups.values():
            part = [samples[place] for place in places]
            found = _column(self._caller.ask(self._bound(name, part, _Log()), self.timeout), len(part))
            column.values[places], column.wrong[places] = found.values, found.wrong
            column.complaint = column.complaint or found.complaint
            if found.late:  # the rest is not asked for
                break
        return column

    def _note(self, name: str, scores: Scores) -> None:
        if not self.failures[name]:
            tell(name, f"answers are left without a score: {scores.complaints[name]}")
        self.failures[name] += scores.failures[name]


def arguments(samples: Sequence[Sample]) -> dict[str, Any]:
    """The keyword arguments of reward functions: trl's, which are prompts, completions, their ids and a list for each column that
    all rows have; and `truncated`, which completions were cut off by the limit on tokens.

    Where a prompt is text, its completion is what the policy said; where it is messages, a list of one message or of those of a
    whole conversation.
    """
    rows = [sample.row for sample in samples]
    columns = [
        key for key in rows[0] if isinstance(key, str) and key not in RESERVED and all(key in row for row in rows)
    ]
    prompts = [row.get("prompt", "") for row in rows]
    return {
        **{key: [row[key] for row in rows] for key in columns},
        "prompts": prompts,
        "completions": [
            sample.said
            if isinstance(prompt, str)
            else list(sample.messages) or [{"role": "assistant", "content": sample.text}]
            for sample, prompt in zip(samples, prompts)
        ],
        "completion_ids": [sample.completion.tolist() for sample in samples],
        "truncated": [sample.truncated for sample in samples],
    }


def _copied(value: Any) -> Any:
    """Lists and dictionaries copied as deep as they go, with whatever else is in them, such as images, as it is."""
    if isinstance(value, list):
        return [_copied(item) if isinstance(item, list | dict) else item for item in value]
    return {key: _copied(item) for key, item in value.items()} if isinstance(value, dict) else value


def named_rewards(
    rewards: RewardFunction | Sequence[RewardFunction] | Mapping[str, RewardFunction],
) -> dict[str, RewardFunction]:
    """Reward functions by name: that of the function, with a number behind it where several have the same."""
    if isinstance(rewards, Mapping):
        found = {str(name): function for name, function in rewards.items()}
    else:
        found = {}
        for function in [rewards] if callable(rewards) else list(rewards):
            name, count = function_name(function), 2
            while name in found:
                name, count = f"{function_name(function)}_{count}", count + 1
            found[name] = function
    require(len(found) > 0, "a judge needs at least one reward function")
    for name, function in found.items():
        require(callable(function), f"a reward is a function, got {function!r} as {name}")
    return found


def function_name(function: RewardFunction) -> str:
    """The name of a function in metrics and messages: its own, or that of its class."""
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return "reward" if name == "<lambda>" else name


def shown(text: str, limit: int = SHOWN) -> str:
    """Text from a model or a user as it is shown in messages: quoted, on one line of at most `limit` characters, and without
    control characters."""
    kept = (
        " " if c in "\n\t\r" else c for c in text[: 4 * limit] if c in "\n\t\r" or unicodedata.category(c)[0] != "C"
    )
    line = " ".join("".join(kept).split())
    return f"'{line}'" if len(line) <= limit and len(text) <= 4 * limit else f"'{line[:limit]}…'"


@dataclass
class _Column:
    """What one function returned for `n` answers."""

    values: Tensor  # (n,) float32, NaN for None and where it failed
    wrong: Tensor  # (n,) bool, on which answers it failed
    complaint: str = ""  # how
    raised: bool = False
    late: bool = False


@dataclass
class _Log:
    """What functions report by trl's `log_extra` and `log_metric`."""

    extra: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    metrics: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add_extra(self, column: str, values: Sequence[Any]) -> None:
        self.extra[column].extend(values)

    def add_metric(self, name: str, value: float) -> None:
        self.metrics[name].append(float(value))


def _column(returned: Any, n: int) -> _Column:
    """What a function returned for `n` answers, checked."""
    values, wrong = torch.full((n,), math.nan), torch.zeros(n, dtype=torch.bool)
    if isinstance(returned, Failed):
        return _Column(values, ~wrong, said_of(returned), raised=not returned.late, late=returned.late)
    returned = _plain(returned)
    if not isinstance(returned, list | tuple):
        return _Column(values, ~wrong, f"returned {described(returned)}; {FITS}")
    if len(returned) != n:
        return _Column(values, ~wrong, f"returned {len(returned)} numbers for {n} answers; {FITS}")
    numbers = [math.nan if value is None else _number(value) for value in returned]
    places = [i for i, x in enumerate(numbers) if returned[i] is not None and not (x is not None and abs(x) <= LARGEST)]
    values = torch.tensor([math.nan if x is None else x for x in numbers])
    if not places:
        return _Column(values, wrong)
    values[places], wrong[places] = math.nan, True
    first = numbers[places[0]]
    given = described(returned[places[0]]) if first is None else f"{first:g}"
    return _Column(values, wrong, f"returned {given} for answer {places[0] + 1} of {n}; {FITS}")


def _number(value: Any) -> float | None:
    """A value as a float, if it is one number: Python's, NumPy's or PyTorch's."""
    if type(value) is float:
        return value
    value = _plain(value)
    try:
        return float(value) if isinstance(value, Real) else None
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def _plain(value: Any) -> Any:
    """What NumPy or PyTorch holds as Python's numbers, in lists if there are several; other values, and tensors that cannot be
    read, such as sparse ones, as they are."""
    if not isinstance(value, torch.Tensor | np.generic | np.ndarray):
        return value
    read = call_here(value.tolist)
    return value if isinstance(read, Failed) else read


def described(value: Any) -> str:
    """The type of a value, and the value itself where that is text or a number of few digits, as in `a str ('7')`."""
    named = type(value).__name__
    known = isinstance(value, str | float) or (isinstance(value, int) and value.bit_length() <= 64)
    return f"{'an' if named[0] in 'aeiouAEIOU' else 'a'} {named}" + (f" ({shown(str(value), 20)})" if known else "")


def said_of(failed: Failed) -> str:
    """How a call failed: the part of a message that follows the function's name."""
    if failed.late:
        return f"{failed.error}; return sooner, or give the judge a longer timeout"
    where = traceback.extract_tb(failed.error.__traceback__)
    place = f" in {Path(where[-1].filename).name}:{where[-1].lineno}" if where else ""
    said = shown(failed.words, 200)
    hint = "; a function that sets signals needs timeout=None" if "main thread" in said else ""
    return f"raised {type(failed.error).__name__} {said}{place}{hint}"


def _message(name: str, complaint: str, example: Sample) -> str:
    prompt = example.row.get("prompt", "")
    asked = prompt if isinstance(prompt, str) else str(prompt[-1].get("content", "")) if prompt else ""
    return f"the reward function {name} {complaint}. Example: prompt {shown(asked)}, answer {shown(example.said)}"


def _weights(weights: Sequence[float] | Mapping[str, float] | None, names: list[str]) -> dict[str, float]:
    """The weight of each function by name."""
    if isinstance(weights, Mapping):
        for name in weights:
            if name not in names:
                raise unknown("reward function", name, names)
        weights = [weights.get(name, 1.0) for name in names]
    weights = [1.0] * len(names) if weights is None else list(weights)
    require(len(weights) == len(names), f"there are {len(weights)} weights for {len(names)} reward functions")
    numbers = [_number(weight) for weight in weights]
    fits = all(number is not None and abs(number) <= LARGEST for number in numbers)
    require(fits, f"the weights of rewards are numbers, finite in single precision, got {weights}")
    return {name: float(weight) for name, weight in zip(names, weights)}
