"""The sandbox: hostile programs are contained and fail, honest ones pass, and nothing of either remains."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from palaestra.core.errors import BadSetting, Untrusted
from palaestra.language.sandbox import Job, Sandbox, Verdict
from palaestra.language.sandbox.inside import isolation
from palaestra.language.sandbox.sandbox import cores
from tests.language.hostile import HONEST, PROGRAMS, TESTS

ROOT = Path(__file__).parents[2]


def isolated() -> str:
    """Why there can be no sandbox here, or nothing."""
    try:
        with Sandbox() as box:
            box.run("pass")
    except Untrusted as error:
        return str(error)
    return ""


WHY_NOT = isolated()
needs_namespaces = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


@pytest.fixture(scope="module")
def box():
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    with Sandbox() as box:
        yield box


@pytest.fixture(scope="module")
def short():
    """With little of everything, so that attacks end soon."""
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    with Sandbox(seconds=1, memory_mb=256, processes=16) as box:
        yield box


def beneath(pid: int) -> set[int]:
    """Processes that a process has started, and those that they have."""
    found: set[int] = set()
    try:
        listed = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it has ended meanwhile
        return found
    for child in map(int, " ".join(listed).split()):
        found |= {child} | beneath(child)
    return found


def servers(box: Sandbox) -> set[int]:
    return {server.process.pid for server in box._idle}


def wait_for(condition, seconds: float = 120.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen")


# ---------------------------------------------------------------- hostile programs


@pytest.mark.parametrize("attack", PROGRAMS)
def test_a_hostile_program_fails_and_leaves_everything_as_it_was(attack, short, tmp_path):
    canary = tmp_path / "tests.py"
    canary.write_text("secret")
    name = f"palaestra-{os.getpid()}"
    listener, local = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    with listener, local:
        local.bind(f"\0{name}")
        for line in (listener, local):
            line.listen()
            line.settimeout(0)
        program = PROGRAMS[attack]
        if "(" * 100 not in program and "-" * 100 not in program:
            program = program.format(canary=canary, port=listener.getsockname()[1], pid=os.getpid(), abstract=name)
        began = time.perf_counter()
        verdict = short.run(program, TESTS, "answer")
        assert verdict.status in ("failed", "timeout", "memory", "unparseable"), verdict
        assert time.perf_counter() - began < short.seconds + 30
        for line in (listener, local):
            with pytest.raises(BlockingIOError):
                line.accept()
    assert canary.read_text() == "secret" and os.listdir(tmp_path) == ["tests.py"]
    assert len(verdict.output) <= 1 << 16
    wait_for(lambda: not set().union(*map(beneath, servers(short))))
    after = (short.run(HONEST + f"# after {attack}, {i}\n", TESTS, "answer") for i in range(5))
    assert any(verdict.passed for verdict in after)  # some of them may be late on a machine that stands still
    assert {verdict.status for verdict in after} <= {"passed", "timeout"}, after


def test_there_are_as_many_attacks_as_promised():
    assert len(PROGRAMS) >= 20


@pytest.mark.parametrize(
    "attack", ["prints what a pass could look like", "raises SystemExit", "sends garbage on the line"]
)
def test_an_attack_fails_too_where_the_tests_use_whatever_the_program_defines(attack, box):
    assert box.run(PROGRAMS[attack].format(), TESTS).status == "failed"


def test_a_program_cannot_leave_anything_for_the_next(short):
    leave = (
        "import ctypes, os, socket\nopen('/tmp/note', 'w').write('x')\nopen('/dev/shm/note', 'w').write('x')\n"
        "libc = ctypes.CDLL('librt.so.1')\nlibc.mq_open(b'/note', 66, 0o600, None)\nimport builtins\nbuiltins.note = 1\n"
        "kept = socket.socket(socket.AF_UNIX)\nkept.bind('\\0note')\n"
    )
    look = (
        "import builtins, ctypes, os, socket\n"
        "found = [os.path.exists('/tmp/note'), os.path.exists('/dev/shm/note'), hasattr(builtins, 'note'), "
        "ctypes.CDLL('librt.so.1').mq_open(b'/note', 0) >= 0]\ntry:\n    socket.socket(socket.AF_UNIX).connect('\\0note')\n"
        "    found.append(True)\nexcept OSError: pass\n"
    )
    assert short.run(leave).passed
    assert short.run(look, "assert found == [False] * 4", "found").passed


def test_functions_that_the_tests_trust_cannot_be_replaced(box):
    program = (
        "def isclose(a, b): return True\ndef helper(x): return x\nabs = len = max = lambda *a: 0\ndef f(x): return 99\n"
    )
    tests = (
        "from math import isclose\ndef helper(x): return x + 1\nassert isclose(f(1), helper(1)) or abs(f(1) - 2) == 0"
    )
    assert box.run(program, tests).status == "failed"


def test_a_forged_answer_cannot_change_what_its_test_compares_it_with(box):
    program = "import inside.candidate as c\nc.OPERATIONS['call'] = lambda *a: ([], [[0, []]])\ndef f(xs): return 0\n"
    assert box.run(program, "xs = [3, 1, 2]\nassert f(xs) == sorted(xs)", "f").status == "failed"


@pytest.mark.parametrize("error", ["StopIteration", "StopAsyncIteration", "GeneratorExit"])
def test_a_program_cannot_end_the_loops_of_its_tests(box, error):
    program = f"def f(x): raise {error}"
    assert box.run(program, "for got, due in zip(map(f, [1, 2]), [1, 2]): assert got == due", "f").status == "failed"
    assert box.run(program, "assert all(map(f, [1, 2]))", "f").status == "failed"


@needs_namespaces
def test_a_program_inherits_nothing_however_many_files_the_trainer_has_open():
    opened = [os.open("/dev/null", os.O_RDONLY)]
    program = """
