"""Settings are what their hints say, or refused in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

from palaestra.core.errors import BadSetting
from palaestra.core.hints import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    UnitInterval,
    check_ranges,
    check_settings,
)


@dataclass
class Settings:
    """One of each kind."""

    count: int = 1
    rate: float = 0.5
    limit: int | None = None
    form: Literal["a", "b", "c"] = "a"
    network: tuple[int, ...] | Callable[..., Any] = (4,)
    bounds: tuple[float, float] | None = None
    switch: bool = False
    names: tuple[str, ...] = ()
    sloppy: int = 0.5  # type: ignore[assignment]  # a user's own, which works


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"count": np.int64(3), "rate": 1, "limit": 4},
        {"rate": np.float32(0.5), "form": "c", "network": [3, 4]},
        {"network": lambda inputs, outputs: None, "switch": True},
        {"bounds": (0.1, 1)},
    ],
)
def test_what_a_hint_allows_passes(given):
    check_settings(Settings(**given))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"count": 2.5}, "count must be a whole number, got 2.5"),
        ({"count": "3"}, "count must be a whole number, got '3'"),
        ({"rate": "abc"}, "rate must be a number, got 'abc'"),
        ({"rate": None}, "rate must be a number, got None"),
        ({"limit": 0.5}, "limit must be a whole number or none, got 0.5"),
        ({"form": "d"}, "form must be a, b or c, got 'd'"),
        ({"bounds": (0.1,)}, "bounds must be 2 numbers or none, got (0.1,)"),
        ({"bounds": (0.1, "1")}, "bounds must be 2 numbers or none, got (0.1, '1')"),
        ({"count": True}, "count must be a whole number, got True"),
        ({"names": "a"}, "names must be names, got 'a'"),
        ({"switch": 1}, "switch must be true or false, got 1"),
    ],
)
def test_what_it_does_not_allow_is_refused_with_what_would_fit(given, says):
    with pytest.raises(BadSetting) as caught:
        check_settings(Settings(**given))
    assert str(caught.value) == says


@dataclass
class Ranged:
    """One of each range."""

    count: PositiveInt = 1
    more: NonNegativeInt = 0
    rate: PositiveFloat = 0.5
    weight: NonNegativeFloat = 0.0
    part: UnitInterval = 1.0
    limit: PositiveInt | None = None


@dataclass
class Derived(Ranged):
    """A field with another default, and another hint."""

    rate: float = 0.1


@pytest.mark.parametrize("given", [{}, {"limit": 3}, {"part": 0, "more": 7}])
def test_numbers_within_their_ranges_pass(given):
    check_ranges(Ranged(**given))
    check_ranges(Derived(**given))


@pytest.mark.parametrize("cls", [Ranged, Derived])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"more": -1}, "more must not be negative, got -1"),
        ({"rate": 0.0}, "rate must be positive, got 0.0"),
        ({"rate": float("nan")}, "rate must be positive, got nan"),
        ({"weight": -0.5}, "weight must not be negative, got -0.5"),
        ({"part": 1.5}, "part must be between 0 and 1, got 1.5"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
    ],
)
def test_a_range_holds_in_the_class_that_states_it_and_in_all_that_derive_from_it(cls, given, says):
    with pytest.raises(BadSetting) as caught:
        check_ranges(cls(**given))
    assert str(caught.value) == says


def test_a_hint_with_a_range_is_of_the_same_type_as_without_it():
    with pytest.raises(BadSetting, match=r"limit must be a whole number or none, got 2\.5"):
        check_settings(Ranged(limit=2.5))
