"""Reward functions: trl's call convention, and whatever a function may do wrong."""

from __future__ import annotations

import asyncio
import gc
import math
import re
import sys
import threading
import time
import warnings
from functools import partial

import numpy as np
import pytest
import torch

from palaestra.core.errors import BadSetting, PalaestraError, UnknownName
from palaestra.language.judges import calls
from palaestra.language.judges.judge import Judge, RewardFailed, shown
from palaestra.language.judges.scores import Scores
from tests.language.judges.samples import answer, answers

THREE = answers("a", "bb", "ccc")


def length(completions, **kwargs):
    return [float(len(text)) for text in completions]


def ask(rewards, samples=THREE, **options) -> Scores:
    with Judge(rewards, **options) as judge:
        return judge(samples)


# What functions are given, and what they may give back.


def test_a_function_is_called_with_keywords_as_trl_calls_it():
    seen = {}

    def reward(**given):
        seen.update(given)
        return [0, 1]

    cut = answer("yz", prompt="q", goal=2, truncated=False)
    cut.truncated = True
    ask(reward, [answer("x", prompt="p", goal=1, truncated=True), cut])  # whose own answers were cut off or not
    assert seen["prompts"] == ["p", "q"] and seen["completions"] == ["x", "yz"]
    assert seen["completion_ids"] == [[2], [2, 3]] and seen["goal"] == [1, 2]
    assert seen["truncated"] == [False, True]
    assert seen["trainer_state"].global_step == 0 and "prompt" not in seen


def test_the_answer_to_messages_is_a_message():
    prompt = [{"role": "user", "content": "hello"}]

    def reward(prompts, completions, **kwargs):
        assert prompts == [prompt]
        return [float(completions[0] == [{"role": "assistant", "content": "hi"}])]

    assert ask(reward, [answer("hi", prompt=prompt)]).total.tolist() == [1.0]


def test_the_known_good_answer_is_not_given_and_columns_come_only_where_all_rows_have_them():
    def reward(completions, both=None, one=None, completion=None):
        assert both == [1, 2] and one is None and completion is None
        return [0.0] * len(completions)

    rows = [answer("x", both=1, one=1, completion="good"), answer("y", both=2, completion="good")]
    assert ask(reward, rows).total.tolist() == [0.0, 0.0]


def test_functions_without_kwargs_get_what_they_name():
    assert ask(lambda completion_ids: [len(ids) for ids in completion_ids]).total.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_function_that_needs_a_column_that_is_not_there_is_refused_however_errors_are_taken(on_error):
    for grade in (lambda completions, solution: [], lambda completions, solution, **kwargs: []):
        with pytest.raises(RewardFailed, match=r"function grade takes solution, .* \(the first has prompt, answer\)"):
            ask({"grade": grade}, answers("x", answer="3"), on_error=on_error)


@pytest.mark.parametrize(
    "returned",
    [[1, 2, 3], (1.0, 2.0, 3.0), np.array([1, 2, 3]), torch.tensor([1.0, 2, 3]), [np.float32(1), torch.tensor(2), 3]],
)
def test_numbers_may_come_in_any_sequence(returned):
    assert ask(lambda **_: returned).total.tolist() == [1.0, 2.0, 3.0]


def test_truth_is_1_and_falsehood_0():
    assert ask(lambda **_: [True, False, np.bool_(True)]).total.tolist() == [1.0, 0.0, 1.0]


def test_parts_are_summed_by_weight_and_none_is_left_out_of_the_sum():
    scores = ask({"a": lambda **_: [1, None, None], "b": lambda **_: [10, 20, None]}, weights={"b": 0.5})
    assert scores.total[:2].tolist() == [6.0, 10.0] and scores.total[2].isnan()
    assert scores.parts["a"][0] == 1 and scores.parts["a"][1:].isnan().all()
    assert scores.failures == {}


def test_functions_of_one_name_are_numbered_and_partials_have_their_functions_name():
    judge = Judge([length, partial(length), lambda **_: []], weights=[1, 2, 3])
    assert judge.weights == {"length": 1.0, "length_2": 2.0, "reward": 3.0}


def test_nothing_to_judge_is_no_call():
    scores = ask(lambda **_: 1 / 0, [])
    assert len(scores.total) == 0 and scores.parts["reward"].shape == (0,)