import os
for fd in range(10_000):
    try: os.fstat(fd)
    except OSError: continue
    print(fd)
"""
    try:
        while opened[-1] <= 4096:
            opened.append(os.dup(opened[0]))
        with Sandbox() as fresh:
            assert fresh.run(program).output.split() == ["0", "1", "2", "3"]
    except OSError:
        pytest.skip("fewer files may be open here")
    finally:
        for fd in opened:
            os.close(fd)


def test_a_module_that_the_tests_use_is_pythons_own_whatever_the_program_has_made_of_it(box):
    program = "import math\nmath.isclose = lambda *a, **k: True\ndef f(x): return 99"
    assert box.run(program, "assert math.isclose(f(1), 1)").status == "failed"
    assert box.run("import math\ndef f(x): return 1.0", "assert math.isclose(f(1), 1)").passed


def test_an_object_contains_no_more_than_it_lists(box):
    program = (
        "class All:\n    def __contains__(self, x): return True\n    def __iter__(self): return iter([1])\n"
        "def f(): return All()"
    )
    assert box.run(program, "assert 1 in f()").passed
    assert box.run(program, "assert 2 in f()").status == "failed"


def test_tests_that_catch_everything_do_not_pass_a_program_that_has_gone(box):
    tests = "try:\n    f(1)\nexcept BaseException:\n    pass"
    assert box.run("import os\ndef f(x): os._exit(0)", tests).status == "failed"
    assert box.run("import os\ndef f(x): os.write(3, b'garbage' * 99)", tests).status == "failed"


def test_tests_that_catch_everything_do_not_pass_a_program_that_is_late(short):
    assert (
        short.run("def f(x):\n    while True: pass", "try:\n    f(1)\nexcept BaseException:\n    pass").status
        == "timeout"
    )


def test_a_verdict_without_the_nonce_is_no_pass():
    from palaestra.language.sandbox.sandbox import _verdict

    limits = {"seconds": 1.0, "memory": 1 << 20, "processes": 1, "disk": 1}
    said = '{"status": "passed", "detail": "", "seconds": 0.1, "nonce": "%s"}'
    answer = {"result": said % "right", "end": "", "output": "", "seconds": 0.2}
    assert _verdict(answer, "right", limits)[0].passed
    assert not _verdict(answer, "other", limits)[0].passed
    assert not _verdict(answer | {"result": said % ""}, "right", limits)[0].passed
    assert not _verdict(answer | {"end": "timeout"}, "right", limits)[0].passed
    for broken in ("", "[]", "null", "{", '{"status": "passed"}', '{"nonce": null}'):
        assert _verdict(answer | {"result": broken}, "right", limits)[0].status == "error"


# ---------------------------------------------------------------- limits


def test_the_statuses_say_what_happened(box):
    cases = {
        "def f(x): return x": "failed",
        "def f(x): raise ValueError('no')": "failed",
        "def g(x): return x + 1": "failed",
        "import numpy": "failed",
        "def f(x) return x": "unparseable",
        "def f(x): return bytearray(1 << 40)": "memory",
        "def f(x): return x + 1": "passed",
        "async def f(x): return x + 1": "failed",
    }
    assert {program: box.run(program, "assert f(1) == 2").status for program in cases} == cases


def test_a_failure_names_the_line_and_the_reason(box):
    verdict = box.run("def f(x): return x", ["assert f(2) == 2", "assert f(1) == 2, 'one off'"])
    assert verdict.detail == "AssertionError: one off, at: assert f(1) == 2, 'one off'"
    assert "ZeroDivisionError" in box.run("def f(x): return 1 / 0", "assert f(1)").detail
    assert "'f' is not defined" in box.run("", "assert f(1)").detail


def test_tests_that_are_no_python_are_an_error_and_not_the_programs_fault(box):
    assert box.run("def f(x): return x", "assert f(1) = 1").status == "error"
    handed = box.run("def f(x): return x", "class Own: pass\nf(Own())")
    assert handed.status == "error" and "Own" in handed.detail


@pytest.mark.parametrize("entry_point", ["f", None])
@pytest.mark.parametrize(
    "tests",
    [
        "",
        "# to be written",
        "def check(candidate):\n    assert candidate(1) == 2",
        "import sys\nsys.exit(0)",
        "try:\n    g(1)\nexcept NameError: pass",
    ],
)
def test_tests_that_use_nothing_of_the_program_are_an_error_and_no_pass(tests, entry_point, box):
    verdict = box.run("def f(x): return x", tests, entry_point)
    assert verdict.status == "error" and "nothing of the program" in verdict.detail


def test_memory_is_counted_over_all_processes():
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    program = (
        "import os, time\nfor _ in range(6):\n    if os.fork() == 0: break\n"
        "kept = bytearray(b'x') * (60 << 20)\ntime.sleep(20)"
    )
    with Sandbox(seconds=20, memory_mb=200) as small:
        verdict = small.run(program)
    assert verdict.status == "memory"


def test_processes_are_limited_for_root_too(box):
    program = (
        "import os, time\nn = 0\ntry:\n    for _ in range(100):\n        if os.fork() == 0:\n            time.sleep(9)\n"
        "            os._exit(0)\n        n += 1\nexcept OSError: pass\n"
    )
    assert box.run(program, "assert n == 16", "n").passed


def test_ten_megabytes_of_prints_do_no_harm(box):
    verdict = box.run("for _ in range(100): print('x' * 100_000)\ndef f(x): return x + 1", "assert f(1) == 2")
    assert verdict.passed and verdict.output == ("x" * 100_000)[: 1 << 16]


def test_what_a_program_writes_is_kept_with_its_verdict(box):
    verdict = box.run("import sys\nprint('out \\ud800', 1)\nprint('err', file=sys.stderr)")
    assert verdict.passed and sorted(verdict.output.splitlines()) == ["err", "out \\ud800 1"]
    assert "\N{REPLACEMENT CHARACTER}" in box.run("import os\nos.write(1, b'\\xff')").output


def test_programs_see_no_environment_no_arguments_and_only_their_own_folder(box):
    program = """
