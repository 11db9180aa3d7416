"""Judged answers as rows that another run can learn from, for whoever writes them down."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from palaestra.core.errors import require
from palaestra.language.preferences import differ
from palaestra.language.rows import Row
from palaestra.language.sample import Sample

if TYPE_CHECKING:
    from palaestra.language.policy import LanguagePolicy

_writers: list[Callable[[Row], None]] = []


@contextmanager
def recording(write: Callable[[Row], None]) -> Iterator[None]:
    """While this is entered, call `write` with what methods have judged: a row for each prompt, with its answers."""
    _writers.append(write)
    try:
        yield
    finally:
        _writers.pop()


def record(samples: Sequence[Sample], policy: LanguagePolicy, **about: Any) -> None:
    """Write judged answers of a policy as rows, with the columns `about` in each, if `recording` is entered.

    Raises:
        BadSetting: they are conversations, which rows of preferences cannot hold.
    """
    if _writers:
        require(
            not any(sample.messages for sample in samples),
            "answers of several turns are no rows; leave keep_answers out",
        )
        for row in rows_of(samples, policy):
            _writers[-1]({**row, **about})


def rows_of(samples: Sequence[Sample], policy: LanguagePolicy) -> Iterator[dict[str, Any]]:
    """A row for each prompt, with the columns that it had and those of a list of answers (`palaestra.language.preferences`).

    `logps` are log-probabilities of whole answers at temperature 1. One is None where it is not that of the text: a teacher has
    not said how likely its answers were, a text that ended an answer is not part of it, and tokens that were chosen may be others
    than its text is read as. Empty answers are left out, and so are those that were given several times with different scores, as
    the winner and the loser of a comparison may be the same text.
    """
    for _, group in itertools.groupby(samples, key=lambda sample: sample.group):
        said = _agreed([sample for sample in group if sample.text.strip()])
        if said:
            yield {
                **{name: value for name, value in said[0].row.items() if _is_json(value)},
                "completions": [sample.text for sample in said],
                "scores": [_short(sample.reward) for sample in said],
                "logps": [_logp(sample, policy) for sample in said],
                "truncated": [sample.truncated for sample in said],
            }


def _short(score: float) -> float:
    """A score in as few digits as single precision needs, in which judges give it: 0.6, and not 0.6000000238418579."""
    return float(str(np.float32(score)))


def _agreed(samples: Sequence[Sample]) -> list[Sample]:
    """The answers without those whose text was given several times, with different scores."""
    keys = [(sample.text.strip(), sample.truncated) for sample in samples]
    first = {key: sample.reward for key, sample in zip(reversed(keys), reversed(samples), strict=True)}
    torn = {key for key, sample in zip(keys, samples, strict=True) if differ(sample.reward, first[key])}
    return [sample for key, sample in zip(keys, samples, strict=True) if key not in torn]


def _logp(sample: Sample, policy: LanguagePolicy) -> float | None:
    """How likely an answer's text was to the policy, with its end unless it was cut off."""
    read = policy.completion_ids(sample.text)[: -1 if sample.truncated else None]
    total = float(sample.logp.double().sum())
    return total if sample.source == 0 and torch.equal(read, sample.completion) and math.isfinite(total) else None


def _is_json(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and _is_json(one) for name, one in value.items())
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
