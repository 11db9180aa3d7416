"""One program after another, each in processes and namespaces of its own that are gone when it is judged.

    server      started once, imports what programs like to import, moves into a read-only root and waits; it never reads a job
      keeper    one per job: knows the limits only; watches memory and time, collects the output, kills
        examiner    first of a new namespace of processes; reads the job, holds the tests and the nonce, forms the verdict
          candidate     first of a further one, forked before the job is read; runs the program

A candidate cannot name any process but its own, and all of them were forked when nothing secret was in memory.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from typing import Any, NoReturn

from . import isolation
from .candidate import serve
from .examiner import examine
from .wire import GRACE, Broken, receive, send

POPULAR = (
    "cmath",
    "copy",
    "dataclasses",
    "hashlib",
    "heapq",
    "itertools",
    "math",
    "re",
    "statistics",
    "string",
    "typing",
)
"""What programs like to import."""
LINE = 3
"""The candidate's descriptor of its line to the examiner."""
OUTPUT = 1 << 16
"""Bytes kept of what a program writes."""
NOBODY = 65534


def main(number: int, life: int) -> NoReturn:
    """Serve on the socket of that number, as its first message says; the pipe `life` is open while the trainer lives."""
    # Their numbers are as high as the trainer has files open; a candidate closes those that a process starts with.
    line, life = socket.socket(fileno=_lowest(number)), _lowest(life)
    unsafe = receive(line)["unsafe"]
    for name in POPULAR:
        __import__(name)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    proc = os.open("/proc", os.O_RDONLY) if os.path.isdir("/proc/self") else -1
    why, outside = "", 0
    if not unsafe:
        why = isolation.supported()
        try:
            if not why:
                isolation.system_call_filter()  # made once, for all jobs
                nested = isolation.own_root(proc)
                outside = 0 if nested else 0x70000000 + os.getpid() % (1 << 20)
        except OSError as error:
            why = str(error)
    send(line, {"refused": why})
    sys.argv = [""]
    gc.collect()
    gc.freeze()
    while not why and line.recv(1, socket.MSG_PEEK):
        pid = os.fork()
        if pid == 0:
            _keeper(line, life, proc, outside, unsafe)
        os.waitpid(pid, 0)
    os._exit(0)


def _lowest(number: int) -> int:
    """A descriptor under the lowest number that is free."""
    low = os.dup(number)
    os.close(number)
    return low


def _keeper(line: socket.socket, life: int, proc: int, outside: int, unsafe: bool) -> NoReturn:
    try:
        if sys.platform == "linux":
            isolation.die_with_parent()
        answer = Keeper(line, life, proc, outside, unsafe).keep()
    except BaseException as error:
        answer = {"result": "", "end": f"the sandbox failed: {error!r}", "output": ""}
    with contextlib.suppress(OSError):
        send(line, answer)
    os._exit(0)