import os, sys
environment, name, argv = dict(os.environ), os.uname()[1], sys.argv
here = os.getcwd(), os.listdir(".")
strange = [name for name in os.listdir("/") if not os.__file__.startswith(f"/{name}/")]
"""
    tests = [
        "assert not set(environment) - {'PYTHONHASHSEED', 'MALLOC_ARENA_MAX', 'LD_LIBRARY_PATH', 'LC_CTYPE'}",
        "assert here == ('/tmp', []) and name == 'sandbox' and argv == ['']",
        "assert set(strange) <= {'dev', 'etc', 'lib', 'lib32', 'lib64', 'usr', 'tmp'}",
    ]
    assert box.run(program, tests).passed


def test_files_threads_processes_and_pipes_work_within_the_limits(box):
    program = """
import concurrent.futures, multiprocessing, os, sqlite3, tempfile, threading
def threads(): return list(concurrent.futures.ThreadPoolExecutor(4).map(lambda x: x * x, range(4)))
def files():
    with tempfile.TemporaryFile("w+") as file:
        file.write("hello")
        file.seek(0)
        return file.read()
def processes():
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool: return pool.map(abs, [-1, -2])
def database(): return sqlite3.connect(":memory:").execute("select 6 * 7").fetchone()
"""
    tests = [
        "assert threads() == [0, 1, 4, 9] and files() == 'hello'",
        "assert processes() == [1, 2] and database() == (42,)",
    ]
    assert box.run(program, tests).passed, box.run(program, tests)


# ---------------------------------------------------------------- calls


def test_plain_data_arrive_as_they_were_sent(box):
    program = "def f(x): return x\ndef kind(x): return type(x).__name__"
    tests = r"""
