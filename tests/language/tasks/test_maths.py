"""GSM8K and files in the layout of MATH: every reference answer, splits, prompts and complaints."""

from __future__ import annotations

import json

import pytest

from palaestra.core.errors import BadDataset, BadSetting, UnknownName
from palaestra.data.real import real_data
from palaestra.language.tasks.maths import GSM8K, Maths
from palaestra.language.verifiers.numbers import final_answer, number, read_number
from tests.language.tasks.laws import scores

PROBLEM = {"problem": "Half of 3?", "solution": "It is $\\boxed{\\frac{3}{2}}$.", "level": "Level 1", "type": "Algebra"}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def here(name):
    try:
        return real_data(name)
    except BadDataset:
        return None


gsm8k = pytest.mark.skipif(here("gsm8k") is None, reason="GSM8K is not here")


@gsm8k
def test_every_reference_of_gsm8k_is_right_and_another_number_is_wrong():
    task = GSM8K()
    assert len(task.rows("train")) == 7473 and len(task.rows("test")) == 1319
    for split in ("train", "test"):
        for row in task.rows(split):
            value = read_number(row["answer"])
            assert value is not None
            assert number(row["completion"], row).right
            assert number(f"#### {float(value):.2f}", row).right
            assert number(f"\\boxed{{{row['answer']}}}", row).right
            assert number(f"#### {value + 1}", row).status == "wrong"
            assert number(row["question"], row).status == "unparseable"
            assert "<<" not in row["completion"]


@gsm8k
def test_no_question_of_gsm8k_is_in_both_splits():
    train, test = ({" ".join(row["question"].split()) for row in GSM8K().rows(split)} for split in ("train", "test"))
    assert not train & test


@gsm8k
@pytest.mark.parametrize("settings", [{}, {"tags": True}, {"chat": True}])
def test_demonstrations_of_gsm8k_score_1(settings):
    task = GSM8K(**settings)
    rows = task.rows("train")[:50]
    assert set(scores(task, rows, [row["completion"] for row in rows])["correct"]) == {1.0}
    assert isinstance(rows[0]["prompt"], list if settings.get("chat") else str)


def test_a_file_in_the_layout_of_math(tmp_path):
    path = write(tmp_path / "math.jsonl", [PROBLEM | {"problem": f"Half of {n}?"} for n in range(100)])
    task = Maths(path)
    train, test = task.rows("train"), task.rows("test")
    assert len(train) + len(test) == 100 and 2 <= len(test) <= 25
    assert not {row["question"] for row in train} & {row["question"] for row in test}
    row = train[0]
    assert (row["answer"], row["level"], row["type"]) == ("\\frac{3}{2}", "Level 1", "Algebra")
    assert row["completion"] == PROBLEM["solution"]
    assert scores(task, [row] * 3, ["\\boxed{1.5}", "\\boxed{2}", "1.5"])["correct"] == [1.0, 0.0, 0.0]
    assert scores(Maths(path, anywhere=True), [row], ["1.5"])["correct"] == [1.0]


def test_a_folder_with_a_test_file_whose_problems_are_not_trained_on(tmp_path):
    write(tmp_path / "train.jsonl", [PROBLEM, PROBLEM | {"problem": " half  of 4? "}])
    write(tmp_path / "test.jsonl", [PROBLEM | {"problem": "Half of 4?"}])
    task = Maths(str(tmp_path))
    assert [row["question"] for row in task.rows("train")] == ["Half of 3?"]
    assert [row["question"] for row in task.rows("test")] == ["Half of 4?"]


def test_it_is_found_in_the_folder_of_real_data(tmp_path, monkeypatch):
    write(tmp_path / "math" / "train.jsonl", [PROBLEM])
    write(tmp_path / "math" / "test.jsonl", [PROBLEM | {"problem": "Half of 4?"}])
    monkeypatch.setenv("PALAESTRA_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path / "math")
    assert len(Maths().rows("train")) == 1


@pytest.mark.parametrize(
    ("columns", "answer", "completion"),
    [
        ({"answer": "3/2"}, "3/2", "\\boxed{3/2}"),
        ({"answer": "3/2 = 1.5\n#### 1.5"}, "1.5", "3/2 = 1.5\n#### 1.5"),
        ({"solution": "Divide.", "answer": 1.5}, "1.5", "Divide. \\boxed{1.5}"),
        ({"solution": "Divide: \\boxed{1.5}", "answer": "3/2"}, "3/2", "Divide: \\boxed{1.5}"),
        ({"completion": "\\boxed{1.5}"}, "1.5", "\\boxed{1.5}"),
    ],
)
def test_answers_and_solutions_in_other_columns(tmp_path, columns, answer, completion):
    path = write(tmp_path / "a.jsonl", [{"question": f"Half of {n}?"} | columns for n in range(50)])
    row = Maths(path).rows("train")[0]
    assert (row["answer"], row["completion"]) == (answer, completion)
    assert number(completion, row).right
    tagged = Maths(path, tags=True).rows("train")[0]["completion"]
    assert final_answer(tagged) == answer


def test_tags_have_a_weight_of_their_own(tmp_path):
    path = write(tmp_path / "a.jsonl", [PROBLEM | {"problem": str(n)} for n in range(50)])
    task = Maths(path, tags=True, format_weight=0.25)
    row = task.rows("train")[0]
    found = scores(task, [row] * 3, [row["completion"], "<answer>1.5</answer>", "<think></think><answer>1</answer>"])
    assert found["total"] == [1.25, 1.0, 0.25]


def test_trpa_finds_levels_of_wrong_missing_and_badly_tagged_answers(tmp_path):
    path = write(tmp_path / "math.jsonl", [PROBLEM | {"problem": f"Half of {n}?"} for n in range(100)])
    said = ["\\boxed{1.5}", "\\boxed{2}", "?"]
    for task, told in (
        (Maths(path), said),
        (GSM8K(path, anywhere=True), ["it is 1.5", "it is 2", "?"]),
        (Maths(path, tags=True), [f"<think>hm</think><answer>{answer}</answer>" for answer in said]),
    ):
        row = task.rows("test")[0]
        expected = [1, 2, 3, 4 if task.tags else 1]
        assert [task.level(text, row) for text in (*told, told[0].replace("<think>", ""))] == expected


def test_rows_that_cannot_be_are_named(tmp_path):
    for row, said in (
        ({"problem": "?"}, "row 0"),
        ({"solution": "#### 1"}, "question"),
        ({"problem": "?", "solution": "?"}, "answer"),
    ):
        with pytest.raises(BadDataset, match=said):
            Maths(write(tmp_path / "a.jsonl", [row])).rows("train")


def test_settings_that_cannot_be_are_refused(tmp_path, monkeypatch):
    for settings in ({"limit": 0}, {"held_out": 1.0}, {"format_weight": 1.0}):
        with pytest.raises(BadSetting):
            GSM8K(**settings)
    with pytest.raises(UnknownName):
        GSM8K().rows("validation")
    monkeypatch.setenv("PALAESTRA_DATA", str(tmp_path))
    with pytest.raises(BadDataset, match="no-such-folder"):
        Maths("no-such-folder").rows("train")


def test_a_description_makes_the_same_task():
    task = GSM8K(tags=True)
    json.dumps(task.describe())
    assert GSM8K(**task.describe()["kwargs"]) == task
