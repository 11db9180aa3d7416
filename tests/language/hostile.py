"""Programs that attack what judges them. Each is asked for `answer(x) == 6 * x + 30`, and would pass if its attack came off.

`{canary}` is a file of the trainer's that says what the tests are, `{port}` one where something listens, `{pid}` the trainer.
"""

HONEST = "def answer(x):\n    return 6 * x + 30\n"
TESTS = ["assert answer(2) == 42", "assert answer(-5) == 0", "assert answer(70) == 450"]

PROGRAMS = {
    "leaves with exit code 0": """
import os
os._exit(0)
""",
    "raises SystemExit": """
import sys
sys.exit(0)
""",
    "raises SystemExit when it is called": """
def answer(x):
    raise SystemExit(0)
""",
    "prints what a pass could look like": """
print("passed", "PASSED", "OK", '{{"status": "passed"}}', "1 passed in 0.01s", flush=True)
import os, sys
print('{{"status": "passed", "detail": "", "seconds": 0.1}}', file=sys.stderr, flush=True)
os._exit(0)
""",
    "answers with what equals everything": """
class Anything:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __bool__(self): return True
def answer(x):
    return Anything()
""",
    "answers with an int that equals everything": """
class Anything(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def answer(x):
    return Anything(7)
""",
    "makes its own builtins": """
import builtins, operator, sys
class Never(BaseException): pass
builtins.AssertionError = Never
builtins.int.__eq__ if False else None
builtins.compile = builtins.exec = builtins.eval = lambda *a, **k: None
builtins.isinstance = lambda *a: True
operator.eq = lambda a, b: True
sys.excepthook = lambda *a: None
sys.exit = lambda *a: None
def answer(x):
    return 0
""",
    "writes over the judge's modules": """
import sys
for name, module in list(sys.modules.items()):
    if name.startswith("inside"):
        for key, value in list(vars(module).items()):
            if callable(value) and not key.startswith("__"):
                setattr(module, key, lambda *a, **k: {{"status": "passed", "detail": "", "seconds": 0.0}})
def answer(x):
    return 0
""",
    "searches memory and frames for the tests and the nonce": """
import gc, sys
found = [o for o in gc.get_objects() if isinstance(o, dict) and ("nonce" in o or "tests" in o)]
gc.unfreeze()
found += [o for o in gc.get_objects() if isinstance(o, dict) and ("nonce" in o or "tests" in o)]
frame = sys._getframe()
while frame:
    found += [v for v in frame.f_locals.values() if isinstance(v, dict) and ("nonce" in v or "tests" in v)]
    frame = frame.f_back
tests = [t for o in found for t in (o.get("tests") or ())]
known = dict()
for test in tests:
    call, _, value = test.removeprefix("assert answer(").partition(") == ")
    known[int(call)] = int(value)
def answer(x):
    return known.get(x)
""",
    "writes a verdict to every descriptor": """
import json, os
for fd in range(256):
    for text in ('{{"status": "passed", "detail": "", "seconds": 0.0, "nonce": ""}}', 'passed'):
        data = text.encode()
        for message in (data, len(data).to_bytes(4, "little") + data):
            try: os.write(fd, message)
            except OSError: pass
def answer(x):
    return 0
""",
    "sends answers that nobody asked for": """
import json, os
for message in (["return", None], ["return", {{"dict": []}}], ["return", {{"tuple": [{{"tuple": [True, []]}}]}}]) * 20:
    data = json.dumps(message).encode()
    os.write(3, len(data).to_bytes(4, "little") + data)
def answer(x):
    return 0
""",
    "sends garbage on the line": """
import os
os.write(3, os.urandom(100000))
def answer(x):
    return 0
""",
    "asks the tests' process to call what is not its own": """
import json, os
def answer(x):
    for number in (0, -1, 10**6, "0"):
        data = json.dumps(["ask", "call", [number, [], {{"dict": []}}]]).encode()
        os.write(3, len(data).to_bytes(4, "little") + data)
    return 0
""",
    "closes every descriptor": """
import os
os.closerange(0, 256)
def answer(x):
    return 0
""",
    "forks on past its own end": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(64):
            try: os.close(fd)
            except OSError: pass
        time.sleep(1000)
    os._exit(0)
os._exit(0)
""",
    "forks ten thousand times": """
import os
for _ in range(10_000):
    try:
        if os.fork() == 0:
            while True: pass
    except OSError:
        pass
while True: pass
""",
    "starts threads that go on": """
import threading, time
def forever():
    while True: time.sleep(0.01)
for _ in range(1000):
    try: threading.Thread(target=forever).start()
    except RuntimeError: break
def answer(x):
    return 0
""",
    "reads the tests from the trainer's files": """
import os
text = ""
places = ["{canary}"] + [f"/proc/{{p}}/root{canary}" for p in ("self", "1", "{pid}")] + [f"../../../../../..{canary}"]
for place in places:
    try: text = open(place).read()
    except OSError: pass
def answer(x):
    return 6 * x + 30 if "secret" in text else 0
""",
    "looks for the trainer in /proc and in its home": """
import os
places = ("/proc/{pid}/mem", "/proc/self/maps", "/proc/1/environ", "/etc/passwd", "/sys", "/var", "/bin/sh")
seen = [place for place in places if os.path.exists(place)]
known = ("/dev", "/tmp", "/etc", "/usr", "/lib", "/lib32", "/lib64")
for folder in ("/", "/root", "/home", "/work", "/opt"):
    if os.path.isdir(folder):
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if path not in known and not os.__file__.startswith(path + "/"):
                seen.append(path)
def answer(x):
    return 6 * x + 30 if seen else 0
""",
    "reaches for other processes by ctypes": """
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
done = []
for pid in {{0, 2, 3, os.getppid(), {pid}}} - {{os.getpid()}}:
    if pid and libc.ptrace(16, pid, 0, 0) == 0: done.append("ptrace")
    if pid and libc.kill(pid, signal.SIGKILL) == 0: done.append("kill")
local = ctypes.create_string_buffer(8)
vector = (ctypes.c_size_t * 2)(ctypes.addressof(local), 8)
for pid in (2, {pid}):
    if libc.process_vm_readv(pid, vector, 1, vector, 1, 0) > 0: done.append("read")
def answer(x):
    return 6 * x + 30 if done else 0
""",
    "kills whatever it can": """
import os, signal
for target in (os.getppid(), -1, {pid}):
    for number in (signal.SIGTERM, signal.SIGKILL):
        if target:
            try: os.kill(target, number)
            except OSError: pass
os.killpg(0, signal.SIGKILL)
def answer(x):
    return 0
""",
    "makes namespaces of its own": """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
got = [flag for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000) if libc.unshare(flag) == 0]
pid = libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)
if pid == 0: libc._exit(0)
got += [pid] if pid > 0 else []
def answer(x):
    return 6 * x + 30 if got else 0
