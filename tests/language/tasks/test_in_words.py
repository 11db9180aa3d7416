"""Generated tasks asked in words: right and wrong answers of chat models, and nothing new by default."""

from __future__ import annotations

import pytest

import palaestra as pal
from palaestra.core.errors import BadSetting, PalaestraError
from palaestra.core.method import Budget
from palaestra.language.tasks.arithmetic import Arithmetic
from palaestra.language.tasks.countdown import CountDown
from palaestra.language.tasks.in_words import stated
from palaestra.language.tasks.knights import Knights
from palaestra.language.tasks.proofs import Proofs
from palaestra.language.tasks.sorting import Sorting
from palaestra.language.tasks.sudoku import Sudoku
from tests.language.tasks.laws import scores
from tests.language.test_tools import model

TASKS = [Sorting, CountDown, Arithmetic, Knights, Proofs, Sudoku]
ROWS = {
    Sorting: {"answer": "00146"},
    CountDown: {"numbers": [8, 2, 7], "target": 17},
    Arithmetic: {"answer": 1108},
    Proofs: {"premises": ["f>d", "d>c", "f"], "goal": "c"},
    Sudoku: {"givens": "..122......3.4..", "solution": "4312213412433421"},
}
SAID = {
    Sorting: ("0, 0, 1, 4, 6", "0 1 0 4 6", "none"),
    CountDown: ("2 + 8 = 10, 7 + 10 = 17", "2+8=10 10-7=3", "17"),
    Arithmetic: ("1,108", "1018", "a lot"),
    Proofs: ("mp f>d; mp d>c; qed", "mp f>d; mp f>c; qed", "it follows"),
    Sudoku: ("4312 2134 1243 3421", "4312 2134 1243 3412", "4312"),
}
"""What is right, what is wrong, and what is no answer."""
WAYS = (
    "<think>Let me see: 17, perhaps.</think>\n<answer>{}</answer>",
    "Let me see.\n\nFirst 5*4=20, <answer>no</answer>, but then\n<answer>\n{}\n</answer> is better.",
    "I look at it step by step:\n3+4=7\n\n**Answer:** `{}`",
    "So the answer is {}.",
    "That makes\n$\\boxed{{{}}}$",
)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("task", ROWS)
def test_an_answer_is_found_between_tags_or_on_the_last_line(task, way):
    texts = [way.format(said) for said in SAID[task]]
    row = {"prompt": "?", **ROWS[task]}
    assert scores(task(instructions=True), [row] * 3, texts)["correct"] == [1.0, 0.0, 0.0]
    assert scores(task(), [row] * 3, texts)["correct"] == [0.0] * 3


def test_what_comes_before_the_last_line_and_an_empty_answer_do_not_count():
    row = {"prompt": "?", **ROWS[Arithmetic]}
    assert scores(Arithmetic(chat=True), [row] * 2, ["1108\nor not", " \n"])["correct"] == [0.0, 0.0]
    assert stated("") == stated("<answer></answer> 5") == ""


def test_a_board_that_changes_what_is_given_is_wrong_and_its_cells_are_counted():
    row = {"prompt": "?", **ROWS[Sudoku]}
    other = "4321 2143 1234 3412"  # a right board of another puzzle
    found = scores(Sudoku(chat=True), [row] * 2, [f"<answer>{text}</answer>" for text in (other, SAID[Sudoku][1])])
    assert found["correct"] == [0.0, 0.0]
    assert found["cells"][1] == pytest.approx(9 / 11)


@pytest.mark.parametrize("task", TASKS)
def test_questions_are_text_or_messages_and_say_all_that_there_is_to_know(task):
    plain, chat, usual = task(instructions=True), task(chat=True), task()
    for i in range(30):
        row, asked, known = plain.rows("test")[i], chat.rows("test")[i], usual.rows("test")[i]
        assert asked["prompt"] == [{"role": "user", "content": row["prompt"]}]
        changed = {key for key in known if known[key] != row[key]}
        assert changed <= {"prompt", "completion"} and row["completion"] == asked["completion"]
        assert "<answer>" in row["prompt"]
        for part in [*row.get("premises", []), *row.get("names", []), *map(str, row.get("numbers", []))]:
            assert part in row["prompt"]
    rows = [chat.rows("train")[i] for i in range(30)]
    assert set(scores(chat, rows, [row["completion"] for row in rows])["correct"]) == {1.0}


@pytest.mark.parametrize("size", [4, 9])
def test_boards_of_both_sizes_are_asked_and_demonstrated(size):
    task = Sudoku(size=size, instructions=True)
    row = task.rows("train")[0]
    assert row["givens"][:size] in row["prompt"].splitlines()
    assert scores(task, [row], [row["completion"]])["cells"] == [1.0]


@pytest.mark.parametrize("task", TASKS)
def test_there_is_room_to_think_in_words_and_a_limit_is_kept(task):
    assert [task(**s).max_tokens for s in ({"chat": True}, {"instructions": True}, {"limit": 7})] == [512, 512, 7]
    assert task(chat=True, limit=2000).max_tokens == 2000
    with pytest.raises(BadSetting, match="limit"):
        task(limit=-1)


@pytest.mark.parametrize("task", TASKS)
def test_models_from_scratch_are_not_asked_in_words(task):
    assert task(chat=True).tokeniser() is None
    with pytest.raises(PalaestraError, match="give a pretrained model"):
        pal.GRPO(model="tiny-16x1").bind(task(chat=True), 0, Budget(updates=1))


def test_what_is_asked_by_default_is_as_it_was():
    firsts = {
        Sorting: (9, "64100=", "00146"),
        CountDown: (12, "8 2 7:17=", "2+8=10 7+10=17"),
        Arithmetic: (9, "56+52=", "<think>0</think><answer>108</answer>"),
        Proofs: (20, "f>d,a>e,c>a,d>c,d|-e:", "mp d>c;mp c>a;mp a>e;qed"),
        Sudoku: (37, "a31a42b12c43d24:", "a14a23b21b33b44c11c22c34d13d32d41"),
    }
    for kind, (longest, prompt, completion) in firsts.items():
        row = kind().rows("train")[0]
        assert (kind().max_tokens, row["prompt"], row["completion"]) == (longest, prompt, completion)
        assert kind().name == kind.__name__.lower()


def test_a_chat_model_is_trained_and_evaluated(tmp_path):
    method = pal.GRPO(model=model(tmp_path / "model"), prompts=2, group=2)
    run = pal.train(method, Sorting(chat=True, limit=8), updates=1, out=tmp_path / "run", quiet=True)
    assert 0 < run.metrics[-1]["evaluation/length"] <= 8


@pytest.mark.parametrize("way", ["instructions", "chat"])
@pytest.mark.parametrize(
    ("task", "form"), [(CountDown, "backtrack"), (CountDown, "mix"), (CountDown, "think"), (Sudoku, "backtrack")]
)
def test_a_search_is_not_demonstrated_where_the_answer_alone_is_asked_for(task, form, way):
    with pytest.raises(BadSetting, match=f"form={form} .*form=direct"):
        task(form=form, **{way: True})
    row = task(form="direct", **{way: True}).rows("train")[0]
    assert scores(task(**{way: True}), [row], [row["completion"]])["correct"] == [1.0]
