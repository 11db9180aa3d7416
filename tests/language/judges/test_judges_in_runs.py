"""What a run makes of its judges: what functions report, how often they fail, who is told, and how far they are told it is."""

from __future__ import annotations

import contextlib
import math
import warnings

import pytest

import palaestra as pal
from palaestra.core.errors import Unscored, Untrusted
from palaestra.core.task import as_task
from palaestra.language.sandbox import Sandbox
from palaestra.language.sandbox.sandbox import STATUSES
from palaestra.language.tasks.prompts import PromptTask
from palaestra.language.verifiers.unit_tests import UnitTests
from palaestra.methods.language.grpo import GRPO
from palaestra.methods.language.reg_grpo import RegGRPO
from palaestra.methods.language.unlikeliness import Unlikeliness
from palaestra.methods.preference.dpo import DPO
from palaestra.methods.preference.inpo import INPO
from tests.language.judges.samples import answers
from tests.test_every_method import Killed, die_after, fingerprint

ROWS = [{"prompt": f"{i}{9 - i}="} for i in range(10)]
HELD_OUT = [{"prompt": "00=", "tests": "assert f() == 1", "entry_point": "f"}]
SMALL = {"log_every": 1, "evaluate_every": 0, "quiet": True, "tensorboard": False}


@pytest.fixture(autouse=True)
def model(tmp_path):
    pal.LanguagePolicy.make("tiny-16x1", as_task("sorting")).save(tmp_path / "model")


def grpo(**settings):
    return GRPO(model="model", **{"prompts": 2, "group": 2, **settings})


def own(reward, on_error="stop", **settings):
    return PromptTask(ROWS, test=HELD_OUT, reward=reward, on_error=on_error, limit=4, **settings)


def flaky(completions, log_metric, **columns):
    """No score for one answer of four, and numbers of its own."""
    log_metric("mine", 7.0)
    log_metric("steps", -1.0)
    log_metric("endless", math.inf)
    log_metric("huge", 1e30)
    return [math.nan if i % 4 == 3 else float(len(text)) for i, text in enumerate(completions)]


@pytest.mark.filterwarnings("ignore:answers are left without a score")
@pytest.mark.parametrize(
    "method",
    [
        grpo(),
        DPO(model="model", prompts=5, drawn=2, warmup=0),
        INPO(model="model", prompts=2, group=4, minibatches=1),
    ],
    ids=lambda method: method.name,
)
def test_metrics_have_what_functions_report_and_on_how_many_answers_each_failed(method):
    run = pal.train(method, own(flaky, "skip"), updates=2, **SMALL)
    rows = [row for row in run.metrics if "evaluation/return" not in row]
    assert rows[0]["mine"] == 7.0 and rows[0]["steps"] >= 0
    assert not {"endless", "huge"} & set(rows[-1])
    counted = [row["judge/failed/flaky"] for row in rows]
    assert len(counted) == 2 and 0 < counted[0] <= counted[1]
    assert run.record["failures"] == {"flaky": counted[-1]}


def test_where_nothing_fails_and_nothing_is_reported_rows_are_as_ever():
    run = pal.train(
        grpo(), own(lambda completions, **_: [float(len(text)) for text in completions]), updates=1, **SMALL
    )
    assert not [name for row in run.metrics for name in row if name.startswith("judge/")]
    assert run.record["failures"] == {}


@pytest.mark.filterwarnings("ignore:answers are left without a score")
@pytest.mark.parametrize(
    "method", [grpo(), DPO(model="model", prompts=5, drawn=2, warmup=0)], ids=lambda method: method.name
)
def test_a_resumed_run_has_counted_and_reported_the_same(method, monkeypatch):
    how = {**SMALL, "checkpoint_every": 1, "log_every": 3, "updates": 6}
    whole = pal.train(method, own(flaky, "skip"), out="whole", **how)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_after(4, type(method), patch)
        pal.train(method, own(flaky, "skip"), out="cut", **how)
    resumed = pal.train(method, own(flaky, "skip"), out="cut", resume=True, **how)
    assert fingerprint(resumed.folder) == fingerprint(whole.folder)
    assert resumed.record["failures"] == whole.record["failures"] != {}


def test_programs_are_reported_by_what_became_of_them():
    reward = UnitTests(Sandbox(seconds=5))
    try:
        reward.sandbox.run("pass")
    except Untrusted as error:
        pytest.skip(str(error))
    rows = [{**row, "tests": "assert f() == 1", "entry_point": "f"} for row in ROWS]
    with contextlib.closing(reward):
        task = PromptTask(rows, test=HELD_OUT, reward=reward, timeout=None, limit=4)
        run = pal.train(grpo(), task, updates=1, **SMALL)
    shares = {name: value for name, value in run.metrics[0].items() if name.startswith("programs/")}
    assert set(shares) == {f"programs/{status}" for status in STATUSES}
    assert sum(shares.values()) == pytest.approx(1)


