"""Unit tests as a reward function: which program an answer gives, and what it earns."""

from __future__ import annotations

import time

import pytest

from palaestra.core.errors import Untrusted
from palaestra.language.judges.judge import Judge
from palaestra.language.sandbox import Sandbox
from palaestra.language.verifiers.unit_tests import UnitTests, code_in, program_in, unit_test_reward
from tests.language.judges.samples import answers

TEST = "assert f(1) == 2"
RIGHT, WRONG = "def f(x):\n    return x + 1\n", "def f(x):\n    return x\n"


@pytest.fixture(scope="module")
def reward():
    reward = UnitTests(Sandbox(seconds=5))
    try:
        reward.sandbox.run("pass")
    except Untrusted as error:
        pytest.skip(str(error))
    yield reward
    reward.close()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("x = 1\n", "x = 1\n"),
        ("Here it is:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```py\nx = 1", "x = 1"),
        ("~~~python3 title\nx = 1\n~~~", "x = 1\n"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
        ("```bash\npip install x\n```\n```python\nx = 1\n```", "x = 1\n"),
        ("```bash\nls\n```", "```bash\nls\n```"),
        ("```python\nx = 1\n```\nbetter:\n```python\nx = 2\n```", "x = 2\n"),
        ("```python\ndef f(): pass\n```\nuse:\n```python\nf()\n```", "def f(): pass\n"),
        ("```python\nf = abs\n```\nuse:\n```python\nprint(f(1))\n```", "f = abs\n"),
        ("<think>```python\ndef f(): bad\n```</think>```python\nx = 1\n```", "x = 1\n"),
        ("  ```python\n  x = 1\n  ```", "  x = 1\n"),
        ("```python\r\nx = 1\r\n```", "x = 1\n"),
        ("", ""),
    ],
)
def test_the_program_of_an_answer_is_found(answer, code):
    assert code_in(answer, ["f"]) == code


def test_an_answer_goes_on_from_the_prompt_unless_it_begins_anew():
    head = 'import math\n\ndef f(x):\n    """Doc."""\n'
    assert program_in("    return x", head, "f") == head + "    return x"
    assert program_in("```python\n    return x\n```", head, "f") == head + "    return x\n"
    assert program_in("```python\ndef f(x):\n    return x\n```", head, ["f"]) == head + "\ndef f(x):\n    return x\n"
    assert program_in("    def f(x): return 1\n    return f(x)", head, "f").startswith(head + "    def")
    assert program_in("def g(x): return 1", "", "f") == "def g(x): return 1"


def test_an_answer_earns_one_if_it_passes_and_nothing_else(reward):
    texts = [RIGHT, f"```python\n{WRONG}```", "I do not know.", "while True: pass", "import os\nos._exit(0)"]
    fast = UnitTests(Sandbox(seconds=3))
    assert fast(texts, tests=[TEST] * 5) == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert fast.counts == {"passed": 1, "failed": 2, "unparseable": 1, "timeout": 1}
    fast.close()


def test_tests_that_are_at_fault_are_no_failure_of_the_answer(reward):
    assert reward([RIGHT, RIGHT], tests=["assert f(1) = 2", [TEST, "assert f(2) == 3"]]) == [None, 1.0]


def test_messages_and_columns_come_as_trl_gives_them(reward):
    prompts = [[{"role": "user", "content": "f?"}]] * 2
    completions = [[{"role": "assistant", "content": code}] for code in (RIGHT, WRONG)]
    given = {"prompts": prompts, "completions": completions, "completion_ids": [[1], [2]]}
    logged = {}
    assert reward(**given, tests=[TEST] * 2, log_metric=logged.__setitem__, level=[1, 2]) == [1.0, 0.0]
    others = {f"programs/{status}": 0.0 for status in ("unparseable", "timeout", "memory", "error")}
    assert logged == {"programs/passed": 0.5, "programs/failed": 0.5, **others}


def test_only_the_entry_point_is_seen_by_the_tests(reward):
    cheat = "def f(x): return 0\ndef right(x): return 0\n"
    tests = "def right(x): return x + 1\nassert f(1) == right(1)"
    assert reward([cheat, RIGHT], tests=[tests] * 2, entry_point=["f", ["f"]]) == [0.0, 1.0]


def test_a_prefix_is_part_of_the_program(reward):
    head = "def f(x):\n"
    assert reward(["    return x + 1", "    return x"], tests=[TEST] * 2, entry_point=["f"] * 2, prefix=[head] * 2) == [
        1.0,
        0.0,
    ]
    assert reward(["    return x + 1"], tests=[TEST], prefix=[None]) == [0.0]


def test_no_answers_are_no_work(reward):
    assert reward([], tests=[]) == []


def test_a_judge_takes_it_by_its_name(reward):
    with Judge([reward, unit_test_reward], timeout=None) as judge:
        scores = judge(answers(RIGHT, WRONG, tests=TEST))
    assert list(scores.parts) == ["unit_tests", "unit_test_reward"]
    assert scores.total.tolist() == [2.0, 0.0]


@pytest.mark.parametrize("text", ["`" * 300_000, "~" * 300_000, "```" + "a" * 300_000, " " * 300_000 + "`" * 300_000])
def test_an_endless_fence_is_read_at_once(text):
    began = time.process_time()
    assert code_in(text) == text
    assert time.process_time() - began < 20


@pytest.mark.parametrize("tests", [None, "", [], ["", "  # none"]])
def test_a_row_without_tests_scores_nothing(tests, reward):
    assert reward([RIGHT], tests=[tests], entry_point=["f"]) == [None]
