"""Type hints of settings: whether a value is what a hint says, and what it says in words."""

from __future__ import annotations

import dataclasses
import functools
import numbers
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from palaestra.core.errors import require

KINDS = {int: numbers.Integral, float: numbers.Real, str: str, bool: bool, type(None): type(None)}
PLURALS = {int: "whole numbers", str: "names"}
WORDS = {int: "a whole number", float: "a number", str: "a name", bool: "true or false", type(None): "none"}


class Range(NamedTuple):
    """The numbers that a setting may be, as part of its hint."""

    holds: Callable[[float], bool]
    said: str


PositiveInt = Annotated[int, Range(lambda n: n >= 1, "must be at least 1")]
NonNegativeInt = Annotated[int, Range(lambda n: n >= 0, "must not be negative")]
PositiveFloat = Annotated[float, Range(lambda x: x > 0, "must be positive")]
NonNegativeFloat = Annotated[float, Range(lambda x: x >= 0, "must not be negative")]
UnitInterval = Annotated[float, Range(lambda x: 0 <= x <= 1, "must be between 0 and 1")]


def check_ranges(settings: Any) -> None:
    """Raise `BadSetting` for a field of a dataclass that is out of the range in its hint, or in the hint of a class that it
    derives from; what is None has none."""
    for name, range_ in ranges_of(type(settings)):
        value = getattr(settings, name)
        require(value is None or range_.holds(value), f"{name} {range_.said}, got {value}")


@functools.cache
def ranges_of(cls: type) -> list[tuple[str, Range]]:
    """The ranges in the hints of a class and its bases, by the names of fields."""
    found: dict[tuple[str, Range], None] = {}
    for base in reversed(cls.__mro__):
        for name, hint in hints_of(base, ranges=True).items():
            for kind in alternatives(hint):
                found |= dict.fromkeys((name, x) for x in getattr(kind, "__metadata__", ()) if isinstance(x, Range))
    return list(found)


def check_settings(settings: Any) -> None:
    """Raise `BadSetting` for a field of a dataclass whose value is not what its hint says.

    Defaults are believed, and so is whatever has a hint that is more than numbers, text, choices and tuples of these.
    """
    hints = hints_of(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.init and value is not field.default:
            check_value(value, hints.get(field.name, Any), field.name)


def check_value(value: Any, hint: Any, name: str) -> None:
    """Raise `BadSetting`, with what would fit, for a value that is not what its hint says."""
    require(fits(value, hint), f"{name} must be {described(hint)}, got {value!r}")


def hints_of(cls: type, ranges: bool = False) -> dict[str, Any]:
    """The hints of a class's fields by name, perhaps with their ranges; none of them where one has a name that only type checkers
    know."""
    try:
        return typing.get_type_hints(cls, include_extras=ranges)
    except NameError:
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, or of one of several; a whole number is a number, too."""
    return any(_fits(value, kind) for kind in alternatives(hint))


def described(hint: Any) -> str:
    """What a hint says in words."""
    parts = []
    for kind in reversed(alternatives(hint)):
        origin = typing.get_origin(kind)
        if origin is typing.Literal:
            parts += [str(choice) for choice in typing.get_args(kind)]
        elif origin is tuple:
            each, *rest = typing.get_args(kind)
            many = "" if rest == [...] else f"{len(rest) + 1} "
            parts.append(many + PLURALS.get(each, "numbers"))
        else:
            parts.append(WORDS.get(kind, "what only Python can give"))
    return " or ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def alternatives(hint: Any) -> list[Any]:
    """The types that a hint allows, None first."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return sorted(typing.get_args(hint), key=lambda kind: kind is not type(None))
    return [hint]


def _fits(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is typing.Literal:
        return value in typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        each, *rest = typing.get_args(kind)
        return (rest == [...] or len(value) == len(rest) + 1) and all(fits(part, each) for part in value)
    if isinstance(value, bool) and kind in (int, float):  # Python counts them among whole numbers
        return False
    return kind not in KINDS or isinstance(value, KINDS[kind])