def test_a_function_that_fails_is_told_of_once_in_rounds_and_evaluations_together(capsys):
    how = {**SMALL, "quiet": False, "evaluate_every": 1, "updates": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pal.train(grpo(), own(flaky, "skip"), out="told", **how)
    said = [line for line in capsys.readouterr().err.splitlines() if "without a score" in line]
    assert len(said) == 1 and said[0].startswith("answers are left without a score: the reward function flaky returned")


def test_quiet_runs_warn_once():
    with pytest.warns(UserWarning, match="without a score") as caught:
        pal.train(grpo(), own(flaky, "skip"), updates=3, **SMALL)
    assert len([one for one in caught if "without a score" in str(one.message)]) == 1


def test_functions_are_told_how_far_training_is_in_rounds_and_in_evaluations():
    seen = []

    def curriculum(completions, trainer_state, **columns):
        seen.append((trainer_state.global_step, trainer_state.max_steps, len(completions)))
        return [float(len(text)) for text in completions]

    pal.train(grpo(), own(curriculum), updates=2, **{**SMALL, "evaluate_every": 1})
    assert seen == [(0, 2, 4), (1, 2, 1), (1, 2, 4), (2, 2, 1)]
    with own(curriculum).judge() as judge:
        judge(answers("a"))
    assert seen[-1] == (0, 0, 1)


class Outage:
    """A judge that cannot be reached for some calls, counted from 0."""

    __name__ = "far"

    def __init__(self, first, last):
        self.down, self.calls = range(first, last), 0

    def __call__(self, completions, **columns):
        self.calls += 1
        if self.calls - 1 in self.down:
            raise ConnectionError("nobody answers")
        return [float(len(text)) for text in completions]


@pytest.mark.filterwarnings("ignore:answers are left without a score")
@pytest.mark.parametrize(
    "method",
    [
        grpo(),
        grpo(resample=2),
        Unlikeliness(model="model", prompts=2, group=2, graded=True, answers_wanted=0),
        Unlikeliness(model="model", prompts=2, group=2, graded=True, answers_wanted=100),
        RegGRPO(model="model", prompts=2, group=3, hints=0.5, noise=0.5, usual=1.0),
    ],
    ids=lambda method: method.label,
)
@pytest.mark.parametrize("first", [0, 3])
def test_rounds_without_a_score_are_passed_over_and_made_up_for(method, first):
    task = own(Outage(first, first + 6), "skip")  # a batch, and each of its groups: two rounds
    run = pal.train(method, task, updates=12, **SMALL)
    assert run.record["status"] == "finished" and run.metrics[-1]["updates"] >= 12
    counters, passed = run.record["counters"], run.record["counters"]["passed_over"]
    assert counters["unscored"] == 4 * method.group and passed <= 2
    assert passed == 0 or run.metrics[-2]["judge/rounds_passed_over"] == passed
    if method.name == "grpo" and not method.resample:
        assert passed == 2


@pytest.mark.filterwarnings("ignore:answers are left without a score")
@pytest.mark.parametrize("broken", [Outage(0, 1000), lambda completions, **_: [None] * len(completions)])
def test_the_tenth_in_a_row_ends_the_run_and_names_the_function(broken):
    with pytest.raises(Unscored, match="could score a single answer in 10 rounds in a row") as caught:
        pal.train(grpo(), own(broken, "skip"), updates=3, **SMALL)
    why = (
        "the reward function far raised ConnectionError 'nobody answers'"
        if isinstance(broken, Outage)
        else "reward gave None"
    )
    assert f"in a row; {why}" in str(caught.value)


@pytest.mark.filterwarnings("ignore:answers are left without a score")
def test_a_run_that_was_killed_in_an_outage_ends_as_one_that_was_not(monkeypatch):
    how = {**SMALL, "checkpoint_every": 1, "updates": 6}

    def method_and_task(done):
        return grpo(), own(Outage(3 - done, 12 - done), "skip")  # three rounds

    whole = pal.train(*method_and_task(0), out="whole", **how)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_after(5, GRPO, patch)
        pal.train(*method_and_task(0), out="cut", **how)
    resumed = pal.train(*method_and_task(3), out="cut", resume=True, **how)
    assert fingerprint(resumed.folder) == fingerprint(whole.folder)
    assert resumed.record["counters"] == whole.record["counters"] and whole.record["counters"]["passed_over"] == 3


@pytest.mark.filterwarnings("ignore:answers are left without a score")
def test_an_evaluation_without_a_score_is_left_out_but_not_the_last():
    how = {**SMALL, "evaluate_every": 1, "updates": 3}
    run = pal.train(grpo(), own(Outage(3, 4), "skip"), **how)
    evaluated = [row.get("evaluation/return") for row in run.metrics if any("evaluation/" in name for name in row)]
    assert [value is None for value in evaluated] == [False, True, False]
    with pytest.raises(Unscored, match="not score a single answer of an evaluation; the reward function far raised"):
        pal.train(grpo(), own(Outage(5, 6), "skip"), out="last", **how)


class Late(Exception):
    pass


@pytest.mark.parametrize(("failing", "left"), [(1, 4), (2, 6)], ids=["in between", "last"])
def test_nothing_that_was_trained_is_lost_where_an_evaluation_fails(failing, left, monkeypatch):
    how = {**SMALL, "log_every": 2, "evaluate_every": 2, "checkpoint_every": 100, "updates": 6}
    lengths = own(lambda completions, **_: [float(len(text)) for text in completions])
    whole = pal.train(grpo(), lengths, out="whole", **how)
    evaluate, turns = PromptTask.evaluate, iter(range(100))

    def fails(self, *given):
        if next(turns) == failing:
            raise Late("the judge is away")
        return evaluate(self, *given)

    with monkeypatch.context() as patch, pytest.raises(Late):
        patch.setattr(PromptTask, "evaluate", fails)
        pal.train(grpo(), lengths, out="cut", **how)
    assert pal.load_policy("cut") is not None
    steps, step = [], GRPO.step
    monkeypatch.setattr(GRPO, "step", lambda self: (steps.append(self.counters.updates), step(self))[1])
    resumed = pal.train(grpo(), lengths, out="cut", resume=True, **how)
    assert steps == list(range(left, 6))
    assert resumed.record["status"] == "finished"
    assert fingerprint(resumed.folder) == fingerprint(whole.folder)
