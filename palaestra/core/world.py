"""Several processes that train one model together: which part of the work each does, and how the parts are put together.

A process is by itself unless torchrun, or what sets the same environment, started it beside others. What is asked of `world()`
is written once for both: by itself, a process does the whole work and has nothing to wait for. Between others, all of them must
ask for the same things in the same order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from palaestra.core.errors import PalaestraError

T = TypeVar("T")
PATIENCE = timedelta(days=1)
"""How long a process waits for another, which may have programs to run, or a start to make."""

LAST_SECONDS = 0.2
"""How long a process that leaves a group lets the group's threads come to their end."""


class World:
    """A process by itself."""

    rank, size = 0, 1

    def part(self, count: int) -> slice:
        """Which of `count` things this process does; the parts follow each other in the order of ranks."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def turns(self, things: Sequence[T]) -> list[tuple[T, bool]]:
        """The things that this process does one after the other, and whether each is wanted.

        All processes have as many turns; one that has nothing left to do does something again, for the others' sake.
        """
        if not things:
            return []
        own = [(thing, True) for thing in things[self.rank :: self.size]]
        return own + [(things[0], False)] * (-(-len(things) // self.size) - len(own))

    def gather(self, items: list[T]) -> list[T]:
        """The items of all processes, in the order of ranks."""
        return items

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Add up tensors over all processes, in place."""

    def alone(self, act: Callable[[], T]) -> T:
        """What the first process finds by itself; all are given it, or fail as it did."""
        return act()

    def total(self, number: int) -> int:
        """The sum of a number over all processes."""
        return sum(self.gather([number]))


class Group(World):
    """One of several processes, joined by torch.distributed."""

    def __init__(self) -> None:
        self.rank, self.size = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def gather(self, items: list[T]) -> list[T]:
        found: list[list[T]] = [[] for _ in range(self.size)]
        torch.distributed.all_gather_object(found, items)
        return [item for own in found for item in own]

    def sum(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            torch.distributed.all_reduce(tensor)

    def alone(self, act: Callable[[], T]) -> T:
        found: list[Any] = [None, None]
        failed: Exception | None = None
        if self.rank == 0:
            try:
                with apart():
                    found[0] = act()
            except Exception as error:
                failed = error
                found[1] = error if isinstance(error, PalaestraError) else PalaestraError(repr(error))
        torch.distributed.broadcast_object_list(found, src=0)
        failed = failed or found[1]
        if failed is not None:
            raise failed
        return found[0]  # type: ignore[no-any-return]


_world: World | None = None


def world() -> World:
    """The processes that train together here."""
    return _world or World()


def started() -> int:
    """How many processes were started to train together, of which this is one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


@contextmanager
def joined() -> Iterator[World]:
    """Train together with the processes that this one was started beside; within such a run, what it starts is part of it."""
    if _world is not None or started() == 1:
        yield world()
        return
    began = not torch.distributed.is_initialized()
    if began:
        # What is not on a GPU, such as answers, goes by gloo.
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE
        )
    try:
        with _being(Group()) as group:
            yield group
        # A thread of gloo's lets go of what it gathered last when Python lets it. Where Python has ended by then, that aborts the
        # process (pytorch/pytorch#179291), and torch never lets go of a group that weights were in shards by, or of its threads.
        time.sleep(LAST_SECONDS)
    finally:
        if began:
            torch.distributed.destroy_process_group()


@contextmanager
def apart() -> Iterator[None]:
    """By itself for a while: what this process does meanwhile is its own, and others have no part in it."""
    with _being(World()):
        yield


@contextmanager
def _being(new: World) -> Iterator[World]:
    global _world
    before, _world = _world, new
    try:
        yield new
    finally:
        _world = before
