"""Calls between the examiner, which holds the tests, and the candidate, which holds the program: framed JSON, values only.

Each side may ask the other while it waits for an answer, since tests hand over functions. What arrives from a candidate
is data and no more: nothing of it is unpickled, imported or executed. What is not plain data stays where it is and goes by
number.
"""

from __future__ import annotations

import builtins
import json
import socket
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, ItemsView, KeysView, Mapping, ValuesView
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

GRACE = 1.0
"""Seconds that an examiner may be late with its verdict."""
LONGEST = 16 << 20
"""Bytes in a message."""
PLAIN: dict[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    tuple: ("tuple", list, tuple),
    set: ("set", list, set),
    frozenset: ("frozenset", list, frozenset),
    deque: ("deque", lambda x: [list(x), x.maxlen], lambda x: deque(*x)),
    Counter: ("counter", lambda x: [*map(list, x.items())], lambda x: Counter({key: value for key, value in x})),
    OrderedDict: (
        "ordered",
        lambda x: [*map(list, x.items())],
        lambda x: OrderedDict((key, value) for key, value in x),
    ),
    dict: ("dict", lambda x: [*map(list, x.items())], lambda x: {key: value for key, value in x}),
    bytes: ("bytes", lambda x: x.decode("latin-1"), lambda x: x.encode("latin-1")),
    bytearray: ("bytearray", lambda x: x.decode("latin-1"), lambda x: bytearray(x.encode("latin-1"))),
    complex: ("complex", lambda x: [x.real, x.imag], lambda x: complex(*x)),
    range: ("range", lambda x: [x.start, x.stop, x.step], lambda x: range(*x)),
    slice: ("slice", lambda x: [x.start, x.stop, x.step], lambda x: slice(*x)),
    Decimal: ("decimal", str, Decimal),
    Fraction: ("fraction", lambda x: [x.numerator, x.denominator], lambda x: Fraction(*x)),
    datetime: ("datetime", lambda x: x.isoformat(), datetime.fromisoformat),
    date: ("date", lambda x: x.isoformat(), date.fromisoformat),
    time: ("time", lambda x: x.isoformat(), time.fromisoformat),
    timedelta: ("timedelta", lambda x: [x.days, x.seconds, x.microseconds], lambda x: timedelta(*x)),
}
"""Types whose values are copied: the name on the wire, the parts, and the way back."""
EXACT: dict[type, Callable[[Any], Any]] = {int: int.__int__, float: float.__float__, str: str.__str__}
TYPES = {kind.__name__: kind for kind in (bool, int, float, str, list, *PLAIN)}
BACK = {name: back for name, _, back in PLAIN.values()} | {"type": TYPES.__getitem__}


class Broken(Exception):
    """The other side is gone, or what it sent is no message."""


class Unsendable(Exception):
    """The tests hand over something that is neither plain data nor a function."""


class ProgramError(Exception):
    """An exception of the program that is none of Python's own."""


def encode(value: Any, keep: Callable[[Any], Any]) -> Any:
    """What `json.dumps` takes for a value; `keep` names what is not plain data."""
    kind = type(value)
    if value is None or kind in (bool, float, str):
        return value
    if kind is int:
        return value if -(1 << 63) < value < 1 << 63 else {"int": hex(value)}
    if kind is list:
        return [encode(item, keep) for item in value]
    if kind is type and TYPES.get(name := getattr(value, "__name__", "")) is value:
        return {"type": name}
    if kind in PLAIN:
        name, parts, _ = PLAIN[kind]
        return {name: encode(parts(value), keep)}
    if isinstance(value, (KeysView, ValuesView, ItemsView)) and kind.__module__ == "builtins":
        return [encode(item, keep) for item in value]
    for base, (name, parts, _) in PLAIN.items():  # what a subclass overrides, such as `__eq__`, is left behind
        if issubclass(kind, base):
            return {name: encode(parts(value), keep)}
    for base in (int, float, str):
        if issubclass(kind, base):
            return encode(EXACT[base](value), keep)
    if issubclass(kind, list):
        return encode(list(value), keep)
    return keep(value)