from collections import Counter, OrderedDict, deque
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
values = [None, True, 0, -1, 1 << 63, -(1 << 5000), 1.5, float("inf"), 0.1 + 0.2, -0.0, "", "\ud800", "é\0", b"\xff",
    bytearray(b"x"), [], [[1], [2]], (), (1, (2,)), set(), {1, 2}, frozenset({3}), {}, {1: {2: (3,)}, (1, 2): "x", None: 0},
    1 + 2j, range(3, 9, 2),
    Counter("aab"), OrderedDict(b=1, a=2), deque([1, 2], 3), Decimal("0.10"), Fraction(1, 3), date(2020, 2, 29),
    datetime(2020, 1, 2, 3, 4, 5, 6), timedelta(1, 2, 3), slice(1, None, 2)]
for value in values:
    back = f(value)
    assert type(back) is type(value) and repr(back) == repr(value) and back == value, value
    assert kind(value) == type(value).__name__
assert f(float("nan")) != f(float("nan"))
assert f(int) is int and f(Counter) is Counter
"""
    verdict = box.run(program, tests)
    assert verdict.passed, verdict.detail


def test_values_of_subclasses_arrive_as_plain_data(box):
    program = (
        "from collections import defaultdict, namedtuple\nfrom enum import IntEnum\nP = namedtuple('P', 'x y')\n"
        "class E(IntEnum):\n    A = 3\nclass L(list): pass\nclass S(str): pass\ndef f():\n"
        "    d = defaultdict(list)\n    d[1].append(2)\n    return [P(1, 2), E.A, L([1]), S('s'), d, {1: 2}.keys()]"
    )
    assert box.run(program, "assert f() == [(1, 2), 3, [1], 's', {1: [2]}, [1]]\nassert type(f()[0]) is tuple").passed


def test_objects_stay_with_the_program_and_are_used_from_the_tests(box):
    program = """
class Node:
    def __init__(self, value):
        self.value, self.left = value, None
    def double(self, by=2): return self.value * by
    def __eq__(self, other): return self.value == other.value
    def __str__(self): return f"<{self.value}>"
    def __len__(self): return 3
    def __getitem__(self, key): return key
def depth(node): return 0 if node is None else 1 + depth(node.left)
def squares(n):
    for i in range(n): yield i * i
def forever():
    while True: yield 1
"""
    tests = """
