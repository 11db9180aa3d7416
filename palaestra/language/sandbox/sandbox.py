"""The trainer's side of the sandbox: programs and tests go in, verdicts come out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from palaestra.core.errors import PalaestraError, Untrusted, require
from palaestra.language.sandbox.inside.wire import GRACE, Broken, receive, send

Status = Literal["passed", "failed", "unparseable", "timeout", "memory", "error"]
STATUSES: tuple[Status, ...] = ("passed", "failed", "unparseable", "timeout", "memory", "error")
START = """
import sys
sys.path.insert(0, sys.argv[1])
import inside.server
del sys.path[0]
inside.server.main(*map(int, sys.argv[2:]))
"""
FLAGS = ("-s", "-S", "-P", "-B", "-Xutf8")
"""With an environment that is made for it this is `-I -S`, which would not take the seed of hashes from anywhere."""
ENVIRONMENT = {"PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "2"}
REMEMBERED = 64 << 20
"""Characters of output in all the verdicts that are remembered."""
PATIENCE = 30.0
"""Seconds beyond a job's own in which a machine under load must have started and ended it."""


@dataclass(frozen=True)
class Verdict:
    """What became of a program."""

    status: Status
    """"unparseable" is no Python at all; in an "error" the tests are no Python or use nothing of the program, or the sandbox
    failed."""
    detail: str = ""
    """Why it did not pass, with the line of the tests."""
    seconds: float = 0.0
    """From the program's start to the verdict."""
    output: str = ""
    """The first 64 KiB of what the program wrote."""

    @property
    def passed(self) -> bool:
        return self.status == "passed"


@dataclass(frozen=True)
class Job:
    """A program with what it is to be judged by."""

    program: str
    tests: str | Sequence[str] = ()
    """Python, as one text or as several; none to see only whether the program runs to its end."""
    entry_point: str | Sequence[str] | None = None
    """Name, or names, of what the tests take from the program, besides which they see nothing of it; None for all names that
    neither they nor Python define."""

    @property
    def parts(self) -> dict[str, Any]:
        """What is judged, as JSON."""
        names = self.entry_point
        return {
            "program": self.program,
            "tests": [self.tests] if isinstance(self.tests, str) else list(self.tests),
            "names": [names] if isinstance(names, str) else None if names is None else list(names),
        }

    @property
    def key(self) -> bytes:
        """Equal for jobs that are the same."""
        return hashlib.blake2b(json.dumps(self.parts).encode()).digest()