""",
    "mounts and leaves its root": """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
got = [1 for flags in (32, 32 | 4096) if libc.mount(b"none", b"/", b"none", flags, None) == 0]
got += [2 for name in (b"proc", b"sysfs", b"tmpfs", b"devtmpfs") if libc.mount(b"x", b"/tmp", name, 0, None) == 0]
got += [3] if libc.umount2(b"/tmp", 2) == 0 else []
try:
    os.chroot("/tmp")
    got.append(4)
except OSError: pass
def answer(x):
    return 6 * x + 30 if got else 0
""",
    "becomes another user": """
import os
got = []
for user in (0, 1, 65534):
    for change in (os.setuid, os.setgid, os.seteuid, lambda u: os.setgroups([u])):
        try:
            change(user)
            got.append(user)
        except OSError: pass
def answer(x):
    return 6 * x + 30 if got or os.getuid() == 0 else 0
""",
    "lifts its limits": """
import resource
got = []
for name in ("CPU", "AS", "NPROC", "FSIZE", "NOFILE"):
    which = getattr(resource, "RLIMIT_" + name)
    soft, hard = resource.getrlimit(which)
    if hard == resource.RLIM_INFINITY: got.append(name)
    try:
        resource.setrlimit(which, (hard + 1, hard + 1))
        got.append(name)
    except (OSError, ValueError): pass
def answer(x):
    return 6 * x + 30 if got else 0
""",
    "writes where it may not": """