root = Node(1)
root.left = Node(2)
root.left.left = Node(3)
assert depth(root) == 3 and root.left.left.value == 3 and root.double(by=5) == 5
assert Node(4) == Node(4) and Node(4) != Node(5) and Node(4) != 4 and root.left is not None
assert str(Node(1)) == "<1>" and len(root) == 3 and root["k"] == "k"
assert list(squares(4)) == [0, 1, 4, 9] and sum(squares(3)) == 5 and next(squares(1)) == 0
ones = forever()
assert [next(ones), next(ones)] == [1, 1]
assert sorted({Node(1): 1}.values()) == [1]
"""
    verdict = box.run(program, tests)
    assert verdict.passed, verdict.detail


def test_functions_of_the_tests_can_be_handed_over(box):
    program = (
        "def apply(f, xs): return [f(x) for x in xs]\ndef twice(f): return lambda x: f(f(x))\ndef g(x): return x * 10"
    )
    tests = """
assert apply(lambda x: x + 1, [1, 2]) == [2, 3]
assert apply(str, (1, 2)) == ["1", "2"]
assert twice(lambda x: x * 3)(2) == 18
assert apply(lambda x: g(x), [1]) == [10]
assert apply(g, [2]) == [20]
assert apply(len, iter([[1], [1, 2]])) == [1, 2]
def fails(x): raise KeyError("mine")
try:
    apply(fails, [1])
    assert False
except KeyError:
    pass
"""
    verdict = box.run(program, tests)
    assert verdict.passed, verdict.detail


def test_exceptions_of_the_program_are_those_that_tests_expect(box):
    program = "class Own(Exception): pass\ndef f(x):\n    if x: raise ValueError('bad', x)\n    raise Own('mine')"
    tests = "try:\n    f(1)\n    assert False\nexcept ValueError as error:\n    assert 'bad' in str(error)"
    assert box.run(program, tests).passed
    assert "Own: mine" in box.run(program, "f(0)").detail


def test_an_argument_is_changed_in_place_where_the_function_has_no_result(box):
    program = "def sort(xs): xs.sort()\ndef clear(d): d.clear()\ndef cheat(xs):\n    xs.clear()\n    return []"
    assert box.run(program, "x = [3, 1]\ny = x\nassert sort(x) is None\nassert y == [1, 3]").passed
    assert box.run(program, "d = {1: 2}\nclear(d)\nassert d == {}").passed
    assert box.run(program, "x = [3, 1]\nassert cheat(x) == sorted(x)").status == "failed"


def test_a_test_class_can_be_run(box):
    tests = """
import unittest
class T(unittest.TestCase):
    def test_f(self): self.assertEqual(f(1), 2)
