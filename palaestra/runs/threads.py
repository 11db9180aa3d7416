"""How many threads to use, and what to tell the runtime about waiting and memory."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from palaestra.core.method import Method

LOOK_SECONDS = 1.0
"""How often a run looks at what else the machine does."""
WIDE = 256 * 256
"""Batch times width from which a second thread pays (measured; see docs/speed.md)."""


def available() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose(method: Method) -> int:
    """Threads for a method: several for wide networks and large batches, one where the work is small."""
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes that train together on this machine
    return min(max(1, available() // beside), 4) if method.work() >= WIDE else 1


class Governor:
    """Keeps a run to the cores that are free: one busy neighbour makes two threads that wait for each other many times
    slower than one. On every processor tried, results do not depend on the number of threads (there is a test)."""

    def __init__(self, wanted: int):
        self.wanted = wanted
        self.looked, self.used, self.own = time.monotonic(), _processor_seconds(), _own_seconds()

    def adapt(self) -> None:
        """Look once in a while at what other processes use, and leave it to them."""
        now = time.monotonic()
        if self.wanted == 1 or now - self.looked < LOOK_SECONDS:
            return
        used, own = _processor_seconds(), _own_seconds()
        if used is not None and self.used is not None:
            others = ((used - self.used) - (own - self.own)) / (now - self.looked)
            torch.set_num_threads(min(self.wanted, max(1, round(available() - others))))
        self.looked, self.used, self.own = now, used, own


def _processor_seconds() -> float | None:
    """Seconds that all processors together have been busy, where the system tells."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, *interrupts = map(int, file.readline().split()[1:8])
    except (OSError, ValueError):
        return None
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system


@contextmanager
def using(count: int) -> Iterator[None]:
    """Run with `count` threads, denormals flushed and freed memory kept; the caller's thread count is restored."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    # Decayed Adam moments become denormal numbers, on which a CPU is many times slower.
    torch.set_flush_denormal(True)
    _keep_memory()
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)


def _keep_memory() -> None:
    """Ask glibc not to return freed buffers to the system between updates, which costs a page fault per page."""
    try:
        libc = ctypes.CDLL(None)
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(trim_threshold, 1 << 30)
        libc.mallopt(mmap_threshold, 1 << 25)  # the most that it takes
    except (OSError, AttributeError):  # another C library: only speed is lost
        pass