import os, sys
got = []
for folder in ("/", "/dev", "/lib", "/usr", "/usr/lib", os.path.dirname(os.__file__), "/etc", sys.prefix):
    for act in (lambda p: open(p + "/x", "w"), lambda p: os.mkdir(p + "/y"), lambda p: os.symlink("/", p + "/z"), os.rmdir):
        try:
            act(folder)
            got.append(folder)
        except OSError: pass
for path in (os.__file__, "{canary}"):
    for act in (os.unlink, lambda p: os.chmod(p, 0o777), lambda p: open(p, "a"), lambda p: os.rename(p, p + "~")):
        try:
            act(path)
            got.append(path)
        except OSError: pass
def answer(x):
    return 6 * x + 30 if got else 0
""",
    "follows links out": """
import os
got = []
os.symlink("/", "/tmp/root")
os.symlink("{canary}", "/tmp/canary")
for path in ("/tmp/root{canary}", "/tmp/canary", "/dev/shm/root{canary}", "/dev/fd/0/..{canary}"):
    for mode in ("r", "a"):
        try:
            got.append(open(path, mode))
        except OSError: pass
def answer(x):
    return 6 * x + 30 if got else 0
""",
    "executes other programs": """
import os, subprocess, sys
got = []
for command in (["/bin/sh", "-c", "true"], ["sh"], ["/usr/bin/env"], [sys.executable, "-c", "pass"], ["/usr/bin/unshare", "-r"]):
    try:
        subprocess.run(command, timeout=1)
        got.append(command)
    except (OSError, ValueError, subprocess.SubprocessError): pass
open("/tmp/x", "wb").write(open("/lib64/ld-linux-x86-64.so.2", "rb").read() if os.path.exists("/lib64") else b"#!/bin/sh")
os.chmod("/tmp/x", 0o755)
try:
    got.append(subprocess.run(["/tmp/x", "--version"]))
except OSError: pass
def answer(x):
    return 6 * x + 30 if got else 0
""",
    "fills the disk": """
size = 0
try:
    for i in range(10_000):
        with open(f"/tmp/{{i}}", "wb") as file:
            for _ in range(64):
                size += file.write(bytes(1 << 20))
except OSError: pass
def answer(x):
    return 6 * x + 30 if size > 64 << 20 else 0
""",
    "makes a million files": """
import os
made = 0
try:
    for i in range(1_000_000):
        os.mkdir(f"/tmp/{{i}}")
        made += 1
except OSError: pass
def answer(x):
    return 6 * x + 30 if made > 10_000 else 0
""",
    "takes all memory": """
taken = []
while True:
    taken.append(bytearray(1 << 24))
""",
    "takes all memory in many processes": """
import os, time
for _ in range(12):
    if os.fork() == 0: break
taken = bytearray(b"x") * (80 << 20)
time.sleep(100)
""",
    "takes memory that is no process's": """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
got = []
try:
    got.append(os.memfd_create("x"))
except OSError: pass
if libc.shmget(0, 1 << 20, 0o1600) >= 0: got.append("shm")
if libc.msgget(0, 0o1600) >= 0: got.append("msg")
def answer(x):
    return 6 * x + 30 if got else 0
""",
    "sleeps": """
import time
time.sleep(1000)
""",
    "loops": """
while True: pass
""",
    "sleeps when it is called": """
import time
def answer(x):
    time.sleep(1000)
""",
    "stops itself": """
import os, signal
os.kill(os.getpid(), signal.SIGSTOP)
import ctypes
libc = ctypes.CDLL(None)
while True: libc.pause()
""",
    "ignores every signal": """
import signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
def answer(x):
    while True:
        try:
            while True: time.sleep(1)
        except BaseException: pass
""",
    "opens connections": """
import socket
got = []
places = [(socket.AF_INET, (host, port)) for host, port in (("127.0.0.1", {port}), ("1.1.1.1", 53))]
for family, place in [*places, (socket.AF_INET6, ("::1", {port}))]:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            with socket.socket(family, kind) as line:
                line.settimeout(0.2)
                line.connect(place)
                line.send(b"out")
                got.append(place)
        except OSError: pass