def decode(code: Any, find: Callable[[str, Any], Any]) -> Any:
    """The value of a code; `find` knows what goes by number."""
    if isinstance(code, list):
        return [decode(item, find) for item in code]
    if not isinstance(code, dict):
        return code
    ((name, parts),) = code.items()
    if name == "int":
        return int(parts, 16)
    if name in BACK:
        return BACK[name](decode(parts, find))
    return find(name, decode(parts, find) if name == "iterator" else parts)


class Peer:
    """One end of the line. `objects` are those that the other side knows by number; `serve(operation, *values)` answers it."""

    caught: type[BaseException] = Exception
    """What of an answer's exceptions is told to the other side."""

    def __init__(self, line: socket.socket, serve: Callable[..., Any]):
        self.line, self.serve = line, serve
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}  # by identity; objects that are listed are not collected, so it stays theirs

    def number(self, value: Any) -> int:
        """The number by which the other side knows an object of this one."""
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)
        return self.numbers[id(value)]

    def keep(self, value: Any) -> Any:
        """A code for what is not plain data."""
        raise NotImplementedError

    def find(self, name: str, parts: Any) -> Any:
        """What a code of the other side's `keep` stands for."""
        raise NotImplementedError

    def ask(self, operation: str, *values: Any) -> Any:
        """The other side's answer; its exception is raised here."""
        self.send(["ask", operation, [encode(value, self.keep) for value in values]])
        while (message := self.receive())[0] == "ask":
            self.answer(message)
        if message[0] == "raise":
            raise self.error(*message[1:])
        return self.decoded(message[1])

    def answer(self, message: list[Any]) -> None:
        """Do what the other side asks for."""
        try:
            _, operation, values = message
            value = self.serve(operation, *[self.decoded(code) for code in values])
            reply = ["return", encode(value, self.keep)]
        except Broken:
            raise
        except self.caught as error:
            reply = ["raise", type(error).__name__, text(error)]
        self.send(reply)

    def error(self, name: str, words: str) -> Exception:
        """The exception that the other side raised, if it is one of Python's own, else one that says its name."""
        kind = getattr(builtins, name, None) if isinstance(name, str) else None
        # StopIteration out of a function would end whatever loop called it as if there was nothing left.
        if isinstance(kind, type) and issubclass(kind, Exception) and kind not in (StopIteration, StopAsyncIteration):
            try:
                return kind(words)
            except TypeError:
                pass
        return ProgramError(f"{name}: {words}"[:1000])

    def decoded(self, code: Any) -> Any:
        try:
            return decode(code, self.find)
        except (Broken, MemoryError):
            raise
        except Exception as error:
            raise Broken(f"a value that cannot be: {text(error)}") from error

    def send(self, message: Any) -> None:
        data = json.dumps(message).encode()
        if len(data) > LONGEST:
            raise ValueError(f"{len(data)} bytes are too much for one message")
        try:
            self.line.sendall(len(data).to_bytes(4, "little") + data)
        except OSError as error:
            raise Broken("the line is closed") from error

    def receive(self) -> list[Any]:
        size = int.from_bytes(read(self.line, 4), "little")
        if size > LONGEST:
            raise Broken(f"a message of {size} bytes")
        try:
            message = json.loads(read(self.line, size))
        except (ValueError, RecursionError) as error:
            raise Broken("what is no message") from error
        lengths = {"ask": 3, "return": 2, "raise": 3}
        if not isinstance(message, list) or not message or lengths.get(str(message[0])) != len(message):
            raise Broken("what is no message")
        return message


def read(line: socket.socket, size: int) -> bytes:
    """Exactly that many bytes, and none more."""
    parts: list[bytes] = []
    while size:
        try:
            part = line.recv(min(size, 1 << 20))
        except OSError as error:
            raise Broken("the line is closed") from error
        if not part:
            raise Broken("the line is closed")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def send(line: socket.socket, message: Mapping[str, Any]) -> None:
    """A message between those that trust each other."""
    data = json.dumps(message).encode()
    line.sendall(len(data).to_bytes(4, "little") + data)


def receive(line: socket.socket) -> dict[str, Any]:
    """What `send` has sent."""
    return json.loads(read(line, int.from_bytes(read(line, 4), "little")))


def text(error: BaseException) -> str:
    """What an exception says, whatever its class makes of being asked."""
    try:
        return str(error)[:1000]
    except Exception:
        return "…"