unittest.main()
"""
    assert box.run("def f(x): return x + 1", tests).passed
    assert box.run("def f(x): return x + 2", tests).status == "failed"


def test_a_builtin_that_the_program_names_anew_is_seen_only_as_an_entry_point(box):
    program = "def sum(a, b): return a + b\ndef f(x): return x"
    assert box.run(program, "assert sum(1, 2) == 3", "sum").passed
    assert box.run(program, "assert sum([f(1), 2]) == 3").passed


def test_the_main_part_of_a_program_runs_only_without_tests(box):
    program = "def f(x): return x\nif __name__ == '__main__': print('main')"
    assert box.run(program).output == "main\n"
    assert box.run(program, "assert f(1) == 1").output == ""


def test_without_tests_a_program_passes_if_it_comes_to_its_end(box):
    assert box.run("x = 1").passed
    assert box.run("1 / 0") == Verdict("failed", "ZeroDivisionError: division by zero", box.run("1 / 0").seconds)


def test_chance_and_the_order_of_sets_are_the_same_every_time(box):
    program = "import random\nprint(random.random(), hash('x'), list({'a', 'b', 'c'}))"
    first = box.run(program).output
    with Sandbox() as other:
        assert other.run(program).output == first and other.run(program + "\n").output == first


# ---------------------------------------------------------------- many, and the trainer's side


def test_many_programs_are_judged_in_order(box):
    jobs = [Job(f"def f(x): return x + {i % 7}", "assert f(1) == 4") for i in range(40)]
    for workers in (1, 4, None):
        with Sandbox() as fresh:
            verdicts = fresh.run_many(jobs, workers)
            assert len(fresh._known) == 7 and len(fresh._idle) <= (workers or cores())
        assert [v.passed for v in verdicts] == [i % 7 == 3 for i in range(40)]
    assert [v.status for v in box.run_many([("x = 1",), ("x = 2", "assert x == 1", "x")])] == ["passed", "failed"]
    assert box.run_many([]) == []


def test_a_program_is_judged_once(box, monkeypatch):
    first = box.run("def f(x): return x  # once", "assert f(1) == 1")
    from palaestra.language.sandbox import sandbox

    monkeypatch.setattr(sandbox._Server, "judge", lambda *a: pytest.fail("judged again"))
    assert box.run("def f(x): return x  # once", "assert f(1) == 1") is first


def test_memory_of_verdicts_is_bounded():
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    with Sandbox(remember=3) as box:
        for i in range(6):
            box.run(f"x = {i}")
        assert len(box._known) == 3
    with Sandbox(remember=0) as box:
        box.run("x = 1")
        assert not box._known


@needs_namespaces
def test_outputs_that_are_remembered_are_bounded(monkeypatch):
    from palaestra.language.sandbox import sandbox

    monkeypatch.setattr(sandbox, "REMEMBERED", 250_000)
    with Sandbox() as box:
        verdicts = [box.run(f"print('x' * 100_000)  # {i}") for i in range(6)]
        assert all(len(verdict.output) == 1 << 16 for verdict in verdicts)
        assert sum(len(verdict.output) for verdict in box._known.values()) <= 250_000
        assert box.run("print('x' * 100_000)  # 5") is verdicts[5] and len(box._known) == 3


def test_closing_ends_every_process(box):
    with Sandbox() as fresh:
        fresh.run("x = 1")
        (pid,) = servers(fresh)
    assert not Path(f"/proc/{pid}").exists()
    assert fresh.run("x = 2").passed  # and another is started when needed
    fresh.close()


def test_a_server_that_is_killed_costs_one_verdict_and_no_more():
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    with Sandbox() as box:
        box.run("x = 1")
        (pid,) = servers(box)
        os.kill(pid, signal.SIGKILL)
        assert box.run("x = 2").status == "error"
        assert box.run("x = 2").passed  # an error is not remembered


@needs_namespaces
def test_programs_die_with_the_trainer(tmp_path):
    script = tmp_path / "trainer.py"
    script.write_text(
        "from palaestra.language.sandbox import Sandbox\nbox = Sandbox(seconds=100)\nbox.run('x = 1')\n"
        "print(box._idle[0].process.pid, flush=True)\nbox.run('import time; time.sleep(100)')\n"
    )
    trainer = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert trainer.stdout is not None
    server = int(trainer.stdout.readline())
    started = wait_for(lambda: len(found := beneath(server)) >= 3 and found)
    trainer.kill()
    trainer.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in {server, *started}))


@needs_namespaces
def test_a_fork_of_the_trainer_has_servers_of_its_own(box):
    assert box.run("x = 'parent'").passed
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if box.run("x = 'child'").passed and not box.run("1 / 0  # child").passed else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert box.run("x = 'parent again'").passed


@pytest.mark.parametrize(
    "wrong", [{"seconds": 0}, {"memory_mb": 1}, {"processes": -1}, {"disk_mb": 0}, {"remember": -1}]
)
def test_limits_that_make_no_sense_are_refused(wrong):
    with pytest.raises(BadSetting):
        Sandbox(**wrong)


# ---------------------------------------------------------------- where it can run


def standing_alone(tmp_path: Path) -> Path:
    """The sandbox without the rest of palaestra, where any user can read it."""
    base = Path("/tmp") / f"palaestra-{os.getpid()}-{tmp_path.name}"
    for name in ("palaestra/core", "palaestra/language"):
        (base / name).mkdir(parents=True)
        (base / name / "__init__.py").touch()
    (base / "palaestra" / "__init__.py").touch()
    for name in ("errors", "synonyms"):
        shutil.copy(ROOT / "palaestra" / "core" / f"{name}.py", base / "palaestra" / "core")
    shutil.copytree(ROOT / "palaestra" / "language" / "sandbox", base / "palaestra" / "language" / "sandbox")
    shutil.copy(ROOT / "tests" / "language" / "hostile.py", base)
    subprocess.run(["chmod", "-R", "a+rX", str(base)], check=True)
    return base


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.skipif(not os.access("/usr/bin/python3", os.X_OK), reason="a Python that every user can read is needed")
@needs_namespaces
def test_an_ordinary_user_has_the_same_sandbox_as_root(tmp_path):
    base = standing_alone(tmp_path)
    script = """