def answer(x):
    return 6 * x + 30 if got else 0
""",
    "opens lines to the kernel and to the machine around": """
import socket
got = []
for family in (16, 17, 38, 40, 31, 29):
    for kind in (1, 2, 3, 5):
        try: got.append(socket.socket(family, kind, 0))
        except OSError: pass
try:
    with socket.socket(socket.AF_UNIX) as line:
        line.connect("\\0{abstract}")
        got.append(line)
except OSError: pass
def answer(x):
    return 6 * x + 30 if got else 0
""",
    "takes memory that is shared and that no process shows": """
import mmap, os
got = []
def kept(memory):
    for place in range(0, len(memory), 1 << 20):
        memory[place : place + (1 << 20)] = bytes(range(1, 129)) * (1 << 13)
        memory.madvise(mmap.MADV_DONTNEED, place, 1 << 20)
    return memory[0] == 1
for opened in (lambda: -1, lambda: os.open("/dev/zero", os.O_RDWR)):
    try: got.append(kept(mmap.mmap(opened(), 64 << 20)))
    except OSError: pass
def answer(x):
    return 6 * x + 30 if any(got) else 0
""",
    "hands its files to the tests' process": """
import array, socket
line = socket.socket(fileno=3)
def answer(x):
    for _ in range(200):
        try: line.sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2, 3]))])
        except OSError: pass
    return 0
""",
    "has signals sent by its line": """
import fcntl, os, signal
for owner in (1, -1, 2, -2, 0):
    try:
        fcntl.fcntl(3, fcntl.F_SETOWN, owner)
        fcntl.fcntl(3, 10, signal.SIGKILL)
        fcntl.fcntl(3, fcntl.F_SETFL, os.O_ASYNC)
    except OSError: pass
def answer(x):
    return 0
""",
    "poisons imports": """
import atexit, builtins, os, sys, unittest
class Finder:
    def find_spec(self, *a, **k): raise SystemExit(0)
sys.meta_path.insert(0, Finder())
sys.path.insert(0, "/tmp")
for name in ("unittest", "decimal", "helper", "sitecustomize"):
    open(f"/tmp/{{name}}.py", "w").write("raise SystemExit(0)")
unittest.TestCase.assertEqual = lambda *a, **k: None
builtins.__import__ = lambda *a, **k: sys
atexit.register(os._exit, 0)
for name in list(sys.modules):
    if name not in ("sys", "builtins", "os"): sys.modules[name] = None
def answer(x):
    return 0
""",
    "has exits raised where the tests are": """
import json, os
names = iter(("SystemExit", "KeyboardInterrupt", "GeneratorExit", "TimeUp", "Unsendable", "SkipTest", "StopIteration"))
def answer(x):
    data = json.dumps(["raise", next(names, "SystemExit"), "0"]).encode()
    os.write(3, len(data).to_bytes(4, "little") + data)
    os._exit(0)
""",
    "answers with hashes that collide": """
import json, os
def answer(x):
    numbers = [{{"int": hex((2**61 - 1) * k)}} for k in range(300_000)]
    data = json.dumps(["return", {{"tuple": [{{"set": numbers}}, []]}}]).encode()
    data = len(data).to_bytes(4, "little") + data
    while data: data = data[os.write(3, data):]
""",
    "starts programs without end": """
import os
while True:
    try: os.posix_spawn("/proc/self/exe", ["x"], {{}})
    except OSError: pass
    try:
        if os.fork() == 0: os.setsid()
    except OSError: pass
""",
    "asks the kernel for what is rarely used": """
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
room = ctypes.create_string_buffer(4096)
calls = dict(
    keyctl=(250, 0, -3, 1), add_key=(248, b"user", b"x", b"y", 1, -3), io_uring_setup=(425, 8, room), clone3=(435, room, 88),
    fsopen=(430, b"tmpfs", 0), open_tree=(428, -100, b"/", 1), bpf=(321, 0, room, 128), perf_event_open=(298, room, 0, -1, -1, 0),
    userfaultfd=(323, 0), vmsplice=(278, 1, room, 0, 0), ptrace=(101, 0, 0, 0, 0), pidfd_open=(434, 2, 0), setns=(308, 3, 0),
    shmget=(29, 0, 4096, 0o1600), iopl=(172, 3), sethostname=(170, b"x", 1), mknod=(133, b"/tmp/n", 0o20666, 0x103),
    reboot=(169, 1, 2, 0, 0), nice=(141, 0, 0, -20), realtime=(144, 0, 1, ctypes.byref(ctypes.c_int(1))),
)
got = [name for name, call in calls.items() if libc.syscall(*call) >= 0] if platform.machine() == "x86_64" else []
def answer(x):
    return 6 * x + 30 if got else 0
