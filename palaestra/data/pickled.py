"""Numbers from pickles, which are read and never run.

A pickle is a program that may call anything. Published data are sometimes pickled nevertheless: an array, or a list of numbers.
The few instructions that protocol 4 writes those with are followed here, as data; whatever it names is a mere name, and any
other instruction is refused.
"""

from __future__ import annotations

import pickletools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

ARRAY = re.compile(r"numpy\._?core\.multiarray\._reconstruct")
LITERALS = ("BININT", "BININT1", "BININT2", "BINFLOAT", "SHORT_BINUNICODE", "SHORT_BINBYTES", "BINBYTES")
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
MARK = object()


@dataclass
class Called:
    """What a pickle would have had made: by what name, of which arguments, and with which state set afterwards."""

    name: Any
    arguments: Any
    state: Any = None


def read_numbers(data: bytes) -> np.ndarray:
    """The array, or the list of numbers, that a pickle holds.

    Raises:
        ValueError: it holds anything else.
    """
    try:
        found = _followed(data)
        numbers = _array(found) if isinstance(found, Called) else np.asarray([_number(x) for x in found])
    except (IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"a pickle of neither an array nor numbers ({error})") from error
    if numbers.dtype.kind not in "iufb":
        raise ValueError("a pickle of neither an array nor numbers")
    return numbers


def _number(found: Any) -> float:
    """A number as it is; a list that holds itself, or another many times over, could not be unfolded."""
    if not isinstance(found, (int, float)):
        raise TypeError(f"{type(found).__name__} in a list of numbers")
    return found


def _followed(data: bytes) -> Any:
    stack: list[Any] = []
    memo: list[Any] = []
    value: Any
    for code, value, _ in pickletools.genops(data):
        name = code.name
        if name in LITERALS:
            stack.append(value)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name == "MARK":
            stack.append(MARK)
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "APPENDS":
            rows = _since_mark(stack)
            stack[-1].extend(rows)
        elif name == "TUPLE":
            stack.append(tuple(_since_mark(stack)))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "MEMOIZE":
            memo.append(stack[-1])
        elif name == "BINGET":
            stack.append(memo[value])
        elif name == "STACK_GLOBAL":
            stack[-2:] = [".".join(stack[-2:])]
        elif name == "REDUCE":
            stack[-2:] = [Called(*stack[-2:])]
        elif name == "BUILD":
            state = stack.pop()
            stack[-1].state = state
        elif name == "STOP":
            break
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"a pickle that does more than hold numbers ({name})")
    (found,) = stack
    return found


def _since_mark(stack: list[Any]) -> list[Any]:
    at = len(stack) - 1 - stack[::-1].index(MARK)
    rows = stack[at + 1 :]
    del stack[at:]
    return rows


def _array(made: Called) -> np.ndarray:
    """A NumPy array from its shape, type and bytes, as `ndarray.__reduce__` orders them."""
    if not ARRAY.fullmatch(made.name):
        raise ValueError(f"a pickle that would call {made.name}")
    _, shape, kind, fortran, held = made.state
    letters = kind.arguments[0]
    if kind.name != "numpy.dtype" or not re.fullmatch(r"[iuf][1248]|b1", letters):
        raise ValueError(f"a pickle of an array of {letters}")
    order = kind.state[1].replace("|", "=")
    return np.frombuffer(held, np.dtype(order + letters)).reshape(shape, order="F" if fortran else "C")
