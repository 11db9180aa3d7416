"""Type hints of settings: whether a value is what a hint says, and what it says in words."""

from __future__ import annotations

import dataclasses
import numbers
import types
import typing
from typing import Any

from palaestra.core.errors import require

KINDS = {int: numbers.Integral, float: numbers.Real, str: str, bool: bool, type(None): type(None)}
WORDS = {int: "a whole number", float: "a number", str: "a name", bool: "true or false", type(None): "none"}


def check_settings(settings: Any) -> None:
    """Raise `BadSetting` for a field of a dataclass whose value is not what its hint says.

    Defaults are believed, and so is whatever has a hint that is more than numbers, text, choices and tuples of these.
    """
    try:
        hints = typing.get_type_hints(type(settings))
    except NameError:  # a name that only type checkers know
        return
    for field in dataclasses.fields(settings):
        value, hint = getattr(settings, field.name), hints[field.name]
        if field.init and value is not field.default:
            require(fits(value, hint), f"{field.name} must be {described(hint)}, got {value!r}")


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
            parts.append(many + ("whole numbers" if each is int else "numbers"))
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
    return kind not in KINDS or isinstance(value, KINDS[kind])
