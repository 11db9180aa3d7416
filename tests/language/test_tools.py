"""Functions and environments as tools: what a model is told of them, and what it is answered when it calls."""

from __future__ import annotations

import copy
import json
import os
import pickle
import sys
import threading
import time

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting, PalaestraError
from palaestra.core.method import Budget
from palaestra.language.policy import LanguagePolicy
from palaestra.language.soups import loss_of
from palaestra.language.tokenisers import word_tokeniser
from palaestra.language.tools import LONGEST, Tools
from palaestra.methods.preference.dpo import DPO
from palaestra.methods.preference.leftover import states_of
from palaestra.methods.preference.pool import numbered


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: One of them.
        b: The other.
    """
    return a + b


async def add_later(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: One of them.
        b: The other.
    """
    return a + b


def broken(a: int) -> str:
    """Fail.

    Args:
        a: Whatever.
    """
    raise ValueError(f"no {a} today")


def lookup(key: str) -> str:
    """Find something.

    Args:
        key: What.
    """
    return {"known": "x" * 2 * LONGEST}[key]


def sums(a: int) -> int:
    """Add nothing.

    Args:
        a: Whatever.
    """
    return a + None


def odd(a: int) -> dict:
    """Give what is no JSON.

    Args:
        a: Whatever.
    """
    return {(a, a): 1}


def endless() -> int:
    """Count for ever."""
    n = 0
    while True:
        n += 1


def silent(a):
    return a


class Counter:
    """Counts from where its row says."""

    def reset(self, start: int, **row):
        self.count = start

    def up(self, by: int) -> dict:
        """Count up.

        Args:
            by: How far.
        """
        self.count += by
        return {"count": self.count}

    def _hidden(self):
        pass

    def get_reward(self) -> float:
        return 1.0


class Later(Counter):
    """The same, which takes its time to begin."""

    async def reset(self, start: int, **row):
        self.count = start


def call(name: str, **arguments: object) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def test_a_call_is_answered_with_the_result():
    reply = Tools([add]).environment({})
    assert reply(f"let me see {call('add', a=2, b=3)}") == [{"role": "tool", "name": "add", "content": "5"}]


def test_several_calls_in_a_turn_are_answered_in_their_order():
    said = Tools([add]).environment({})(call("add", a=2, b=3) + call("add", a=1, b=1))
    assert [m["content"] for m in said] == ["5", "2"]


def test_a_turn_without_calls_is_the_last():
    assert Tools([add]).environment({})("5") is None


def test_calls_are_answered_only_so_often():
    reply = Tools([add], turns=2).environment({})
    assert [reply(call("add", a=1, b=1)) is None for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("{not json", "in JSON"),
        ('{"arguments": {}}', "'name'"),
        ("[1]", "in JSON"),
        ('{"name": "sub"}', "no tool 'sub'; there are add, broken"),
        ('{"name": "add", "arguments": {"a": 1}}', "'b'"),
        ('{"name": "add", "arguments": {"a": 1, "b": 2, "c": 3}}', "'c'"),
        ('{"name": "add", "arguments": [1, 2]}', "arguments"),
        ('{"name": "broken", "arguments": {"a": 3}}', "no 3 today"),
    ],
)
def test_a_call_that_cannot_be_carried_out_is_told_why(asked, says):
    [said] = Tools([add, broken]).environment({})(f"<tool_call>{asked}</tool_call>")
    assert said["role"] == "tool"
    assert said["content"].startswith("error: ")
    assert says in said["content"]


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        (lookup, {"key": "x"}, "error: lookup raised KeyError: 'x'"),
        (sums, {"a": 1}, "error: sums raised TypeError: unsupported operand"),
        (broken, {"a": 3}, "error: broken raised ValueError: no 3 today"),
        (odd, {"a": 3}, "error: odd raised TypeError: keys must be"),
    ],
)
def test_an_error_of_a_tool_s_own_has_its_name_and_is_no_fault_of_the_call(tool, arguments, says):
    [said] = Tools([tool]).environment({})(call(tool.__name__, **arguments))
    assert said["content"].startswith(says)


