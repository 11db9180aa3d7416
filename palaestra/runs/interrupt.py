"""Ctrl-C that waits for the end of the step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Flag:
    """False until the user asks to stop."""

    def __init__(self) -> None:
        self.raised = False

    def __bool__(self) -> bool:
        return self.raised


@contextmanager
def interruptible() -> Iterator[Flag]:
    """Turn the first Ctrl-C (or SIGTERM) into a flag that the loop reads between steps; a Ctrl-C after it acts at once.

    A SIGTERM after it changes nothing: a program that ends others may send it several times, and so does the kernel to a
    worker whose parent dies thread by thread.
    """
    flag = Flag()
    previous: dict[int, Any] = {}

    def note(signum: int, frame: Any) -> None:
        if flag.raised and signum == signal.SIGINT:
            raise KeyboardInterrupt
        flag.raised = True

    try:
        for signum in (signal.SIGINT, signal.SIGTERM):
            previous[signum] = signal.signal(signum, note)
    except ValueError:  # not in the main thread: the caller handles signals
        pass
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
