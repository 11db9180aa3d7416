"""The process in which the program runs. It knows nothing of the tests but the calls they make."""

from __future__ import annotations

import builtins
import json
import socket
import sys
import types
from collections import deque
from typing import Any, NoReturn

from .wire import Broken, Peer, encode

CHANGEABLE = (list, dict, set, bytearray, deque)


class Candidate(Peer):
    """Runs the program, and then whatever of it the examiner calls."""

    caught = BaseException

    def __init__(self, line: socket.socket):
        super().__init__(line, lambda operation, *values: OPERATIONS[operation](self, *values))
        self.functions: dict[int, Any] = {}
        self.code: types.CodeType | None = None
        self.module = types.ModuleType("program")

    def keep(self, value: Any) -> Any:
        for number, function in self.functions.items():
            if function is value:
                return {"yours": number}
        return {"mine": self.number(value)}

    def find(self, name: str, parts: Any) -> Any:
        if name == "yours":
            return self.objects[parts]
        if name == "builtin":
            return getattr(builtins, parts)
        if name == "iterator":
            return iter(parts)
        if name == "mine":
            if parts not in self.functions:
                self.functions[parts] = lambda *args, **kwargs: self.ask("call", parts, args, kwargs)
            return self.functions[parts]
        raise Broken(name)

    def compile(self, program: str, name: str) -> None:
        self.module = sys.modules[name] = types.ModuleType(name)
        self.code = compile(program, f"<{name}>", "exec", dont_inherit=True)

    def run(self, wanted: list[str]) -> dict[str, Any]:
        """Which of the names the program has defined, and as what; of modules only that they are."""
        assert self.code is not None
        exec(self.code, self.module.__dict__)
        _flush()
        has = {name: self.module.__dict__[name] for name in wanted if name in self.module.__dict__}
        return {name: None if isinstance(value, types.ModuleType) else (value,) for name, value in has.items()}

    def call(self, function: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """The result, and which arguments a function without a result has changed in place."""
        places = [i for i, value in enumerate(args) if type(value) in CHANGEABLE]
        before = [json.dumps(encode(args[i], self.keep)) for i in places]
        result = function(*args, **kwargs)
        _flush()
        if result is not None:
            return result, []
        return None, [
            [i, args[i]] for i, was in zip(places, before, strict=True) if json.dumps(encode(args[i], self.keep)) != was
        ]


def _flush() -> None:
    try:
        sys.stdout.flush()
    except Exception:
        pass


def _next(value: Any) -> Any:
    """The next item in a tuple, or nothing at the end: StopIteration cannot cross frames of generators."""
    for item in value:
        return (item,)
    return ()


OPERATIONS: dict[str, Any] = {
    "compile": Candidate.compile,
    "run": Candidate.run,
    "call": Candidate.call,
    "get": lambda self, value, name: getattr(value, name),
    "set": lambda self, value, name, new: setattr(value, name, new),
    "item": lambda self, value, key: value[key],
    "put": lambda self, value, key, new: value.__setitem__(key, new),
    "equal": lambda self, value, other: bool(value == other),
    "length": lambda self, value: len(value),
    "true": lambda self, value: bool(value),
    "text": lambda self, value: str(value),
    "shown": lambda self, value: repr(value),
    "iterate": lambda self, value: iter(value),
    "next": lambda self, value: _next(value),
}


def serve(line: socket.socket) -> NoReturn:
    """Answer until the examiner is gone."""
    candidate = Candidate(line)
    while True:
        candidate.answer(candidate.receive())
