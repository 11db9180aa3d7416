"""How many threads to use, and what to tell the runtime about waiting and memory."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from palaestra.core.method import Method

WIDE = 256 * 256
"""Batch times width from which a second thread pays (measured; see docs/speed.md)."""


def available() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose(method: Method) -> int:
    """Threads for a method: several for wide networks and large batches, one where the work is small."""
    config = method.config
    batch = config.get("batch_size") or config.get("minibatch") or 1
    network = config.get("network")
    width = max(network) if isinstance(network, (list, tuple)) and network else 256
    return min(available(), 4) if batch * width >= WIDE else 1


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
        libc.mallopt(trim_threshold, 1 << 28)
        libc.mallopt(mmap_threshold, 1 << 24)
    except (OSError, AttributeError):  # another C library: only speed is lost
        pass
