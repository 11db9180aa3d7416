"""HumanEval and MBPP: their own solutions pass in the sandbox, mutated ones fail, and prompts say what is asked."""

from __future__ import annotations

import ast
import gzip
import json

import pytest

from palaestra.core.errors import BadDataset, BadSetting, UnknownName, Untrusted
from palaestra.data.real import real_data
from palaestra.language.sandbox import Job, Sandbox
from palaestra.language.tasks.programs import MBPP, HumanEval, read_problems
from palaestra.language.verifiers.unit_tests import program_in
from tests.language.mutants import LIKELY, SURE, mutant
from tests.language.tasks.laws import scores

EQUAL_MUTANTS = {"HumanEval/35", "HumanEval/95", "HumanEval/116", "HumanEval/154"}
"""Whose constants do not matter, or not to their tests: where a loop begins, say, or one that any other replaces."""


def here(name):
    try:
        return real_data(name)
    except BadDataset:
        return None


humaneval = pytest.mark.skipif(here("humaneval") is None, reason="HumanEval is not here")
mbpp = pytest.mark.skipif(here("mbpp") is None, reason="MBPP is not here")


@pytest.fixture(scope="module")
def box():
    with Sandbox(seconds=10) as box:
        try:
            box.run("pass")
        except Untrusted as error:
            pytest.skip(str(error))
        yield box


@pytest.fixture(scope="module")
def impatient(box):
    """For mutants, of which some never end."""
    with Sandbox(seconds=1) as impatient:
        yield impatient


def sampled():
    """Every tenth of MBPP's problems, and those whose tests use what is no plain data, a builtin's name, or a module."""
    task = MBPP()
    rows = [row for split in ("train", "validation", "test") for row in task.rows(split)]
    return [row for row in rows if row["task_id"] % 10 == 0 or row["task_id"] in (126, 367, 596, 601, 927)]


def solution(row):
    return program_in(row["completion"], row.get("prefix", ""), row["entry_point"])


def mutants(rows, kind):
    found = {row["task_id"]: (mutant(solution(row), row["entry_point"], kind), row) for row in rows}
    return {
        name: Job(code, row["tests"], row["entry_point"]) for name, (code, row) in found.items() if code is not None
    }


def passing(box, jobs):
    verdicts = box.run_many(jobs.values())
    assert not [v for v in verdicts if v.status == "error"]
    return {name for name, verdict in zip(jobs, verdicts, strict=True) if verdict.passed}


@humaneval
@pytest.mark.parametrize("chat", [False, True])
def test_every_solution_of_humaneval_passes(chat, box):
    rows = HumanEval(chat=chat).rows("test")
    assert len(rows) == 164
    rows = rows[::4] if chat else rows
    jobs = {row["task_id"]: Job(solution(row), row["tests"], row["entry_point"]) for row in rows}
    assert passing(box, jobs) == set(jobs)


@mbpp
@pytest.mark.parametrize("chat", [False, True])
def test_solutions_of_mbpp_pass(chat, box):
    rows = sampled() if not chat else MBPP(chat=True).rows("validation")[::4]
    jobs = {row["task_id"]: Job(solution(row), row["tests"], row["entry_point"]) for row in rows}
    assert passing(box, jobs) == set(jobs)


@humaneval
@pytest.mark.parametrize("kind", SURE)
def test_no_program_of_humaneval_passes_that(kind, impatient):
    rows = HumanEval().rows("test")
    jobs = mutants(rows if kind == SURE[0] else rows[::2], kind)
    assert len(jobs) >= 82
    assert not passing(impatient, jobs)


@humaneval
@pytest.mark.parametrize("kind", LIKELY)
def test_hardly_a_program_of_humaneval_passes_that(kind, impatient):
    jobs = mutants(HumanEval().rows("test"), kind)
    assert len(jobs) > 100
    assert passing(impatient, jobs) <= EQUAL_MUTANTS


@mbpp
@pytest.mark.parametrize("kind", SURE)
def test_no_program_of_mbpp_passes_that(kind, impatient):
    jobs = mutants(sampled()[::2], kind)
    assert len(jobs) > 40
    assert not passing(impatient, jobs)


@humaneval
def test_a_helper_of_the_prompt_that_an_answer_defines_anew_changes_no_test(box):
    row = next(row for row in HumanEval().rows("test") if row["task_id"] == "HumanEval/32")
    cheat = "    return 0.0\n\ndef poly(xs, x):\n    return 0.0\n"
    together = row["prefix"] + cheat + "\n" + row["tests"][0].partition("METADATA")[2].partition("}")[2]
    exec(together, {})  # where program and tests share an interpreter, the answer passes
    assert (
        box.run(program_in(cheat, row["prefix"], row["entry_point"]), row["tests"], row["entry_point"]).status
        == "failed"
    )


