"""The process that holds the tests. It never executes anything of the program's, and it alone forms the verdict."""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import linecache
import os
import signal
import socket
import sys
import time
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

from .wire import Broken, Peer, Unsendable, encode, text

FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, type)


class TimeUp(BaseException):
    """The program and its tests have had their time."""


class Examiner(Peer):
    """The tests' side of the line."""

    def __init__(self, line: socket.socket):
        super().__init__(line, self.call_back)
        self.broken = ""
        self.late = False
        self.used = False
        """Whether the tests have used an object of the program's."""

    def keep(self, value: Any) -> Any:
        if isinstance(value, Remote):
            return {"yours": object.__getattribute__(value, "_number")}
        if isinstance(value, FUNCTIONS) and getattr(builtins, name := value.__name__, None) is value:
            return {"builtin": name}
        if isinstance(value, (*FUNCTIONS, functools.partial)):
            return {"mine": self.number(value)}
        if isinstance(value, Iterator):
            return {"iterator": encode(list(value), self.keep)}
        raise Unsendable(f"value of the type {type(value).__name__}")

    def find(self, name: str, parts: Any) -> Any:
        if type(parts) is not int:
            raise Broken("a number that is none")
        if name == "mine":
            return Remote(self, parts)
        if name == "yours" and parts >= 0:
            return self.objects[parts]
        raise Broken(f"an unknown kind of value, {name!r}")

    def call_back(self, operation: str, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The program calls a function that the tests have handed over, and may do nothing else."""
        if operation != "call" or type(number) is not int or not 0 <= number < len(self.objects):
            raise Broken(f"a question after {operation!r}")
        return self.objects[number](*args, **kwargs)

    def ask(self, operation: str, *values: Any) -> Any:
        if self.broken:  # tests that catch everything must not go on as if nothing had been
            raise Broken(self.broken)
        try:
            return super().ask(operation, *values)
        except Broken as error:
            self.broken = text(error)
            raise


class Remote:
    """An object of the program's that is no plain data. What is done with it is done there; what comes back is data.

    It equals nothing of the tests' own, contains what it lists, and has no arithmetic and no order, whatever its class defines.
    """

    __slots__ = ("_examiner", "_number")

    def __init__(self, examiner: Examiner, number: int):
        object.__setattr__(self, "_examiner", examiner)
        object.__setattr__(self, "_number", number)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return object.__getattribute__(self, name)
        return _ask(self, "get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask(self, "set", name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result, changed = _pair(self, _ask(self, "call", list(args), kwargs))
        for place, value in changed:
            _change(args[place], value)
        return result

    def __getitem__(self, key: Any) -> Any:
        return _ask(self, "item", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _ask(self, "put", key, value)

    def __len__(self) -> int:
        return _ask(self, "length")

    def __bool__(self) -> bool:
        return _ask(self, "true") is True

    def __str__(self) -> str:
        return _ask(self, "text")

    def __repr__(self) -> str:
        return _ask(self, "shown")

    def __iter__(self) -> Iterator[Any]:
        return _ask(self, "iterate")

    def __next__(self) -> Any:
        item = _ask(self, "next")
        if type(item) is not tuple or len(item) > 1:
            raise Broken("an iterator without items")
        if not item:
            raise StopIteration
        return item[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and _ask(self, "equal", other) is True

    def __hash__(self) -> int:
        return hash(object.__getattribute__(self, "_number"))


def _ask(remote: Remote, operation: str, *values: Any) -> Any:
    examiner = object.__getattribute__(remote, "_examiner")
    examiner.used = True
    return examiner.ask(operation, remote, *values)


def _pair(remote: Remote, answer: Any) -> tuple[Any, list[Any]]:
    """An answer to a call, which may be anything, as result and changed arguments, of which there is only one or the other."""
    if type(answer) is tuple and len(answer) == 2 and type(answer[1]) is list and (answer[0] is None or not answer[1]):
        return answer
    raise Broken("an answer that is none")


def _change(mine: Any, value: Any) -> None:
    """Make an argument what the program has made of its copy."""
    if type(value) is not type(mine):
        raise Broken("an argument of another type")
    if isinstance(mine, (list, bytearray)):
        mine[:] = value
    elif isinstance(mine, (dict, set, deque)):
        mine.clear()
        (mine.extend if isinstance(mine, deque) else mine.update)(value)


def free_names(tests: str) -> list[str]:
    """Names that the tests read and Python does not define."""
    read = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    return sorted(read - set(dir(builtins)))


def examine(job: dict[str, Any], line: socket.socket, candidate: int, seconds: float) -> dict[str, Any]:
    """The verdict on a program: `{"status", "detail", "seconds"}`.

    `job` has the `program`, the `tests` (a list of statements or of whole scripts) and the `names` that these take from the
    program: if None, all that they use and neither they nor Python define.
    """
    examiner = Examiner(line)
    began = time.perf_counter()

    def stop(*_: Any) -> None:
        examiner.late = True
        raise TimeUp

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    status, detail = "error", ""
    try:
        status, detail = _examine(examiner, job, candidate)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except TimeUp:
        pass
    if examiner.late:  # whatever the tests have caught
        status, detail = "timeout", f"not done after {seconds:g} s"
    elif examiner.broken and status == "passed":
        status, detail = "failed", examiner.broken
    return {"status": status, "detail": detail[:1000], "seconds": time.perf_counter() - began}


def _examine(examiner: Examiner, job: dict[str, Any], candidate: int) -> tuple[str, str]:
    tests, names = job["tests"], job["names"]
    try:
        codes = [compile(test, f"<test {i}>", "exec", dont_inherit=True) for i, test in enumerate(tests)]
        wanted = free_names("\n".join(tests)) if names is None else names if tests else []
    except (SyntaxError, ValueError) as error:
        return "error", f"the tests are no Python: {text(error)}"
    for i, test in enumerate(tests):
        linecache.cache[f"<test {i}>"] = len(test), None, test.splitlines(keepends=True), f"<test {i}>"
    try:
        examiner.ask("compile", job["program"], "program" if tests else "__main__")
    except Exception as error:  # nothing of the program has run yet
        return _outcome(error, examiner, candidate) if examiner.broken else ("unparseable", _said(error))
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    sys.argv, scope = ["tests"], main.__dict__
    try:
        found = _imported(examiner.ask("run", wanted), wanted)
        examiner.used = any(not isinstance(value, Remote | types.ModuleType) for value in found.values())
        scope.update(found)
        for code in codes:
            exec(code, scope)
    except SystemExit as error:  # of the tests, such as unittest.main
        if error.code:
            return "failed", "the tests ended with an error"
    except Unsendable as error:
        return "error", f"the tests hand over a {error}, and only plain data and functions can be"
    except Exception as error:
        return _outcome(error, examiner, candidate)
    if codes and not (examiner.used or examiner.broken):  # such as a function of tests that nobody calls
        return "error", "the tests use nothing of the program"
    return "passed", ""


def _imported(found: Any, wanted: list[str]) -> dict[str, Any]:
    """What the tests get under the names: of modules Python's own, whatever the program has made of them."""
    if not isinstance(found, dict) or not set(found) <= set(wanted):
        raise Broken("an answer that is none")
    scope = {}
    for name, value in found.items():
        if type(value) is tuple and len(value) == 1:
            scope[name] = value[0]
        elif value is None and name in sys.stdlib_module_names:
            scope[name] = importlib.import_module(name)
    return scope


def _outcome(error: Exception, examiner: Examiner, candidate: int) -> tuple[str, str]:
    """Status and words for what ended the tests."""
    if examiner.broken:
        return _end(candidate) or ("failed", f"the program sent {examiner.broken}")
    if isinstance(error, MemoryError):
        return "memory", "no memory was left"
    return "failed", _said(error)


def _end(candidate: int) -> tuple[str, str] | None:
    """How the candidate ended, if it has."""
    for _ in range(20):
        pid, how, used = os.wait4(candidate, os.WNOHANG)
        if pid:
            if os.WIFSIGNALED(how) and os.WTERMSIG(how) in (signal.SIGXCPU, signal.SIGKILL):
                return "timeout", f"killed after {used.ru_utime + used.ru_stime:.1f} s of the processor's time"
            ended = f"died of {signal.Signals(os.WTERMSIG(how)).name}" if os.WIFSIGNALED(how) else "ended"
            return "failed", f"the program {ended} before its tests did"
        time.sleep(0.001)
    return None


def _said(error: BaseException) -> str:
    """An exception with the line of the tests that it came from."""
    trace, line = error.__traceback__, ""
    while trace is not None:
        if (name := trace.tb_frame.f_code.co_filename).startswith("<test "):
            line = linecache.getline(name, trace.tb_lineno).strip()
        trace = trace.tb_next
    words = ": ".join(part for part in (type(error).__name__, text(error)) if part)
    return f"{words}, at: {line[:300]}" if line else words
