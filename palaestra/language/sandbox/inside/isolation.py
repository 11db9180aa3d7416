"""Linux's namespaces, limits and filters, by system calls: what a process can still see and do.

`server.py` says in which order they are used. Each function raises `OSError` where the kernel refuses, and nothing goes on then.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import platform
import re
import resource
import signal
import socket
import stat
import struct
import sys
import sysconfig

USERS, MOUNTS, NETWORK, IPC, HOST_NAME, PIDS = 0x10000000, 0x20000, 0x40000000, 0x8000000, 0x4000000, 0x20000000
EACH = USERS | MOUNTS | NETWORK | IPC | HOST_NAME
"""What each job has of its own, besides processes."""
EVERY_NEW = USERS | MOUNTS | NETWORK | IPC | HOST_NAME | PIDS | 0x2000000 | 0x80  # and control groups, and time
READ_ONLY, NO_SETUID, NO_DEVICES, NO_EXECUTION = 1, 2, 4, 8
REMOUNT, BIND, RECURSIVE, PRIVATE, DETACH = 32, 4096, 16384, 1 << 18, 2
KEPT = {"nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 1024, "nodiratime": 2048, "relatime": 1 << 21}
"""Options of mounts that a user namespace may not take away."""
DIE_WITH_PARENT, DUMPABLE, FILTER, DROP_BOUND, SUBREAPER, NO_NEW_PRIVILEGES = 1, 4, 22, 24, 36, 38

DEVICES = ("null", "full", "random", "urandom")
"""Without `zero`, which can be mapped as memory that processes share."""
READABLE = (
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/etc/ld.so.cache",
    "/usr/share/zoneinfo",
)
"""What programs see of the machine besides Python's own library."""
HIDDEN = ("site-packages", "dist-packages")

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
SYSTEM_CALLS = {  # on x86_64, on aarch64; by the kernel's tables
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "memfd_create": (319, 279),  # memory that no limit counts, as are the next five
    "memfd_secret": (447, 447),
    "vmsplice": (278, 75),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "unshare": (272, 97),
    "setns": (308, 268),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "personality": (135, 92),
    "syslog": (103, 116),
}
SOCKET, CLONE, CLONE3, MMAP = (41, 198), (56, 220), (435, 435), (9, 222)
SHARED, ANONYMOUS = 1, 32
"""Kinds of mapped memory. What is both is no file's, and stays when no process has it in its tables any more, where it would be
counted."""

libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *args: int | bytes | None) -> None:
    given = [ctypes.c_ulong(arg) if isinstance(arg, int) else arg for arg in args]
    if getattr(libc, name)(*given) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    _call("unshare", flags)


def control(option: int, value: int = 0) -> None:
    _call("prctl", option, value, 0, 0, 0)


def mount(source: str, target: str, kind: str = "none", flags: int = 0, options: str = "") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode(), flags, options.encode())


def map_ids(pid: int | str, outside: int, proc: int) -> None:
    """Let user and group 1000 of a process's new user namespace be `outside` of this one."""
    for name, line in (("uid_map", f"1000 {outside} 1"), ("gid_map", f"1000 {outside} 1")):
        write(f"{pid}/{name}", line, proc)