import os, sys
from hostile import HONEST, PROGRAMS, TESTS
from palaestra.language.sandbox import Sandbox
assert os.getuid() == 65534
canary = sys.argv[1] + "/canary"
with Sandbox(seconds=0.7, memory_mb=256) as box:
    assert any(box.run(HONEST + f"# {i}\\n", TESTS, "answer").passed for i in range(5))
    for name in (
        "reads the tests from the trainer's files", "forks ten thousand times", "becomes another user", "fills the disk",
        "makes namespaces of its own", "writes where it may not", "looks for the trainer in /proc and in its home",
        "reaches for other processes by ctypes", "opens connections", "mounts and leaves its root",
    ):
        verdict = box.run(PROGRAMS[name].format(canary=canary, port=1, pid=os.getpid(), abstract="x"), TESTS, "answer")
        assert verdict.status in ("failed", "timeout", "memory"), (name, verdict)
    print("contained")
"""
    try:
        (base / "canary").write_text("secret")
        done = subprocess.run(
            ["/usr/bin/python3", "-c", script, str(base)],
            env={"PYTHONPATH": str(base)},
            user=65534,
            group=65534,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=600,
        )
    finally:
        shutil.rmtree(base)
    if sys.version_info[:2] and "SyntaxError" in done.stderr:
        pytest.skip("the system's Python is older than palaestra's")
    assert done.stdout == "contained\n", done.stderr


@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is needed to take namespaces away")
@pytest.mark.parametrize(
    "which", ["max_user_namespaces", "max_mnt_namespaces", "max_pid_namespaces", "max_net_namespaces"]
)
@needs_namespaces
def test_where_namespaces_are_missing_it_refuses(which, tmp_path):
    script = (
        "from palaestra.language.sandbox import Sandbox\nfrom palaestra.core.errors import Untrusted\n"
        "try:\n    print(Sandbox().run('x = 1'))\nexcept Untrusted as error:\n    print('refused:', error)\n"
        "print(Sandbox(unsafe=True).run('x = 1').status)"
    )
    shell = f'echo 0 > /proc/sys/user/{which} && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "-r", "sh", "-c", shell, sys.executable, script],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=600,
    )
    assert re.match(r"refused: .*(No space left on device|ENOSPC).*unsafe=True.*\npassed\n", done.stdout), done


def test_without_isolation_it_runs_only_for_who_asks(monkeypatch):
    with Sandbox(unsafe=True, seconds=4) as box:
        assert box.run(HONEST, TESTS, "answer").passed
        assert box.run("def answer(x): return 0", TESTS, "answer").status == "failed"
        assert box.run("while True: pass").status == "timeout"
        assert box.run(PROGRAMS["answers with what equals everything"].format(), TESTS, "answer").status == "failed"
        assert box.run(PROGRAMS["forks on past its own end"].format(), TESTS, "answer").status == "failed"
        wait_for(lambda: not set().union(*map(beneath, servers(box))))


def test_the_filter_knows_the_kernels_numbers():
    """By the kernel's own headers, where they are installed."""
    headers = (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm-generic/unistd.h"))
    if not all(path.exists() for path in headers):
        pytest.skip("the kernel's headers are not installed")
    named = {
        "socket": isolation.SOCKET,
        "mmap": isolation.MMAP,
        "clone": isolation.CLONE,
        "clone3": isolation.CLONE3,
        **isolation.SYSTEM_CALLS,
    }
    for column, path in enumerate(headers):
        numbers = dict(re.findall(r"^#define __NR(?:3264)?_(\w+) (\d+)", path.read_text(), flags=re.MULTILINE))
        for name, ours in named.items():
            assert int(numbers.get(name, ours[column])) == ours[column], name