@humaneval
def test_humaneval_is_held_out_and_asks_for_the_rest_of_a_function():
    task = HumanEval()
    row = task.rows("test")[0]
    assert row["prompt"].endswith('"""\n') and "has_close_elements" in row["prompt"] and row["prefix"] == row["prompt"]
    assert row["completion"].startswith("    ") and row["entry_point"] == ["has_close_elements"]
    with pytest.raises(BadSetting, match="no prompts to learn from"):
        task.rows("train")
    with pytest.raises(UnknownName):
        task.rows("validation")


@mbpp
def test_mbpp_has_its_published_splits_without_what_is_in_two():
    task = MBPP()
    splits = {split: task.rows(split) for split in ("train", "validation", "test")}
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 370, "validation": 90, "test": 500}
    for split in ("train", "validation"):
        for column in ("prompt", "completion", "tests"):
            assert not {str(row[column]) for row in splits[split]} & {str(row[column]) for row in splits["test"]}
    with pytest.raises(UnknownName, match="tests"):
        task.rows("tests")


@mbpp
@pytest.mark.parametrize(("shown", "chat"), [(0, False), (1, False), (3, True)])
def test_a_prompt_of_mbpp_shows_as_many_tests_as_it_should(shown, chat):
    row = MBPP(shown=shown, chat=chat).rows("test")[0]
    prompt = row["prompt"][0]["content"] if chat else row["prompt"]
    assert sum(test in prompt for test in row["tests"]) == shown
    assert prompt.count("Write a python function") == 1
    if not chat:
        ast.parse(prompt)  # a docstring, after which a program begins


@mbpp
def test_names_and_modules_that_tests_need_are_known():
    rows = {row["task_id"]: row for row in sampled()}
    assert rows[126]["entry_point"] == ["sum"]
    assert rows[601]["entry_point"] == ["Pair", "max_chain_length"]
    assert rows[596]["tests"][0] == "import sys"
    assert rows[367]["tests"][0].startswith("root = Node(1)")


@humaneval
def test_the_judge_scores_answers(box):
    task = HumanEval()
    rows = task.rows("test")[:2]
    assert scores(task, rows, [row["completion"] for row in rows])["unit_tests"] == [1.0, 1.0]
    assert scores(task, rows, ["    return None\n", "what?"])["total"] == [0.0, 0.0]


def test_the_sandbox_of_a_judge_ends_with_it(box, tmp_path):
    (tmp_path / "own.jsonl").write_text("")
    with HumanEval(str(tmp_path / "own.jsonl")).judge() as judge:
        tests = judge.rewards["unit_tests"]
        assert tests(["x = 1"], ["assert x == 1"]) == [1.0]
        (server,) = tests.sandbox._idle
    assert not server.alive and server.process.poll() is not None


def test_a_file_of_ones_own_is_read(tmp_path):
    problem = {
        "task_id": "Own/0",
        "prompt": "def one():\n",
        "entry_point": "one",
        "canonical_solution": "    return 1\n",
        "test": "def check(f):\n    assert f() == 1\n",
    }
    (tmp_path / "own.jsonl").write_text(json.dumps(problem) + "\n\n")
    with gzip.open(tmp_path / "HumanEval.jsonl.gz", "wt") as file:
        file.write(json.dumps(problem))
    for path in (tmp_path / "own.jsonl", tmp_path):
        assert [row["task_id"] for row in HumanEval(str(path)).rows("test")] == ["Own/0"]


def test_data_that_are_not_there_or_broken_are_named(tmp_path):
    with pytest.raises(BadDataset, match="'nowhere' is not here"):
        MBPP("nowhere").rows("test")
    (tmp_path / "broken.jsonl").write_text('{"task_id": 1}\n{"task')
    with pytest.raises(BadDataset, match=r"broken\.jsonl cannot be read"):
        read_problems(tmp_path / "broken.jsonl")
    with pytest.raises(BadDataset, match="has no 'text'"):
        (tmp_path / "other.jsonl").write_text('{"task_id": 11}')
        MBPP(str(tmp_path / "other.jsonl")).rows("test")
    with pytest.raises(BadSetting):
        MBPP(shown=-1)
    with pytest.raises(BadSetting):
        HumanEval(limit=0)