class Sandbox:
    """Runs programs that nobody has read, each apart from this machine, from its tests and from every other.

    Tests run in a process of their own, in which a call to the program's function is a message, and so is the result; see
    docs/sandbox.md for what that holds off. Usable from several threads at once; a context manager.

    Raises:
        Untrusted: the machine has no namespaces, and `unsafe` was not given.
    """

    def __init__(
        self,
        seconds: float = 5.0,
        memory_mb: int = 512,
        processes: int = 16,
        disk_mb: int = 16,
        remember: int = 100_000,
        unsafe: bool = False,
    ):
        """Limits of one job.

        Args:
            seconds: From start to verdict; also of the processor's time, for each process.
            memory_mb: All processes together.
            processes: And threads, beside the program itself.
            disk_mb: Written to `/tmp`, which is memory; also the largest file.
            remember: How many verdicts are kept, so that a program is not judged twice; fewer where programs write much.
            unsafe: Do without namespaces where there are none: the program then sees and can do what this user can.
        """
        require(0 < seconds <= 3600, f"seconds must be between 0 and 3600, got {seconds}")
        require(memory_mb >= 16, f"memory_mb must be at least 16, got {memory_mb}")
        require(processes >= 0, f"processes must not be negative, got {processes}")
        require(disk_mb >= 1, f"disk_mb must be at least 1, got {disk_mb}")
        require(remember >= 0, f"remember must not be negative, got {remember}")
        self.seconds, self.unsafe, self.remember = seconds, unsafe, remember
        self.limits = {"seconds": seconds, "memory": memory_mb << 20, "processes": processes, "disk": disk_mb << 20}
        self._known: dict[bytes, Verdict] = {}
        self._written = 0  # characters of output in these
        self._idle: list[_Server] = []
        self._lock = threading.Lock()
        self._checked = False
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(self, _close_all, self._idle)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the servers; the next job would start others."""
        with self._lock:
            _close_all(self._idle)

    def run(
        self, program: str, tests: str | Sequence[str] = (), entry_point: str | Sequence[str] | None = None
    ) -> Verdict:
        """The verdict on one program; `Job` says what the arguments are."""
        return self._judge(Job(program, tests, entry_point))

    def run_many(self, jobs: Iterable[Job | tuple[Any, ...]], workers: int | None = None) -> list[Verdict]:
        """Verdicts in the order of the jobs, of which as many run at once as there are workers: by default one a core."""
        asked = [job if isinstance(job, Job) else Job(*job) for job in jobs]
        different = {job.key: job for job in asked}
        with ThreadPoolExecutor(workers or cores()) as pool:
            found = dict(zip(different, pool.map(self._judge, different.values()), strict=True))
        return [found[job.key] for job in asked]

    def _judge(self, job: Job) -> Verdict:
        key = job.key
        with self._lock:
            if self._owner != os.getpid():  # a fork must not talk on the lines of the process that it comes from
                self._idle, self._owner = [], os.getpid()
                self._finalizer = weakref.finalize(self, _close_all, self._idle)
            if key in self._known:
                return self._known[key]
            server = self._idle.pop() if self._idle else None
        if server is None:
            server = self._started()
        try:
            verdict = server.judge(job, self.limits)
        except BaseException:
            server.close()
            raise
        with self._lock:
            if server.alive and self._finalizer.alive:
                self._idle.append(server)
            if verdict.status != "error" and key not in self._known:
                self._known[key] = verdict
                self._written += len(verdict.output)
            while len(self._known) > self.remember or self._written > REMEMBERED:
                self._written -= len(self._known.pop(next(iter(self._known))).output)
        return verdict

    def _started(self) -> _Server:
        if os.name != "posix":
            raise Untrusted(f"the sandbox needs Linux, or with unsafe=True another Unix, and this is {sys.platform}")
        server = _Server(self.unsafe)
        why = server.refused
        if not why and not self._checked:  # the namespaces of a job are another thing than the server's
            verdict = server.judge(Job("pass"), self.limits)
            why = "" if verdict.passed else verdict.detail or verdict.status
        if why:
            server.close()
            raise Untrusted(
                f"programs that a model has written run only where they can be isolated, and here they cannot: {why}"
                " (unsafe=True runs them without, with all that you can do yourself)"
            )
        self._checked = True
        return server


class _Server:
    """A process that runs one program after another."""

    def __init__(self, unsafe: bool):
        self.alive, self.owner = True, os.getpid()
        self.line, theirs = socket.socketpair()
        life, self.life = os.pipe()
        python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        command = [python, *FLAGS, "-c", START, str(Path(__file__).parent), str(theirs.fileno()), str(life)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT | {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
            cwd="/",
            pass_fds=(theirs.fileno(), life),
            start_new_session=True,
        )
        theirs.close()
        os.close(life)
        self.line.settimeout(PATIENCE)
        try:
            send(self.line, {"unsafe": unsafe})
            self.refused = receive(self.line)["refused"]
        except (OSError, Broken, ValueError, KeyError) as error:
            self.process.kill()
            said = self.process.communicate()[1].decode(errors="replace").strip()
            self.close()
            raise PalaestraError(f"the sandbox does not start: {said.splitlines()[-1] if said else error}") from error

    def judge(self, job: Job, limits: dict[str, Any]) -> Verdict:
        """The verdict on one job."""
        nonce = secrets.token_hex(16)
        self.line.settimeout(limits["seconds"] + GRACE + PATIENCE)
        began = time.perf_counter()
        try:
            send(self.line, limits)
            send(self.line, job.parts | {"nonce": nonce})
            answer = receive(self.line)
        except (OSError, Broken, ValueError) as error:
            self.close()
            return Verdict("error", f"the sandbox broke: {error}")
        verdict, given = _verdict(answer | {"seconds": time.perf_counter() - began}, nonce, limits)
        if not given and verdict.status in ("error", "timeout"):  # the job may have been left unread on the line
            self.close()
        return verdict

    def close(self) -> None:
        """End it, and with it whatever it runs."""
        if self.alive:
            self.alive = False
            self.line.close()
            os.close(self.life)
            if self.process.stderr:
                self.process.stderr.close()
            if self.owner == os.getpid():
                self.process.kill()
                self.process.wait()


def _verdict(answer: dict[str, Any], nonce: str, limits: dict[str, Any]) -> tuple[Verdict, bool]:
    """What the keeper's answer says, and whether it is the examiner's own verdict, with the nonce, which alone can be a pass."""
    output = answer["output"]
    found = dict.fromkeys(("status", "detail", "seconds", "nonce", "failure"), "")
    with contextlib.suppress(ValueError, TypeError):
        found |= json.loads(answer["result"])
    if answer["end"] == "" and secrets.compare_digest(str(found["nonce"]), nonce) and found["status"] in STATUSES:
        return Verdict(found["status"], found["detail"], float(found["seconds"]), output), True
    if answer["end"] in ("timeout", "memory"):
        words = {"timeout": f"killed after {limits['seconds']:g} s", "memory": f"over {limits['memory'] >> 20} MiB"}
        return Verdict(answer["end"], words[answer["end"]], answer["seconds"], output), False
    if answer["end"] == "processes":
        return Verdict("failed", f"more than {limits['processes']} processes", answer["seconds"], output), False
    return Verdict("error", found["failure"] or answer["end"] or "the examiner died", 0.0, output), False


def _close_all(servers: list[_Server]) -> None:
    while servers:
        servers.pop().close()


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