def test_a_tool_that_hangs_is_left_behind_and_the_others_go_on():
    reply = Tools([endless, add], timeout=2.0).environment({})
    began = time.monotonic()
    said = reply(call("endless") + call("add", a=2, b=3))
    assert [m["content"] for m in said] == ["error: endless took longer than 2.0 seconds", "5"]
    assert time.monotonic() - began < 30


def test_without_a_limit_tools_run_where_they_are_called():
    def where() -> str:
        """Where this is."""
        return threading.current_thread().name

    places = [Tools([where], timeout=t).environment({})(call("where"))[0]["content"] for t in (None, 60.0)]
    assert (places[0] == threading.current_thread().name) and places[0] != places[1]


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_what_a_tool_gives_to_be_awaited_is_awaited(timeout):
    [said] = Tools([add_later], timeout=timeout).environment({})(call("add_later", a=2, b=3))
    assert said["content"] == "5"


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_an_environment_that_is_reset_later_is_awaited(timeout):
    [said] = Tools([Later], timeout=timeout).environment({"start": 5})(call("up", by=1))
    assert said["content"] == '{"count": 6}'
    with pytest.raises(PalaestraError, match=r"environment Later raised TypeError: .*'start'.* as it began"):
        Tools([Later], timeout=timeout).environment({"prompt": "?"})


def test_tools_leave_no_thread_behind_that_nobody_has_called():
    before = set(threading.enumerate())
    tools = Tools([Counter])
    for thread in set(threading.enumerate()) - before:
        thread.join(10)  # which would wait for calls
    assert set(threading.enumerate()) <= before and tools.descriptions


def test_a_fork_calls_tools_in_a_thread_of_its_own():
    tools = Tools([Counter], timeout=60.0)
    assert "1" in tools.environment({"start": 0})(call("up", by=1))[0]["content"]  # and the thread waits for more
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(write, tools.environment({"start": 2})(call("up", by=1))[0]["content"].encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read) as said:
        assert said.read() == '{"count": 3}'


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda tools: pickle.loads(pickle.dumps(tools))])
def test_tools_that_were_called_are_copied(copied):
    tools = Tools([Counter])
    tools.environment({"start": 0})(call("up", by=1))
    assert "3" in copied(tools).environment({"start": 2})(call("up", by=1))[0]["content"]


def test_a_long_result_is_cut_and_says_so():
    [said] = Tools([lookup]).environment({})(call("lookup", key="known"))
    assert said["content"] == f"{'x' * LONGEST}… (the first {LONGEST} of {2 * LONGEST} characters)"


def test_a_result_is_text_that_a_tokeniser_can_read():
    """JSON names halves of characters, which a model may have written."""

    def echo(text: str) -> str:
        """Say it again.

        Args:
            text: What.
        """
        return text

    [said] = Tools([echo]).environment({})(call("echo", text="a\ud800b"))
    assert said["content"] == "a?b"


def test_an_environment_that_cannot_begin_is_named():
    with pytest.raises(PalaestraError, match=r"environment Counter raised TypeError: .*'start'.* as it began"):
        Tools([Counter]).environment({"prompt": "?"})


def test_descriptions_are_json_schemas_of_functions_and_of_an_environment_s_methods():
    found = Tools([add, Counter]).descriptions
    assert [d["function"]["name"] for d in found] == ["add", "up"]
    assert found[0]["function"]["parameters"]["required"] == ["a", "b"]
    assert json.loads(json.dumps(found)) == found


def test_every_answer_has_an_environment_of_its_own_that_begins_with_its_row():
    tools = Tools([Counter])
    one, other = tools.environment({"start": 5, "prompt": "?"}), tools.environment({"start": 7})
    assert json.loads(one(call("up", by=1))[0]["content"]) == {"count": 6}
    assert json.loads(other(call("up", by=1))[0]["content"]) == {"count": 8}
    assert json.loads(one(call("up", by=1))[0]["content"]) == {"count": 7}


@pytest.mark.parametrize(
    ("tools", "says"), [([silent], "tool silent does not say"), ([], "no tools"), ([add, add], "one name")]
)
def test_what_is_no_tool_is_refused(tools, says):
    with pytest.raises(BadSetting, match=says):
        Tools(tools)


# In a task.