def test_judges_count_what_they_have_scored():
    with Judge([length, length]) as judge:
        judge(THREE)
        judge(THREE[:2])
    assert judge.calls == 5


def test_what_functions_log_is_kept():
    def reward(completions, log_extra, log_metric, **kwargs):
        log_extra("first", [text[0] for text in completions])
        log_extra("odd", ["one"])
        log_metric("parsed", 1.0)
        log_metric("parsed", 0.0)
        return [0.0] * len(completions)

    scores = ask(reward)
    assert scores.extra == {"first": ["a", "b", "c"]} and scores.metrics == {"parsed": 0.5}


def test_no_graph_is_built_for_rewards():
    weight = torch.ones(3, requires_grad=True)
    for timeout in (60.0, None):
        assert not ask(lambda **_: [float((weight * 2).requires_grad)] * 3, timeout=timeout).total.any()


def test_a_function_that_changes_what_it_is_given_changes_no_row_and_no_answer():
    prompt, seen = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}], []
    samples = [answer(text, prompt=prompt, tests=["a", {"b": [1]}]) for text in ("x", "y")]

    def careless(prompts, completions, tests, **kwargs):
        for asked, said, lines in zip(prompts, completions, tests):
            asked.append(said[0])
            asked[0]["content"][0]["text"] = said[0]["content"] = "overwritten"
            lines.pop()["b"].clear()
        return [0, 0]

    def after(prompts, completions, tests, **kwargs):
        seen.append((prompts, completions, tests))
        return [0, 0]

    ask([careless, after], samples)
    assert seen == [
        ([prompt] * 2, [[{"role": "assistant", "content": text}] for text in ("x", "y")], [["a", {"b": [1]}]] * 2)
    ]
    assert prompt == [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    assert all(sample.row["tests"] == ["a", {"b": [1]}] for sample in samples)


def test_functions_do_not_see_each_others_changes_to_the_lists():
    def vandal(completions, **kwargs):
        completions.clear()
        return [0, 0, 0]

    assert ask([vandal, length]).total.tolist() == [1.0, 2.0, 3.0]


# Functions of the kinds that trl ships, written here in its signature.


def tagged(completions: list[list[dict[str, str]]], **kwargs) -> list[float]:
    texts = [completion[0]["content"] for completion in completions]
    return [1.0 if re.match(r"^<think>.*</think>", text, re.DOTALL) else 0.0 for text in texts]


def accurate(completions, solution: list[str], log_extra=None, **kwargs) -> list[float | None]:
    texts = [completion[0]["content"] for completion in completions]
    if log_extra is not None:
        log_extra("solution", list(solution))
    return [None if gold == "?" else float(text.endswith(gold)) for text, gold in zip(texts, solution, strict=True)]


class Overlong:
    __name__ = "overlong"

    def __init__(self, most: int, margin: int):
        self.most, self.margin = most, margin

    def __call__(self, completion_ids: list[list[int]], **kwargs) -> list[float]:
        return [-min(1.0, max(0.0, (len(ids) - self.most + self.margin) / self.margin)) for ids in completion_ids]


def test_reward_functions_of_trls_kinds_run_unchanged():
    prompt = [{"role": "user", "content": "1 + 1"}]
    samples = [
        answer("<think>.</think>2", prompt, solution="2", ids=100),
        answer("3", prompt, solution="2", ids=90),
        answer("2", prompt, solution="?", ids=1),
    ]
    scores = ask([tagged, accurate, Overlong(100, 20)], samples)
    assert {name: part.tolist()[:2] for name, part in scores.parts.items()} == {
        "tagged": [1.0, 0.0],
        "accurate": [1.0, 0.0],
        "overlong": [-1.0, -0.5],
    }
    assert scores.total.tolist() == [1.0, -0.5, 0.0] and scores.parts["accurate"][2].isnan()
    assert scores.extra == {"solution": ["2", "2", "?"]}


# Asynchronous functions.


async def slowly(completions, **kwargs):
    await asyncio.sleep(0.2)
    return [float(len(text)) for text in completions]


class Slowly:
    async def __call__(self, completions, **kwargs):
        return await slowly(completions)


@pytest.mark.parametrize("timeout", [60.0, None])
@pytest.mark.parametrize("reward", [slowly, partial(slowly), Slowly(), lambda completions: slowly(completions)])
def test_asynchronous_functions_are_awaited(reward, timeout):
    assert ask(reward, timeout=timeout).total.tolist() == [1.0, 2.0, 3.0]


def test_asynchronous_functions_run_side_by_side():
    here = 0

    async def waits_for_all(completions, **kwargs):
        nonlocal here
        here += 1
        while here < 5:
            await asyncio.sleep(0.01)
        return [1.0] * len(completions)

    assert ask([waits_for_all] * 5, timeout=60.0).total.tolist() == [5.0, 5.0, 5.0]


def test_one_event_loop_serves_a_judge_so_that_connections_can_be_kept():
    loops = []

    async def reward(completions, **kwargs):
        loops.append(asyncio.get_running_loop())
        return [0.0] * len(completions)

    with Judge([reward, reward]) as judge:
        judge(THREE)
        judge(THREE)
    assert len(set(map(id, loops))) == 1


def test_one_asynchronous_function_that_is_late_does_not_cost_another_its_answers():
    async def never(**kwargs):
        await asyncio.sleep(60)

    with pytest.warns(UserWarning, match=r"never took longer than 3\.0 seconds"):
        scores = ask([slowly, never], timeout=3.0, on_error="skip")
    assert scores.parts["slowly"].tolist() == [1.0, 2.0, 3.0] and scores.parts["never"].isnan().all()


def test_one_that_holds_the_loop_is_left_behind(monkeypatch):
    monkeypatch.setattr(calls, "ENDING", 0.1)

    async def holds(**kwargs):
        time.sleep(1)

    with pytest.raises(RewardFailed, match=r"holds took longer than 0\.1 seconds"):
        ask(holds, timeout=0.1)


# Whatever else a function may do.


def raises(completions, **kwargs):
    raise ValueError("no\x1b[31m such key")


def exits(**kwargs):
    sys.exit(3)


def hangs(**kwargs):
    while True:
        pass


def waits(**kwargs):
    time.sleep(4)


async def fails_later(**kwargs):
    await asyncio.sleep(0)
    raise ValueError("later")


async def exits_later(**kwargs):
    await asyncio.sleep(0)
    sys.exit(3)


async def never(**kwargs):
    await asyncio.sleep(60)


class Mute(Exception):
    def __str__(self):
        return self.missing


def mumbles(**kwargs):
    raise Mute


WRONG = {
    "raises": (raises, r"raises raised ValueError .*no\[31m such key.* in test_judge.py:\d+"),
    "exits": (exits, "exits raised SystemExit '3'"),
    "hangs": (hangs, "hangs took longer than 1.0 seconds; return sooner"),
    "waits": (waits, "waits took longer than 1.0 seconds"),
    "raises what cannot be shown": (mumbles, r"mumbles raised Mute '' in test_judge.py:\d+"),
    "raises later": (fails_later, "raised ValueError 'later'"),
    "exits later": (exits_later, "raised SystemExit '3'"),
    "never awakes": (never, "never took longer than 1.0 seconds"),
    "too few": (lambda **_: [1.0, 2.0], "returned 2 numbers for 3 answers; return a list with one number"),
    "too many": (lambda **_: [1.0] * 4, "returned 4 numbers for 3 answers"),
    "a number": (lambda **_: 0.5, r"returned a float \('0.5'\); return a list"),
    "text": (lambda **_: "abc", r"returned a str \('abc'\);"),
    "nothing": (lambda **_: None, "returned a NoneType"),
    "a mapping": (lambda **_: {0: 1, 1: 1, 2: 1}, "returned a dict"),
    "a generator": (lambda completions: (1.0 for _ in completions), "returned a generator"),
    "a number of thousands of digits": (lambda **_: 10**5000, "returned an int; return a list"),
    "a sparse tensor": (lambda **_: torch.ones(3).to_sparse(), "returned a Tensor; return a list"),
    "a tensor without data": (lambda **_: torch.empty(3, device="meta"), "returned a Tensor; return a list"),
    "a scalar tensor": (lambda **_: torch.tensor(1.0), "returned a float"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_function_that_fails_on_the_whole_batch_stops_the_run_with_one_line_that_names_it(kind):
    function, said = WRONG[kind]
    with pytest.raises(RewardFailed, match=said) as caught:
        ask(function, timeout=1.0)
    message = str(caught.value)
    assert isinstance(caught.value, PalaestraError) and "\n" not in message and "\x1b" not in message
    assert "Example: prompt 'a question', answer 'a'" in message


@pytest.mark.parametrize("kind", WRONG)
def test_or_is_skipped_and_counted(kind):
    function, _ = WRONG[kind]
    with Judge({"bad": function, "good": length}, timeout=1.0, on_error="skip") as judge:
        with pytest.warns(UserWarning, match="without a score: the reward function bad"):
            scores = judge(THREE)
        assert scores.total.isnan().all() and scores.parts["bad"].isnan().all()
        assert scores.parts["good"].tolist() == [1.0, 2.0, 3.0]
        assert scores.failures == {"bad": 3} and judge.failures == {"bad": 3, "good": 0}


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        1e39,
        10**400,
        "1",
        [1.0],
        {},
        1j,
        torch.ones(2),
        torch.empty((), device="meta"),
        object,
    ],
)
def test_one_wrong_value_costs_that_answer_only(value):
    returned = [1.0, value, 3.0]
    with pytest.raises(RewardFailed, match=r"for answer 2 of 3; .* answer 'bb'"):
        ask(lambda **_: returned)
    with pytest.warns(UserWarning, match="without a score"):
        scores = ask(lambda **_: returned, on_error="skip")
    assert scores.total[[0, 2]].tolist() == [1.0, 3.0] and scores.total[1].isnan()
    assert scores.failures == {"reward": 1}


@pytest.mark.parametrize(
    ("large", "weights"), [(3e38, None), (-3e38, None), (1.0, {"large": 3e38, "small": 1.0}), (3e38, [10.0, 1.0])]
)
def test_a_total_beyond_single_precision_costs_that_answer_only_and_counts_against_its_largest_part(large, weights):
    sign = math.copysign(1.0, large)
    rewards = {"large": lambda **_: [0.0, large, None], "small": lambda **_: [1.0, sign * 2e38, 3.0]}
    said = r"the reward function large returned .* for answer 2 of 3, .*total of -?\d.*e\+3.* answer 'bb'"
    with pytest.raises(RewardFailed, match=said):
        ask(rewards, weights=weights)
    with Judge(rewards, weights, on_error="skip") as judge:
        with pytest.warns(UserWarning, match=said):
            scores = judge(THREE)
        assert scores.total[[0, 2]].tolist() == [1.0, 3.0] and scores.total[1].isnan()
        assert scores.failures == {"large": 1} and judge.failures == {"large": 1, "small": 0}
        assert scores.parts["large"][1].isnan() and scores.parts["small"][1] == sign * torch.tensor(2e38)


def brittle(completions, **kwargs):
    return [1 / (len(text) - 2) for text in completions]


def test_of_a_function_that_raises_the_example_is_an_answer_on_which_it_does():
    with pytest.raises(RewardFailed, match=r"brittle raised ZeroDivisionError .* answer 'bb'"):
        ask(brittle)


def test_an_answer_that_cannot_be_scored_costs_its_own_group_only():
    samples = [answer(text, group=group) for text, group in (("a", 0), ("bb", 0), ("ccc", 1), ("dddd", 1))]
    with pytest.warns(UserWarning, match="answer 'a'"):
        scores = ask(brittle, samples, on_error="skip")
    assert scores.total[:2].isnan().all() and scores.total[2:].tolist() == [1.0, 0.5]
    assert scores.failures == {"brittle": 2}


def test_groups_are_still_asked_about_after_one_with_a_wrong_number_but_not_after_one_that_hangs():
    def moody(completions, **kwargs):
        if len(completions) > 1:
            raise ValueError("one at a time")
        return hangs() if completions == ["hang"] else [float(completions[0])]

    with pytest.warns(UserWarning, match="returned nan"):
        scores = ask(moody, answers("1", "nan", "3", "hang", "5"), on_error="skip", timeout=2.0)
    assert scores.total[[0, 2]].tolist() == [1.0, 3.0] and scores.total[[1, 3, 4]].isnan().all()
    assert scores.failures == {"moody": 3}


def test_the_example_is_found_in_few_calls():
    asked = []

    def reward(completions, **kwargs):
        asked.append(len(completions))
        return [1 / (text != "bad") for text in completions]

    with pytest.raises(RewardFailed, match="answer 'bad'"):
        ask(reward, answers(*["good"] * 40, "bad", *["good"] * 23))
    assert asked == [64, 32, 16, 8, 4, 2, 1]


def test_a_function_that_is_skipped_warns_once():
    with Judge(raises, on_error="skip") as judge:
        with pytest.warns(UserWarning, match="without a score"):
            judge(THREE)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            judge(THREE)
    assert judge.failures == {"raises": 6}


def test_an_endless_loop_is_ended_and_the_next_call_is_served():
    def sometimes(completions, **kwargs):
        return hangs() if "bad" in completions else length(completions)

    with Judge(sometimes, timeout=2.0, on_error="skip") as judge:
        with pytest.warns(UserWarning, match="without a score"):
            judge(answers("bad"))
        assert judge(THREE).total.tolist() == [1.0, 2.0, 3.0]
    deadline = time.monotonic() + 60
    while any(thread.name == "palaestra-judge" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.name == "palaestra-judge" for thread in threading.enumerate())


def test_functions_that_cannot_be_ended_are_not_called_without_end():
    free = threading.Event()
    began = []

    def waits(**kwargs):
        began.append(1)
        free.wait()

    with Judge(waits, timeout=0.3, on_error="skip") as judge, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(calls.MOST_LEFT + 3):
            judge(THREE)
        assert len(began) == calls.MOST_LEFT and judge.failures["waits"] == 3 * (calls.MOST_LEFT + 3)
        free.set()


def test_without_a_time_limit_functions_are_called_where_signals_can_be_set():
    def reward(completions, **kwargs):
        return [float(threading.current_thread() is threading.main_thread())] * len(completions)

    assert ask(reward, timeout=None).total.tolist() == [1.0] * 3
    with pytest.raises(RewardFailed, match="raised ValueError"):
        ask(raises, timeout=None)


def test_a_cancelled_task_is_a_failure_of_the_function_whatever_the_time_limit():
    def cancelled(**kwargs):
        raise asyncio.CancelledError

    for timeout in (60.0, None):
        with pytest.raises(RewardFailed, match="cancelled raised CancelledError"):
            ask(cancelled, timeout=timeout)


def test_ctrl_c_is_the_users_and_no_failure_of_the_function():
    def interrupted(**kwargs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(interrupted, timeout=None, on_error="skip")


def test_what_is_the_judges_own_ends_with_it_and_nothing_else_does():
    class Held:
        ends = 0

        def __call__(self, completions, **columns):
            return [1.0] * len(completions)

        def close(self):
            self.ends += 1

    own, shared = Held(), Held()
    with Judge({"own": own, "shared": shared}, closes=[own]) as judge:
        assert judge(answers("a")).total.tolist() == [2.0] and own.ends == 0
    assert (own.ends, shared.ends) == (1, 0)


def test_a_judge_that_nobody_has_any_more_leaves_no_thread():
    before = set(threading.enumerate())
    judge = Judge(length)
    judge(answers("a"))
    (waiting,) = (thread for thread in set(threading.enumerate()) - before if thread.name == "palaestra-judge")
    del judge
    gc.collect()
    waiting.join(timeout=60)
    assert not waiting.is_alive()


def test_a_judge_keeps_nothing_of_what_it_judged():
    class Big(str):
        pass

    with Judge(length) as judge:
        judge([answer(Big("text"))])
        gc.collect()
        time.sleep(0.05)
        assert not any(type(thing) is Big for thing in gc.get_objects())


def test_thousands_of_control_characters_are_not_shown():
    assert shown("a\x00\x1b[2J\u202eb\ud800c\n\td") == "'a[2Jbc d'"
    assert shown("x" * 10**7) == f"'{'x' * 80}…'" and shown("\x00" * 1000 + "y") == "'…'"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"rewards": []}, "at least one"),
        ({"rewards": [3]}, "a reward is a function, got 3"),
        ({"rewards": length, "weights": [1, 2]}, "2 weights for 1"),
        ({"rewards": length, "weights": [float("nan")]}, "finite"),
        ({"rewards": length, "weights": [1e39]}, r"finite in single precision, got \[1e\+39\]"),
        ({"rewards": length, "weights": {"length": "much"}}, "are numbers, finite"),
        ({"rewards": length, "timeout": 0}, "positive"),
        ({"rewards": length, "on_error": "ignore"}, "stop or skip"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments, said):
    with pytest.raises(BadSetting, match=said):
        Judge(**arguments)


def test_a_weight_for_a_function_that_is_not_there_names_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'length'"):
        Judge(length, weights={"lenght": 2.0})