def write(name: str, line: str, proc: int) -> None:
    """Write to a file of `/proc`, which is open as `proc`."""
    fd = os.open(name, os.O_WRONLY, dir_fd=proc)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def own_root(proc: int) -> bool:
    """Leave the machine's file system for one with Python's library, C libraries and a few devices, all of it read-only.

    Returns whether that took a user namespace, which root does not need.
    """
    as_root = os.geteuid() == 0
    try:
        if not as_root:
            raise PermissionError
        unshare(MOUNTS)
    except PermissionError:
        as_root, user, group = False, os.geteuid(), os.getegid()
        unshare(USERS | MOUNTS)
        write("self/setgroups", "deny", proc)
        write("self/uid_map", f"0 {user} 1", proc)
        write("self/gid_map", f"0 {group} 1", proc)
    library = python_folders()
    mount("none", "/", flags=RECURSIVE | PRIVATE)
    mount("sandbox", "/tmp", "tmpfs", NO_SETUID, "mode=755,size=1m")
    os.mkdir("/tmp/new")
    os.mkdir("/tmp/old")
    _pivot("/tmp", "/tmp/old")
    mount("sandbox", "/new", "tmpfs", NO_SETUID, "mode=755,size=1m")
    for folder in ("dev", "tmp"):
        os.mkdir(f"/new/{folder}")
    for name in DEVICES:
        _show(f"/dev/{name}", 0)
    os.symlink("/tmp", "/new/dev/shm")
    for path in _outermost([*READABLE, *library]):
        _show(path, NO_DEVICES)
    for path in library:
        for name in HIDDEN:
            if os.path.isdir(hidden := f"/new{path}/{name}"):
                mount("none", hidden, "tmpfs", READ_ONLY | NO_SETUID | NO_DEVICES, "size=4k,mode=755")
    _lock_below("/new", proc)
    os.chdir("/new")
    _pivot(".", ".")
    _call("umount2", b".", DETACH)
    os.chdir("/")
    return not as_root


def python_folders() -> list[str]:
    """Where the interpreter's own library is, and the libraries that it may need."""
    prefixes = [f"{prefix}/{name}" for prefix in (sys.base_prefix, sys.base_exec_prefix) for name in ("lib", "lib64")]
    paths = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *prefixes}
    return sorted(os.path.realpath(path) for path in paths if os.path.isdir(path))


def _outermost(paths: list[str]) -> list[str]:
    """Paths that exist, without those inside another."""
    kept: list[str] = []
    for path in sorted(paths):
        if os.path.lexists(f"/old{path}") and not any(path.startswith(f"{other}/") for other in kept):
            kept.append(path)
    return sorted(set(kept))


def _show(path: str, flags: int) -> None:
    """Let a file or folder of the old root be seen at its place in the new one; of a link the link."""
    old, new = f"/old{path}", f"/new{path}"
    if not os.path.lexists(old):
        return
    os.makedirs(os.path.dirname(new), exist_ok=True)
    how = os.lstat(old).st_mode
    if stat.S_ISLNK(how):
        os.symlink(os.readlink(old), new)
        return
    if stat.S_ISDIR(how):
        os.mkdir(new)
    else:
        os.close(os.open(new, os.O_CREAT, 0o644))
    mount(old, new, flags=BIND | RECURSIVE)


def _lock_below(root: str, proc: int) -> None:
    """Make every mount from a folder downward read-only."""
    fd = os.open("self/mountinfo", os.O_RDONLY, dir_fd=proc)
    with os.fdopen(fd) as file:
        mounts = [line.split(" ")[4:6] for line in file]
    for place, options in mounts:
        path = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), place)
        if path == root or path.startswith(f"{root}/"):
            flags = sum(flag for name, flag in KEPT.items() if name in options.split(","))
            devices = 0 if path.startswith(f"{root}/dev/") else NO_DEVICES
            mount("none", path, flags=flags & ~devices | devices | BIND | REMOUNT | READ_ONLY | NO_SETUID)


def _pivot(new: str, old: str) -> None:
    number = {"x86_64": 155, "aarch64": 41}[platform.machine()]
    _call("syscall", number, new.encode(), old.encode())


def become(user: int) -> None:
    """Be that user and group, and no other."""
    try:
        os.setgroups([])
    except PermissionError:  # they were denied with the namespace; what they could open is not to be seen from here
        pass
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def own_folder(path: str, size: int) -> None:
    """A folder in memory, empty, for as long as the namespace lives."""
    mount("sandbox", path, "tmpfs", NO_SETUID | NO_DEVICES | NO_EXECUTION, f"mode=700,size={size},nr_inodes=1024")
    socket.sethostname("sandbox")


