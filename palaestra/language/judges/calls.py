"""Calls of a user's functions that may raise or hang: a failure is a value, and each call has a time limit.

Python cannot kill a thread, and another process would need functions that can be sent there, which closures, models and open
connections cannot. So functions are called in a daemon thread. One that is late is left behind: an exception is raised in its
thread, which ends whatever runs Python's bytecode, an endless loop too, so that it takes no further time. A call that waits
inside C code or the operating system gets the exception when that returns; until then its thread stays, but does not keep the
program from exiting.
"""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import queue
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

MOST_LEFT = 8
"""Calls left behind and still running, beyond which no further one is started."""
ENDING = 1.0
"""Seconds that an asynchronous function has to end once it is cancelled."""


@dataclass(frozen=True)
class Failed:
    """The outcome of a call that raised or was late."""

    error: BaseException

    @property
    def late(self) -> bool:
        """Whether it was not done in time, or not started because too many others are not."""
        return isinstance(self.error, Late)

    @property
    def words(self) -> str:
        """What the error says; nothing of one that raises when it is asked."""
        said = call_here(lambda: str(self.error))
        return said if isinstance(said, str) else ""


class Late(Exception):
    """A call was left behind."""


class _LeftBehind(BaseException):
    """Raised in a thread whose call was late."""


class Caller:
    """Calls functions in a daemon thread, which is replaced when a call is left behind.

    A copy of a caller, and a fork of the process, starts a thread of its own.
    """

    def __init__(self) -> None:
        self._thread: _Thread | None = None
        self._left: list[_Thread] = []

    def call(self, function: Callable[[], Any], timeout: float | None) -> Any:
        """What the function returns, awaited if need be, or how it `Failed`."""

        async def awaited(value: Any) -> Any:
            return await value

        def job(loop: Callable[[], asyncio.AbstractEventLoop]) -> Any:
            value = function()
            return loop().run_until_complete(awaited(value)) if inspect.isawaitable(value) else value

        return self._do(job, timeout, timeout)

    def ask(self, function: Callable[[], Any], timeout: float | None) -> Any:
        """As `call`, but in the current thread if there is no time limit and nothing to await, for functions that need the main
        thread."""
        if timeout is not None or is_async(function):
            return self.call(function, timeout)
        given = call_here(function)
        return self.call(lambda: given, None) if inspect.isawaitable(given) else given

    def gather(self, functions: Sequence[Callable[[], Awaitable[Any]]], timeout: float | None) -> list[Any]:
        """As `call`, for asynchronous functions, which run concurrently for at most `timeout` seconds each."""
        late = Failed(Late(f"took longer than {timeout} seconds"))
        outcomes: list[Any] = [late] * len(functions)

        async def one(index: int, function: Callable[[], Awaitable[Any]]) -> None:
            limit = asyncio.timeout(timeout)
            try:
                async with limit:
                    outcomes[index] = await function()
            except _LeftBehind:
                raise
            except BaseException as error:
                outcomes[index] = late if limit.expired() else Failed(error)

        async def together() -> None:
            await asyncio.gather(*(one(index, function) for index, function in enumerate(functions)))

        patience = (
            None if timeout is None else timeout + ENDING  # a function may hold the loop without awaiting anything
        )
        ended = self._do(lambda loop: loop().run_until_complete(together()), patience, timeout)
        return [ended if outcome is late and isinstance(ended, Failed) else outcome for outcome in outcomes]

    def __reduce__(self) -> tuple[type[Caller], tuple[()]]:
        return Caller, ()

    def __del__(self) -> None:
        self.close()  # a thread that waits for jobs would never end

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.jobs.put(None)
            self._thread = None

    def _do(self, job: _Job, patience: float | None, timeout: float | None) -> Any:
        self._left = [thread for thread in self._left if thread.is_alive()]
        if len(self._left) >= MOST_LEFT:
            return Failed(Late(f"was not called, since {len(self._left)} earlier calls are still running"))
        if self._thread is None or not self._thread.is_alive():  # threads do not survive a fork
            self._thread = _Thread()
            self._thread.start()
        future: Future[Any] = Future()
        self._thread.jobs.put((future, job))
        try:
            return future.result(patience)
        except TimeoutError:
            if future.done():  # just now
                return future.result()
        self._thread.leave()
        self._left.append(self._thread)
        self._thread = None
        return Failed(Late(f"took longer than {timeout} seconds"))


_Job = Callable[[Callable[[], asyncio.AbstractEventLoop]], Any]


class _Thread(threading.Thread):
    """Does jobs in turn, with an event loop of its own, made when it is first needed."""

    def __init__(self) -> None:
        super().__init__(name="palaestra-judge", daemon=True)
        self.jobs: queue.SimpleQueue[tuple[Future[Any], _Job] | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> None:
        with suppress(_LeftBehind):
            self._work()

    def _work(self) -> None:
        while (item := self.jobs.get()) is not None:
            future, job = item
            try:
                with torch.no_grad():  # a setting of each thread
                    future.set_result(job(self._event_loop))
            except _LeftBehind:
                break
            except BaseException as error:
                future.set_result(Failed(error))
            del item, future, job
        if self._loop is not None:
            self._loop.close()

    def leave(self) -> None:
        """Make the thread end as soon as it runs Python's bytecode again."""
        self.jobs.put(None)
        if self.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident), ctypes.py_object(_LeftBehind))

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop


def call_here(function: Callable[[], Any]) -> Any:
    """What the function returns in this thread, or how it `Failed`; Ctrl-C is the user's."""
    try:
        with torch.no_grad():
            return function()
    except KeyboardInterrupt:
        raise
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        return Failed(error)


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives something to await: `async def`, a partial of one, or an object whose call is one."""
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