ASKED = [{"role": "user", "content": "3?"}]
TEMPLATE = (
    "{% if tools %}[{% for t in tools %}{{ t['function']['name'] }}{% endfor %}]{% endif %}"
    "{% for m in messages %}{{ '(' + m['role'] + ')' + m['content'] + '<eos>' }}{% endfor %}"
    "{% if add_generation_prompt %}(assistant){% endif %}"
)
CALL = call("add", a=2, b=3)


def model(folder):
    """A folder of a tiny model that knows its template, and has one word for a call."""

    class Task(pal.TextTask):
        def tokeniser(self):
            made = word_tokeniser([*"0123456789?[]", "(user)", "(assistant)", "(tool)", "palaestra", "add", CALL])
            made.chat_template = TEMPLATE
            return made

    torch.manual_seed(0)
    return str(LanguagePolicy.make("tiny-16x1", Task()).save(folder))


def fives(completions, **columns):
    assert all(m["role"] in ("assistant", "tool") for messages in completions for m in messages)
    assert "tools" not in columns
    return [float(sum(m["role"] == "tool" and m["content"] == "5" for m in messages)) for messages in completions]


def test_a_task_with_tools_is_learnt_from(tmp_path):
    task = pal.PromptTask(
        [{"prompt": ASKED}] * 4, fives, tools=[add], turns=2, limit=24, held_out=0, stops=("</tool_call>",)
    )
    method = pal.GRPO(model=model(tmp_path / "model"), prompts=4, group=16, lr=1e-2)
    run = pal.train(method, task, updates=12, out=tmp_path / "run", quiet=True)
    rewards = [row["reward/mean"] for row in run.metrics if "reward/mean" in row]
    assert rewards[-1] > rewards[0]
    answer = run.policy.answer(task.rows("train")[:1], max_tokens=24, environment=task.environment, stop=task.stop)[0]
    prompt = [run.policy.tokeniser.decode([i]) for i in answer.ids[: answer.prompt].tolist()]
    assert prompt[:3] == ["[", "add", "]"]


def test_rows_own_answers_are_learnt_from_behind_prompts_that_describe_the_tools(tmp_path):
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in "57")
    rows = [{"prompt": ASKED, "chosen": chosen, "rejected": rejected}] * 4
    task = pal.PromptTask(rows, fives, tools=[add], limit=8, held_out=0)
    method = DPO(model=model(tmp_path / "model"), prompts=2).bind(task, 0, Budget(updates=2))
    policy, (row, *_) = method.language_policy, task.rows("train")
    asked = policy.asked(row)[0]
    for part in method.pool.answers(0):
        assert part.action[: len(asked)].tolist() == asked.tolist() and int(part.mask.sum()) == 2
    states, _ = states_of(policy, [row])
    assert states.shape[1] == len(asked)
    best, _ = numbered([method.pool.answers(0)])
    loss = -float(policy.logps([best])[0].sum()) / 2
    assert loss_of(policy, [{**row, "completion": "5"}]) == pytest.approx(loss, abs=1e-5)


def test_tools_need_prompts_in_messages():
    with pytest.raises(BadSetting, match="prompts in messages"):
        pal.PromptTask([{"prompt": "3?"}], fives, tools=[add], held_out=0)


def test_tools_of_a_file_are_named_and_come_back_with_the_run(tmp_path, monkeypatch):
    file = tmp_path / "own.py"
    file.write_text(
        'def add(a: int, b: int) -> int:\n    """Add.\n\n    Args:\n        a: One.\n        b: Other.\n    """\n'
        "    return a + b\n\n\ndef score(completions, **_):\n    return [0.0] * len(completions)\n"
    )
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": ASKED}) + "\n")
    task = pal.PromptTask(str(tmp_path / "rows.jsonl"), f"{file}:score", tools=f"{file}:add", held_out=0)
    kept = task.describe()["kwargs"]
    assert kept["tools"] == f"{file}:add"
    again = pal.PromptTask(**kept)
    assert again.toolbox.descriptions == task.toolbox.descriptions
    from palaestra.runs.trust import named_code

    assert f"{file}:add" in named_code({"task": {"spec": "prompts", "kwargs": {"tools": f"{file}:add"}}})
    made = pal.PromptTask([{"prompt": ASKED}], fives, tools=[add], held_out=0).describe()["kwargs"]["tools"]
    assert made == f"{sys.modules[__name__].__name__}:add"