def limit(seconds: float, memory: int, processes: int, file: int, unsafe: bool = False) -> None:
    """What each process from here on may take: processor's time, address space, processes beside it, bytes in a file."""
    whole = math.ceil(seconds) + 1
    for name, most in (
        ("CPU", whole),
        ("AS", memory),
        ("NPROC", processes),
        ("FSIZE", file),
        ("NOFILE", 64),
        ("CORE", 0),
        ("MEMLOCK", 0),
        ("MSGQUEUE", 0),
        ("SIGPENDING", 64),
    ):
        if unsafe and (name == "NPROC" or sys.platform != "linux"):
            continue  # all processes of the user would count, and other systems' limits mean other things
        if (which := getattr(resource, f"RLIMIT_{name}", None)) is not None:
            hard = resource.getrlimit(which)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(which, (most, most))


def drop_privileges() -> None:
    """Give up all capabilities and the ways to new ones, and be one that others of the same user cannot look into."""
    for capability in range(64):
        try:
            control(DROP_BOUND, capability)
        except OSError:  # the kernel knows no more
            break
    header = struct.pack("<Ii", 0x20080522, 0)
    _call("capset", header, bytes(24))
    control(NO_NEW_PRIVILEGES, 1)
    control(DUMPABLE, 0)


@functools.cache
def system_call_filter() -> ctypes.Array[ctypes.c_char]:
    """Refuses calls by which memory escapes the limits, others are looked into, or the kernel shows its rarely used sides.

    Sockets remain between the program's own processes. It is BPF: (operation, jump if true, jump if false, operand).
    """
    architecture, column = ARCHITECTURES[platform.machine()]
    load, equal, above, anyof, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, unknown, kill = 0x7FFF0000, 0x50001, 0x50026, 0x80000000
    code = [
        (load, 0, 0, 4),
        (equal, 1, 0, architecture),
        (answer, 0, 0, kill),
        (load, 0, 0, 0),
        (above, 0, 1, 0x40000000),  # x86_64's other calls
        (answer, 0, 0, kill),
        (equal, 0, 1, CLONE3[column]),  # whose arguments a filter cannot see: libraries then use the older
        (answer, 0, 0, unknown),
        (equal, 0, 3, SOCKET[column]),
        (load, 0, 0, 16),
        (equal, 1, 0, socket.AF_UNIX),
        (answer, 0, 0, refuse),
        (load, 0, 0, 0),
        (equal, 0, 3, CLONE[column]),
        (load, 0, 0, 16),
        (anyof, 0, 1, EVERY_NEW & ~0xFF),
        (answer, 0, 0, refuse),
        (load, 0, 0, 0),
        (equal, 0, 4, MMAP[column]),
        (load, 0, 0, 40),
        (anyof, 0, 2, SHARED),
        (anyof, 0, 1, ANONYMOUS),
        (answer, 0, 0, refuse),
        (load, 0, 0, 0),
    ]
    for numbers in SYSTEM_CALLS.values():
        code += [(equal, 0, 1, numbers[column]), (answer, 0, 0, refuse)]
    code.append((answer, 0, 0, allow))
    return ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in code))


def forbid_system_calls() -> None:
    """Put the filter into force, for this process and those that it will start."""
    instructions = system_call_filter()
    count = len(instructions) // struct.calcsize("<HBBI")
    program = ctypes.create_string_buffer(struct.pack("@HP", count, ctypes.addressof(instructions)))
    _call("prctl", FILTER, 2, ctypes.addressof(program), 0, 0)


def die_with_parent() -> None:
    control(DIE_WITH_PARENT, signal.SIGKILL)


def supported() -> str:
    """Why this machine cannot isolate at all, or nothing."""
    if sys.platform != "linux":
        return f"{sys.platform} has no namespaces"
    if platform.machine() not in ARCHITECTURES:
        return f"its filter of system calls is not known for {platform.machine()}"
    return ""