class Keeper:
    """Sees to one job that it does not know."""

    def __init__(self, line: socket.socket, life: int, proc: int, outside: int, unsafe: bool):
        self.line, self.life, self.proc, self.outside, self.unsafe = line, life, proc, outside, unsafe
        self.limits = receive(line)
        self.empty = self._pages("self")
        """Pages of an interpreter that runs nothing: address space, and resident."""

    def keep(self) -> dict[str, Any]:
        """Start the others, and watch until there is a verdict or none is to be expected."""
        result, output, ready, go = os.pipe(), os.pipe(), os.pipe(), os.pipe()
        folder = tempfile.mkdtemp() if self.unsafe else "/tmp"
        if not self.unsafe:
            isolation.unshare(isolation.PIDS)
        elif sys.platform == "linux":
            isolation.control(isolation.SUBREAPER, 1)
        pid = os.fork()
        if pid == 0:
            for fd in (result[0], output[0], ready[0], go[1]):
                os.close(fd)
            self._examiner(folder, result[1], output[1], ready[1], go[0])
        for fd in (result[1], output[1], ready[1], go[0]):
            os.close(fd)
        try:
            if os.read(ready[0], 1) and not self.unsafe:
                self._map(pid)
            with contextlib.suppress(BrokenPipeError):
                os.write(go[1], b".")
            end = self._watch(pid, said := {result[0]: b"", output[0]: b""}, result[0], output[0])
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)  # with the first of a namespace all others die
            if self.unsafe:
                self._kill_orphans()
                shutil.rmtree(folder, ignore_errors=True)
        os.set_blocking(output[0], False)
        with contextlib.suppress(BlockingIOError):
            said[output[0]] += os.read(output[0], OUTPUT)
        texts = {fd: text.decode(errors="replace") for fd, text in said.items()}
        return {"result": texts[result[0]], "end": end, "output": texts[output[0]][:OUTPUT]}

    def _map(self, pid: int) -> None:
        """Make the job's user one that is nobody's on this machine; a container's root may have few to choose from, or itself."""
        users = [self.outside, NOBODY, 0] if self.outside else [0]
        for user in users:
            try:
                return isolation.map_ids(pid, user, self.proc)
            except PermissionError:
                if user == users[-1]:
                    raise

    def _watch(self, pid: int, said: dict[int, bytes], result: int, output: int) -> str:
        """Why nothing more is to be expected, or nothing if there is a verdict."""
        poll = select.poll()
        for fd in (result, output):
            poll.register(fd, select.POLLIN)
        poll.register(self.life, 0)
        deadline = time.monotonic() + self.limits["seconds"] + GRACE
        while True:
            events = poll.poll(20)
            for fd, _ in events:
                if fd == self.life:
                    return "gone"
                part = os.read(fd, 1 << 16)
                said[fd] += part[: (OUTPUT if fd == output else 1 << 20) - len(said[fd])]
                if not part:
                    poll.unregister(fd)
                    if fd == result:
                        return ""
            if time.monotonic() > deadline:
                return "timeout"
            if all(fd == output for fd, _ in events) and (end := self._beyond(pid)):
                return end

    def _beyond(self, first: int) -> str:
        """Which limit all processes of the job exceed together."""
        resident, found, waiting = 0, 0, [str(first)]
        while waiting and self.proc >= 0:
            pid = waiting.pop()
            found += 1
            with contextlib.suppress(OSError):
                resident += max(0, self._pages(pid)[1] - self.empty[1])
                tasks = os.open(f"{pid}/task", os.O_RDONLY, dir_fd=self.proc)
                try:
                    names = os.listdir(tasks)
                finally:
                    os.close(tasks)
                for name in names:
                    waiting += self._read(f"{pid}/task/{name}/children").split()
        if resident * resource.getpagesize() > self.limits["memory"]:
            return "memory"
        return "processes" if found > self.limits["processes"] + 2 else ""

    def _pages(self, pid: str) -> list[int]:
        return [int(word) for word in self._read(f"{pid}/statm").split()[:2]] if self.proc >= 0 else [1 << 14, 0]

    def _read(self, name: str) -> str:
        fd = os.open(name, os.O_RDONLY, dir_fd=self.proc)
        try:
            return os.read(fd, 1 << 16).decode()
        finally:
            os.close(fd)

    def _kill_orphans(self) -> None:
        """Without a namespace of processes: kill what has become this one's child."""
        while self.proc >= 0 and (children := self._read(f"self/task/{os.getpid()}/children").split()):
            for child in children:
                with contextlib.suppress(OSError):
                    os.kill(int(child), signal.SIGKILL)
                    os.waitpid(int(child), 0)

    def _examiner(self, folder: str, result: int, output: int, ready: int, go: int) -> NoReturn:
        try:
            verdict = self._examined(folder, output, ready, go)
        except BaseException as error:
            verdict = {"failure": f"{type(error).__name__}: {error}"}
        with contextlib.suppress(OSError), os.fdopen(result, "wb") as file:
            file.write(json.dumps(verdict).encode())
        os._exit(0)

    def _examined(self, folder: str, output: int, ready: int, go: int) -> dict[str, Any]:
        if self.proc >= 0:
            isolation.write(
                "self/oom_score_adj", "1000", self.proc
            )  # if memory runs out it is not the trainer that is killed
        if not self.unsafe:
            isolation.unshare(isolation.EACH)
        os.write(ready, b".")
        if not os.read(go, 1):
            raise Broken("the keeper is gone")
        if not self.unsafe:
            isolation.become(1000)
            isolation.own_folder("/tmp", self.limits["disk"])
        os.chdir(folder)
        isolation.limit(
            self.limits["seconds"],
            self.limits["memory"] + self.empty[0] * resource.getpagesize(),
            self.limits["processes"] + 2,
            self.limits["disk"],
            unsafe=self.unsafe,
        )
        mine, theirs = socket.socketpair()
        if not self.unsafe:
            isolation.unshare(isolation.PIDS)
        pid = os.fork()
        if pid == 0:
            os.dup2(theirs.fileno(), LINE)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.closerange(LINE + 1, 4096)
            os.setsid()
            self._confine()
            serve(socket.socket(fileno=LINE))
        theirs.close()
        os.close(output)
        os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
        self._confine()
        job = receive(self.line)
        try:
            return examine(job, mine, pid, self.limits["seconds"]) | {"nonce": job["nonce"]}
        finally:
            if self.unsafe:
                with contextlib.suppress(OSError):
                    os.killpg(pid, signal.SIGKILL)

    def _confine(self) -> None:
        """The last steps, after which nothing can be undone."""
        if not self.unsafe:
            isolation.drop_privileges()
        if sys.platform == "linux":
            isolation.die_with_parent()
        if not self.unsafe:
            isolation.forbid_system_calls()
        random.seed(0)  # so that what has chance in it is judged alike every time