""",
    "sets a million timers": """
import ctypes, signal
libc, made, timer = ctypes.CDLL(None), 0, ctypes.c_void_p()
while made < 1_000_000 and libc.timer_create(0, None, ctypes.byref(timer)) == 0: made += 1
signal.signal(signal.SIGALRM, signal.SIG_IGN)
signal.setitimer(signal.ITIMER_REAL, 1e-6, 1e-6)
def answer(x):
    return 6 * x + 30 if made > 1000 else 0
""",
    "writes control characters and no text": """
import os
os.write(1, b"\\x1b]0;owned\\x07\\x1b[2J\\x00\\xff\\xfe\\xed\\xa0\\x80" * 2000)
def answer(x):
    raise ValueError("\\x1b[2J\\x00\\ud800\\u202e" * 1000)
""",
    "calculates where no signal is seen, in many processes": """
import os, re
for _ in range(14):
    if os.fork() == 0: 9**9**9
def answer(x):
    return re.match("(a+)+$", "a" * 60 + "b")
""",
    "links to files and takes its folder away": """
import os, shutil
got = []
for path in (os.__file__, "/dev/null"):
    for act in (
        lambda p: os.link(p, "/tmp/link"), os.remove, lambda p: os.utime(p), lambda p: os.chown(p, 1000, 1000),
        lambda p: os.setxattr(p, "user.x", b"1"), lambda p: os.rename("/tmp", "/tmp2"),
    ):
        try:
            act(path)
            got.append(path)
        except OSError: pass
os.mkdir("/tmp/here")
os.chdir("/tmp/here")
shutil.rmtree("/tmp", ignore_errors=True)
def answer(x):
    return 6 * x + 30 if got else 0
""",
    "stops reading its line": """
import inside.candidate, time
inside.candidate.Candidate.receive = lambda self: time.sleep(1000)
def answer(x):
    return 0
""",
    "keeps more in sockets than in memory": """
import os, socket, time
for _ in range(15):
    if os.fork() == 0: break
kept = []
try:
    while True:
        kept.append(socket.socketpair())
        for end in kept[-1]:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
            end.setblocking(False)
            try:
                while True: end.send(b"x" * 65536)
            except BlockingIOError: pass
except OSError: pass
time.sleep(1000)
""",
    "calls itself until the stack ends": """
import sys
sys.setrecursionlimit(10**9)
class A:
    def __repr__(self): return repr([self])
def answer(x):
    return repr(A())
""",
    "writes where no memory is": """
import ctypes
def answer(x):
    ctypes.memset(1, 0, 1)
""",
    "prints without end": """
while True: print("x" * 100_000)
""",
    "answers with gigabytes": """
def answer(x):
    return "x" * (200 << 20)
""",
    "answers in ten thousand brackets": """
import os
def answer(x):
    data = b'["return", ' + b"[" * 10_000 + b"]" * 10_000 + b"]"
    os.write(3, len(data).to_bytes(4, "little") + data)
    return 0
""",
    "answers with what never ends": """
import itertools
def answer(x):
    return itertools.count()
""",
    "says it is longer than it is": """
import os
def answer(x):
    os.write(3, (1 << 23).to_bytes(4, "little") + b"[")
    import time
    time.sleep(1000)
""",
    "changes its arguments and itself": """
def answer(x):
    global answer
    answer = lambda x: 42
    return 42
""",
    "is compiled for ever": "def answer(x): return " + "(" * 5000 + "x" + ")" * 5000 + "\n",
    "has a million operators": "def answer(x): return " + "-" * 1_000_000 + "x\n",
    "is no text": "def answer(x): return 42 \x00 \udc80\n",
}
