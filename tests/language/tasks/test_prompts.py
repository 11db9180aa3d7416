"""The user's own prompts and rewards: every form that data come in, what is wrong with rows, and being made again."""

from __future__ import annotations

import csv
import gzip
import json
import math
import sys
import time
import warnings
from pathlib import Path

import pytest
import yaml

from palaestra.cli.settings import Parser, add_settings, settings_from
from palaestra.core.errors import BadDataset, BadSetting, PalaestraError, UnknownName
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.language.judges.judge import RewardFailed
from palaestra.language.preferences import ranked_of
from palaestra.language.tasks import prompts
from palaestra.language.tasks.prompts import PromptTask
from palaestra.methods.language.grpo import GRPO
from palaestra.methods.preference.inpo import INPO
from palaestra.runs.trust import named_code
from tests.language.judges.samples import answers

ROWS = [{"prompt": f"{i} + {i} =", "answer": str(2 * i)} for i in range(200)]
REWARDS = """
def right(completions, answer, **kwargs):
    return [float(text == gold) for text, gold in zip(completions, answer)]

def short(completions, **kwargs):
    return [-float(len(text)) for text in completions]

number = 3
"""


def right(completions, answer, **kwargs):
    return [float(text == gold) for text, gold in zip(completions, answer)]


@pytest.fixture(autouse=True)
def _no_module_stays():
    yield
    for name in [name for name in sys.modules if name.startswith("palaestra_user_")]:
        del sys.modules[name]


@pytest.fixture
def files() -> Path:
    """Rows and rewards as files in the working folder."""
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n")
    Path("rewards.py").write_text(REWARDS)
    return Path()


def prompt(row) -> str:
    return row["prompt"]


def everything(task: PromptTask) -> list[dict]:
    return [*task.rows("train"), *task.rows("test")]


# Forms of data.


def as_jsonl(folder: Path):
    (folder / "rows.jsonl").write_text("\n\n".join(map(json.dumps, ROWS)), encoding="utf-8-sig")
    return folder / "rows.jsonl"


def as_packed_jsonl(folder: Path):
    with gzip.open(folder / "rows.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, ROWS)))
    return folder / "rows.jsonl.gz"


def as_json(folder: Path):
    (folder / "rows.json").write_text(json.dumps(ROWS))
    return str(folder / "rows.json")


def as_csv(folder: Path):
    with open(folder / "rows.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "answer"])
        writer.writeheader()
        writer.writerows(ROWS)
    return folder / "rows.csv"


def as_dataset(folder: Path):
    return pytest.importorskip("datasets").Dataset.from_list(ROWS)


def as_parquet(folder: Path):
    as_dataset(folder).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


def as_saved(folder: Path):
    as_dataset(folder).save_to_disk(folder / "saved")
    return folder / "saved"


def as_folder(folder: Path):
    (folder / "many").mkdir()
    for i in range(2):
        (folder / "many" / f"part-{i}.jsonl").write_text("\n".join(map(json.dumps, ROWS[i::2])))
    return folder / "many"


FORMS = {
    "a list": lambda folder: ROWS,
    "a tuple": lambda folder: tuple(ROWS),
    "splits": lambda folder: {"train": ROWS},
    "JSONL": as_jsonl,
    "JSONL packed": as_packed_jsonl,
    "JSON": as_json,
    "CSV": as_csv,
    "Parquet": as_parquet,
    "a dataset": as_dataset,
    "a saved dataset": as_saved,
    "a folder": as_folder,
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_rows_come_out_of_every_form_and_are_held_out_alike(form, tmp_path):
    task = PromptTask(FORMS[form](tmp_path), right)
    assert sorted(everything(task), key=prompt) == sorted(ROWS, key=prompt)
    reference = PromptTask(ROWS, right)
    assert {row["prompt"] for row in task.rows("test")} == {row["prompt"] for row in reference.rows("test")}


def test_a_data_frame_is_a_form_too():
    frame = pytest.importorskip("pandas").DataFrame(ROWS)
    assert sorted(everything(PromptTask(frame, right)), key=prompt) == sorted(ROWS, key=prompt)


def test_rows_can_be_sliced_and_counted_from_the_end():
    rows = PromptTask(ROWS, right).rows("train")
    assert rows[-1] == rows[len(rows) - 1] and rows[1:3] == [rows[1], rows[2]]
    with pytest.raises(IndexError):
        rows[len(rows)]


QUESTION, ANSWER = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}


@pytest.mark.parametrize(
    ("row", "made"),
    [
        ({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "b"}),
        ({"prompt": [QUESTION]}, {"prompt": [QUESTION]}),
        ({"prompt": [QUESTION], "completion": [ANSWER]}, {"prompt": [QUESTION], "completion": "hi"}),
        ({"messages": [QUESTION, ANSWER]}, {"prompt": [QUESTION], "completion": "hi"}),
        ({"messages": [QUESTION]}, {"prompt": [QUESTION]}),
        (
            {"messages": [QUESTION, ANSWER, QUESTION, ANSWER]},
            {"prompt": [QUESTION, ANSWER, QUESTION], "completion": "hi"},
        ),
        ({"prompt": "a", "completion": None, "level": None}, {"prompt": "a", "level": None}),
    ],
)
@pytest.mark.parametrize("stored", [False, True])
def test_rows_of_trls_kinds_become_a_prompt_and_a_completion(row, made, stored):
    rows = [row] * 3
    if stored:
        rows = pytest.importorskip("datasets").Dataset.from_list(rows)
    assert PromptTask(rows, right).rows("train")[0] == made


def test_another_column_may_hold_the_prompt():
    task = PromptTask([{"question": "a", "answer": 1}], right, column="question")
    assert task.rows("train")[0] == {"prompt": "a", "answer": 1}


@pytest.mark.parametrize("row", [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"messages": [QUESTION, ANSWER]}])
def test_a_column_that_was_named_is_the_prompt_or_missing(row):
    with pytest.raises(BadDataset, match="row 0 of the data has no 'question'; it has "):
        PromptTask([row], column="question")
    assert prompt(everything(PromptTask([{**row, "question": "so?"}], column="question", held_out=0.0))[0]) == "so?"


def test_roles_of_a_template_s_own_are_taken():
    asked = [{"role": "ipython", "content": "3"}, QUESTION]
    assert everything(PromptTask([{"prompt": asked}], right, held_out=0.0))[0]["prompt"] == asked


def test_pictures_are_not_read_when_rows_are_checked():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"prompt": datasets.Value("string"), "image": datasets.Image()})
    rows = datasets.Dataset.from_dict(
        {"prompt": ["what?"] * 40, "image": [{"path": None, "bytes": b"no picture"}] * 40}, features=features
    )
    task = PromptTask(rows, right)
    assert len(task.rows("train")) + len(task.rows("test")) == 40
    assert 0 < len(task.rows("test")) < 20  # the same question about other pictures is another prompt


# What is held out.


def test_about_a_tenth_is_held_out_and_no_prompt_is_in_both():
    task = PromptTask(ROWS * 2, right)
    train, test = ({row["prompt"] for row in task.rows(split)} for split in ("train", "test"))
    assert not train & test and 10 <= len(test) <= 30
    assert len(task.rows("train")) == 2 * len(train)


def test_prompts_that_differ_in_spaces_alone_are_the_same():
    rows = [{"prompt": f"{i}{' ' * k}x\n"} for i in range(50) for k in range(1, 4)]
    task = PromptTask(rows, right, held_out=0.3)
    train, test = ({row["prompt"].split()[0] for row in task.rows(split)} for split in ("train", "test"))
    assert train and test and not train & test


def test_of_few_prompts_one_is_held_out_and_of_one_none():
    task = PromptTask(ROWS[:2], right, held_out=0.001)
    assert len(task.rows("train")) == len(task.rows("test")) == 1
    assert len(PromptTask(ROWS[:2], right, held_out=0.999).rows("train")) == 1
    alone = PromptTask(ROWS[:1], right)
    assert len(alone.rows("train")) == 1 and len(alone.rows("test")) == 0
    assert len(PromptTask(ROWS, right, held_out=0.0).rows("train")) == len(ROWS)


def test_splits_that_the_data_bring_are_kept():
    data = {"train": ROWS[:150], "validation": ROWS[150:]}
    assert [*PromptTask(data, right).rows("test")] == ROWS[150:]
    data["test"] = ROWS[150:160]
    assert [*PromptTask(data, right).rows("test")] == ROWS[150:160]
    assert [*PromptTask(data, right, test="validation").rows("test")] == ROWS[150:]


def test_prompts_without_a_reward_are_for_methods_that_are_given_one():
    task, budget = PromptTask(ROWS), Budget(updates=1)
    assert not task.evaluates
    with pytest.raises(BadSetting, match="to score answers, prompts needs a reward"):
        GRPO().bind(task, 0, budget)
    with pytest.raises(BadSetting, match="to score answers, prompts needs a reward"):
        INPO().bind(task, 0, budget)
    with pytest.raises(PalaestraError, match="nowhere"):
        GRPO(reward_model="nowhere", model="also-nowhere").bind(task, 0, budget)


def test_the_split_that_is_learnt_from_can_be_named():
    data = {"train_prefs": ROWS, "test_prefs": [{"prompt": "another"}], "train_sft": [{"prompt": "none of these"}]}
    task = PromptTask(data, right, split="train_prefs", test="test_prefs")
    assert [row["prompt"] for row in task.rows("train")] == [row["prompt"] for row in ROWS]
    assert [row["prompt"] for row in task.rows("test")] == ["another"]
    with pytest.raises(BadDataset, match="none is called train_gen"):
        PromptTask({"train_prefs": ROWS}, right, split="train_gen")


def test_a_folder_has_the_splits_that_its_files_are_named_for(tmp_path):
    for name, rows in (
        ("train-00000", ROWS[:9]),
        ("train-00001", ROWS[9:20]),
        ("test", ROWS[20:30]),
        ("testimony", ROWS[30:40]),
    ):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = PromptTask(tmp_path, right)
    assert len(task.rows("train")) == 30 and [*task.rows("test")] == ROWS[20:30]


def test_several_places_with_commas_between_are_one_from_any_folder(tmp_path, monkeypatch):
    for name, half in (("first", ROWS[:100]), ("second", ROWS[100:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, half)))
    monkeypatch.chdir(tmp_path)
    both, alone = PromptTask("first.jsonl, second.jsonl", right), PromptTask(ROWS, right)
    assert both.digest == alone.digest
    monkeypatch.chdir("/")
    again = PromptTask(both.data, right)
    assert again.digest == alone.digest and again.name == both.name == "first+second"


def test_of_several_places_splits_of_one_name_are_one(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for split in ("train", "test"):
            (tmp_path / name / f"{split}.jsonl").write_text(json.dumps({"prompt": f"{name} {split}"}))
    task = PromptTask(f"{tmp_path}/a,{tmp_path}/b", lambda completions, **_: [0.0] * len(completions))
    assert [row["prompt"] for row in task.rows("test")] == ["a test", "b test"]


def test_a_saved_dataset_with_splits_has_them(tmp_path):
    datasets = pytest.importorskip("datasets")
    both = {"train": datasets.Dataset.from_list(ROWS[:50]), "test": datasets.Dataset.from_list(ROWS[50:60])}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "saved")
    for data in (tmp_path / "saved", datasets.DatasetDict(both)):
        assert [*PromptTask(data, right).rows("test")] == ROWS[50:60]


def test_a_prompt_that_is_held_out_is_not_learnt_from():
    with pytest.warns(UserWarning, match="3 of 10 rows .* are not learnt from"):
        task = PromptTask(ROWS[:10], right, test=ROWS[7:12])
    assert [*task.rows("train")] == ROWS[:7] and [*task.rows("test")] == ROWS[7:12]
    with pytest.raises(BadDataset, match="none is left"):
        PromptTask(ROWS[:10], right, test=ROWS[:10])


# What is wrong with data.


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "holds no rows"),
        ([{"question": "a"}], r"row 0 of the data has no 'prompt'; it has question \(--task.column, or column="),
        ([*ROWS[:2], {"answer": "a"}], "row 2 of the data has no 'prompt'"),
        ([*ROWS[:3], "text"], "row 3 of the data is a str, but rows map"),
        ([*ROWS[:2], {"prompt": "  \n"}], "row 2 of the data has an empty prompt"),
        ([{"prompt": []}], "row 0 of the data has an empty prompt"),
        ([*ROWS[:2], {"prompt": "a\ud800"}], "row 2 of the data has half of a character in its prompt"),
        (
            [{"prompt": [{"role": "user", "content": "\udc00"}]}],
            "row 0 of the data has half of a character in its prompt",
        ),
        ([{"prompt": "a", "completion": "\ud800"}], "row 0 of the data has half of a character in its completion"),
        (
            [{"prompt": "a", "chosen": "b", "rejected": "\ud800"}],
            "row 0 of the data has half of a character in its rejected",
        ),
        ([{"prompt": [{"role": "user", "content": ""}]}], "no message says anything"),
        ([{"prompt": None}], "has nothing as prompt"),
        ([{"prompt": 3}], "has a int as prompt; a prompt is text, or messages"),
        ([{"prompt": ["hello"]}], "has messages as prompt; a prompt is text, or messages with role and content"),
        ([{"prompt": [{"role": "usr", "content": "a"}]}], "a message of the role 'usr'; did you mean 'user'?"),
        ([{"prompt": math.nan}], "row 0 of the data has NaN as 'prompt'"),
        ([*ROWS[:1], {"prompt": "a", "answer": math.nan}], "row 1 of the data has NaN as 'answer'"),
        (
            [{"prompt": "a"}, {"prompt": [QUESTION]}],
            "row 1 of the data has a prompt in messages, but those before have text",
        ),
        ([{"prompt": "a", "completion": 3}], "a int as completion"),
        ({"train": ROWS, "test": [{"prompt": ""}]}, "row 0 of the split test of the data has an empty prompt"),
        ({"a": ROWS, "b": ROWS}, "has the splits a, b, but none is called train"),
        (3, "got a int"),
        (iter(ROWS), "a dataset that is streamed has no rows by number"),
    ],
)
def test_rows_that_cannot_be_learnt_from_are_refused_with_their_number(rows, said):
    with pytest.raises(BadDataset, match=said):
        PromptTask(rows, right)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.jsonl", '{"prompt": "a"}\n{"prompt": \n', r"line 2 of .*rows.jsonl is no JSON"),
        ("rows.jsonl", '{"prompt": "a", "level": NaN}\n', r"line 1 of .*rows.jsonl holds NaN"),
        ("rows.jsonl", "[" * 100_000, "is no JSON"),
        ("rows.json", '{"prompt": "a"}', r"rows.json holds a dict"),
        ("rows.json", "", "is no JSON"),
        ("rows.csv", "prompt,answer\na,1\nb\n", r"line 3 of .*rows.csv has not as many values"),
        ("rows.csv", "prompt,answer\na,1,2\n", r"line 2 of .*rows.csv has not as many values"),
        ("rows.parquet", "no parquet", "rows.parquet cannot be read"),
        ("rows.jsonl", "\udce9", "rows.jsonl cannot be read: UnicodeDecodeError"),
        ("rows.jsonl", "", "holds no rows"),
    ],
)
def test_files_that_are_something_else_are_refused_with_the_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(BadDataset, match=said):
        PromptTask(tmp_path / name, right)


def test_a_place_where_nothing_is_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadDataset, match=r"there is no file missing\.jsonl"):
        PromptTask("missing.jsonl", right)
    with pytest.raises(BadDataset, match=r"holds no rows: no file ends in \.jsonl"):
        PromptTask(tmp_path / "empty", right)
    with pytest.raises(BadDataset, match="there is no file or folder a/b/c"):
        PromptTask("a/b/c", right)


def test_a_name_that_is_no_file_is_asked_of_the_hub(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(*given):
        asked.append(given)
        return datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(everything(PromptTask("owner/name", right, subset="main"))) == len(ROWS)
    assert asked == [("owner/name", "main")]

    def fail(*given):
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        BadDataset, match=r"could be had from the Hugging Face hub \(ConnectionError: no route\); without network"
    ):
        PromptTask("owner/name", right)


# Rewards.


def test_rewards_are_functions_or_where_they_are(files):
    sample = answers("4", answer="4")
    for reward in (right, "rewards.py:right", [right], {"right": "rewards.py:right"}):
        with PromptTask(ROWS, reward).judge() as judge:
            assert judge(sample).parts["right"].tolist() == [1.0]
    task = PromptTask(ROWS, ["rewards.py:right", "rewards.py:short"], weights={"short": 0.5})
    with task.judge() as judge:
        assert judge(sample).total.tolist() == [0.5]


def test_several_rewards_may_be_named_with_commas_between(files):
    task = PromptTask("rows.jsonl", "rewards.py:right, rewards.py:short", weights=[1.0, 2.0])
    assert [*task.rewards] == ["right", "short"] and again(task).describe() == task.describe()
    Path("a,b.py").write_text(REWARDS)
    assert [*PromptTask(ROWS, "a,b.py:right").rewards] == ["right"]


@pytest.mark.parametrize(
    ("reward", "error", "said"),
    [
        ([], BadSetting, "at least one"),
        ("rewards", BadSetting, "file.py:function or module:function, got 'rewards'"),
        ("rewards.py:rigth", UnknownName, "did you mean 'right'"),
        ("rewards.py:number", BadSetting, "is a int, but a reward is a function"),
        ("missing.py:right", PalaestraError, "there is no file"),
        (3, BadSetting, "a reward is a function"),
    ],
)
def test_rewards_that_are_none_are_refused(files, reward, error, said):
    with pytest.raises(error, match=said):
        PromptTask(ROWS, reward)


@pytest.mark.parametrize(
    "settings", [{"weights": [1, 2]}, {"held_out": 1.0}, {"limit": 0}, {"on_error": "go on"}, {"timeout": -1.0}]
)
def test_settings_that_make_no_sense_are_refused_at_once(settings):
    with pytest.raises(BadSetting):
        PromptTask(ROWS, right, **settings)


def test_limits_are_the_tasks():
    task = PromptTask(ROWS, right, limit=7, stops=["\n"])
    assert task.max_tokens == 7 and task.stop == ("\n",) and task.tokeniser() is None


# Preferences.

ASKED = [{"role": "user", "content": "why?"}]


def said(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


PAIRS = {
    "standard": ({"prompt": "why?", "chosen": "so", "rejected": "no"}, "why?"),
    "conversational": ({"prompt": ASKED, "chosen": said("so"), "rejected": said("no")}, ASKED),
    "conversational with an implicit prompt": ({"chosen": ASKED + said("so"), "rejected": ASKED + said("no")}, ASKED),
    "with the prompt as text beside it": (
        {
            "prompt": "why?",
            "chosen": ASKED + said("so"),
            "rejected": ASKED + said("no"),
            "messages": ASKED + said("so"),
        },
        ASKED,
    ),
}


@pytest.mark.parametrize("form", PAIRS)
def test_pairs_as_trl_has_them_are_rows_with_prompt_and_answers_and_need_no_reward(form):
    datasets = pytest.importorskip("datasets")
    row, asked = PAIRS[form]
    for data in ([row], datasets.Dataset.from_list([row])):
        (made,) = everything(PromptTask(data, held_out=0.0))
        assert (made["prompt"], made["chosen"], made["rejected"], made["completion"]) == (asked, "so", "no", "so")
        assert ranked_of(made).answers == ["so", "no"]


def test_a_pair_of_texts_without_a_prompt_is_parted_at_the_last_answer():
    talk = "\n\nHuman: why?\n\nAssistant:"
    (row,) = everything(PromptTask([{"chosen": f"{talk} so", "rejected": f"{talk} some"}], held_out=0.0))
    assert (row["prompt"], row["chosen"], row["rejected"]) == (talk, " so", " some")


def test_rows_of_one_prompt_are_held_out_together_however_it_was_said():
    rows = [{"chosen": f"What is {i % 50}? {i}", "rejected": f"What is {i % 50}? no"} for i in range(200)]
    task = PromptTask(rows, held_out=0.3)
    assert len(task.rows("train")) + len(task.rows("test")) == 200
    assert not set(map(prompt, task.rows("train"))) & set(map(prompt, task.rows("test")))


def test_the_best_answer_is_the_completion_where_there_is_none():
    rows = [{"prompt": "p", "completions": ["a", "b"], "scores": [0.0, 1.0]}]
    assert everything(PromptTask(rows, held_out=0.0))[0]["completion"] == "b"
    assert everything(PromptTask([{**rows[0], "completion": "a"}], held_out=0.0))[0]["completion"] == "a"


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "row 1 of the data has the same answer"),
        ({"prompt": "p", "chosen": "a", "rejected": ""}, "row 1 of the data has an empty answer"),
        ({"prompt": "p", "completions": ["a"], "scores": [math.nan]}, "row 1 of the data has 'nan' in scores"),
        ({"prompt": "p", "completion": "a", "label": "bad"}, "row 1 of the data has 'bad' as label"),
        (
            {"chosen": ASKED + said("so"), "rejected": said("no")},
            "row 1 of the data pairs answers to different prompts",
        ),
        ({"chosen": "so", "rejected": "no"}, "row 1 of the data has no prompt"),
        ({"chosen": "so"}, "row 1 of the data has no 'prompt'"),
    ],
)
def test_a_wrong_row_of_preferences_is_named_or_left_out_as_asked(row, wrong):
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    with pytest.raises(BadDataset, match=wrong):
        PromptTask([good, row, good])
    with pytest.warns(UserWarning, match=f"1 of 3 rows of the data are wrong and left out; the first: {wrong}"):
        task = PromptTask([good, row, good], held_out=0.0, faulty="skip")
    assert len(task.rows("train")) == 2
    with pytest.raises(BadDataset, match=f"all rows of the data are wrong; the first: {wrong.replace('1', '0')}"):
        PromptTask([row], faulty="skip")


@pytest.mark.parametrize(
    "answers",
    [
        {"chosen": said("a"), "rejected": said("b")},
        {"completion": said("a")},
        {"completions": [said("a")], "scores": [1]},
    ],
)
def test_answers_in_messages_to_a_prompt_in_text_are_refused(answers):
    with pytest.raises(
        BadDataset, match="row 0 of the data has a prompt in text and answers in messages; give the prompt"
    ):
        PromptTask([{"prompt": "why?", **answers}], held_out=0.0)
    assert everything(PromptTask([{"prompt": ASKED, **answers}], held_out=0.0))[0]["completion"] == "a"


@pytest.mark.parametrize("row", [{"prompt": "p", "chosen": None, "rejected": "a"}, {"prompt": "p"}])
@pytest.mark.parametrize("at", [0, 1])
def test_a_row_without_a_preference_among_rows_with_one_is_named_or_left_out_as_asked(row, at):
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}] * 3
    rows.insert(at, row)
    wrong = f"row {at} of the data has no chosen and rejected, or nothing in them, while other rows have"
    with pytest.raises(BadDataset, match=wrong):
        PromptTask(rows)
    with pytest.warns(UserWarning, match=f"1 of 4 rows of the data are wrong and left out; the first: {wrong}"):
        task = PromptTask(rows, held_out=0.0, faulty="skip")
    assert [row["chosen"] for row in task.rows("train")] == ["a"] * 3
    assert len(PromptTask([row] * 2).rows("train")), "prompts alone are no preferences"


def test_labels_and_scores_of_answers_are_the_rewards_affair_where_there_is_one():
    rows = [{"prompt": "p", "completion": "a", "label": "a class", "answer": "a"}]
    assert everything(PromptTask(rows, right, held_out=0.0))[0]["label"] == "a class"


@pytest.mark.parametrize("column", [{"label": "a class"}, {"label": True}, {"score": 3}])
@pytest.mark.parametrize(
    ("wrong", "said"), [({"completion": " "}, "an empty answer"), ({"truncated": [True] * 2}, "1 answers and 2 flags")]
)
def test_an_answer_is_checked_where_there_is_a_reward_too(column, wrong, said):
    row = {"prompt": "p", "completion": "a", "answer": "a", **column}
    with pytest.raises(BadDataset, match=f"row 1 of the data has {said}"):
        PromptTask([row, {**row, **wrong}], right)


def test_without_a_reward_nothing_is_scored_and_nothing_evaluated():
    task = PromptTask([{"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in range(50)])
    assert len(task.rows("test")) and not task.evaluates and task.label == "prompts"
    for judge in (task.judge, task.gold, task.pair_judge):
        with pytest.raises(BadSetting, match="to score answers, prompts needs a reward: a function"):
            judge()
    assert PromptTask([{"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in range(50)], right).evaluates


def test_pairs_are_made_again_without_a_reward_and_refused_with_other_answers():
    pairs = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in range(20)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    task = PromptTask("rows.jsonl")
    assert again(task).describe() == task.describe() and "reward" not in task.describe()["kwargs"]
    pairs[3]["rejected"] = "c"
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    with pytest.raises(BadDataset, match="other rows than the run"):
        again(task)


# Pair judges.


def spoken(words):
    """A pair judge that always does the same."""

    def better(rows, first, second):
        return words(first)

    return better


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            lambda first: {}["x"],
            r"the pair judge better raised KeyError .*test_prompts.py:\d+. Example: answers 'a' and 'b'",
        ),
        (lambda first: time.sleep(10), "the pair judge better took longer than 1.0 seconds"),
        (lambda first: [2.0] * len(first), "better gave 2 as number 1 of 2; it should be between 0 and 1"),
        (lambda first: [0.5], "better gave numbers of shape .* where 2 were asked for"),
    ],
)
def test_a_pair_judge_that_fails_is_named_or_its_pairs_are_ties_as_asked(words, said):
    asked = [{"prompt": "p"}] * 2, ["a", "c"], ["b", "d"]
    with pytest.raises(RewardFailed, match=said):
        PromptTask(ROWS, compare=spoken(words), timeout=1.0).pair_judge()(*asked)
    judge = PromptTask(ROWS, compare=spoken(words), timeout=1.0, on_error="skip").pair_judge()
    with pytest.warns(UserWarning, match=f"pairs are left without a verdict: {said}"):
        assert judge(*asked).tolist() == [0.5, 0.5]
    assert judge.unsaid.tolist() == [True, True]


def test_a_pair_judge_of_other_arguments_is_refused_before_it_is_asked():
    def better(prompts, pairs):
        return [0]

    with pytest.raises(BadSetting, match=r"better\(prompts, pairs\) is no pair judge, .*: rows, first and second"):
        PromptTask(ROWS, compare=better).pair_judge()
    PromptTask(ROWS, compare=lambda *given: [0.5]).pair_judge()


def test_who_asks_for_scores_where_pairs_are_compared_is_told_so():
    with pytest.raises(BadSetting, match="its pair judge compares answers and scores none"):
        PromptTask(ROWS, compare=spoken(len)).judge()


# Being made again.


def again(task: PromptTask) -> PromptTask:
    """The task that a run's config.yaml makes."""
    described = yaml.safe_load(yaml.safe_dump(task.describe()))
    assert described["kind"] == "prompts"
    return as_task(described["spec"], **described["kwargs"])


def test_a_task_named_by_text_is_made_again_from_any_folder(files, tmp_path_factory, monkeypatch):
    rewards = {"right": "rewards.py:right", "short": "rewards.py:short"}
    task = PromptTask("rows.jsonl", rewards, weights=[1.0, 2.0], limit=9, stops=("\n",), on_error="skip")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    made = again(task)
    assert made.describe() == task.describe() and [*made.rows("test")] == [*task.rows("test")]
    assert made.name == "rows" and made.judge().weights == {"right": 1.0, "short": 2.0}


def test_functions_that_a_module_defines_are_found_again(files):
    assert again(PromptTask("rows.jsonl", right)).rewards == {"right": right}


def test_the_command_line_can_say_all_that_is_text(files):
    flags = [
        "--task.data",
        "rows.jsonl",
        "--task.reward",
        "rewards.py:right",
        "rewards.py:short",
        "--task.weights",
        "1",
        "0.5",
    ]
    parser = Parser("train", "")
    add_settings(parser, PromptTask, "task", "settings")
    given = parser.read([*flags, "--task.stops", "=", "--task.timeout", "none", "--task.on-error", "skip"])
    task = PromptTask(**settings_from(given, PromptTask, "task."))
    assert list(task.rewards) == ["right", "short"] and task.judge().weights == {"right": 1.0, "short": 0.5}
    assert task.stop == ("=",) and task.timeout is None and task.on_error == "skip"


def test_folders_are_named_after_the_data_the_rewards_and_what_was_changed(files):
    assert PromptTask("rows.jsonl", ["rewards.py:right", "rewards.py:short"]).label == "rows-reward=right+short"
    assert PromptTask(ROWS, right, limit=9).label == "prompts-reward=right-limit=9"


def test_a_text_is_one_stop_and_several_are_several():
    rows = [{"prompt": "a", "answer": "b"}, {"prompt": "c", "answer": "d"}]
    assert PromptTask(rows, stops="the").stop == ("the",)
    assert PromptTask(rows, stops=["t", "he"]).stop == ("t", "he")


def test_settings_that_were_not_changed_are_not_described(files):
    assert set(PromptTask("rows.jsonl", "rewards.py:right").describe()["kwargs"]) == {"data", "reward", "digest"}


@pytest.mark.parametrize(
    ("data", "reward", "said"),
    [
        (
            ROWS,
            right,
            "the data of this run was given as a list, which its folder does not hold; resume it with the same call",
        ),
        ("rows.jsonl", lambda completions: [], "the reward of this run was given as the function .*lambda"),
        (
            "rows.jsonl",
            [right, len, lambda completions: []],
            "the reward of this run was given as the function .*lambda",
        ),
        ("rows.jsonl", {"a": right, "b": lambda completions: []}, "the reward of this run"),
    ],
)
def test_what_cannot_be_made_again_is_said_so(files, data, reward, said):
    task = PromptTask(data, reward)
    with pytest.raises(BadSetting, match=said):
        again(task)


def test_a_run_does_not_go_on_with_other_rows(files):
    task = PromptTask("rows.jsonl", "rewards.py:right")
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, ROWS[:-1])))
    with pytest.raises(BadDataset, match="has other rows than the run"):
        again(task)


@pytest.mark.parametrize(
    ("reward", "code"),
    [
        ("os:system", ["os:system"]),
        ("data:system", ["data:system"]),
        (["a.py:f", "b.py:g"], ["a.py:f", "b.py:g"]),
        ({"x": "a.py:f", "y": ["b:g"]}, ["a.py:f", "b:g"]),
        (None, []),
        ({prompts.NOT_KEPT: "a function"}, ["a function"]),
    ],
)
def test_rewards_are_code_that_a_runs_folder_names(reward, code):
    config = {"method": "sac", "task": {"kind": "prompts", "spec": "countdown", "kwargs": {"reward": reward}}}
    assert named_code(config) == code


def test_no_task_is_made_twice_with_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PromptTask(ROWS, right)


# Evaluation.


def length(completions, **columns):
    return [float(len(text)) for text in completions]


class Speaker:
    """Says how it was asked."""

    def answer(self, rows, *, copies, greedy, **how):
        self.asked = (len(rows), copies, greedy)
        return answers(*["a"] * (len(rows) * copies))


@pytest.mark.parametrize(("samples", "asked"), [(0, (3, 1, True)), (1, (3, 1, False)), (4, (3, 4, False))])
def test_an_evaluation_takes_the_likeliest_answer_to_each_prompt_or_samples_as_many_as_it_is_told(samples, asked):
    rows = [{"prompt": f"prompt {i}"} for i in range(3)]
    task = PromptTask(rows, test=[{"prompt": f"held out {i}"} for i in range(3)], reward=length, samples=samples)
    speaker = Speaker()
    outcome = task.evaluate(speaker, 100, 0)
    assert speaker.asked == asked and len(outcome.returns) == asked[0] * asked[1]
    assert task.describe()["kwargs"].get("samples", 0) == samples


def test_a_negative_number_of_samples_is_refused():
    with pytest.raises(BadSetting, match="samples must not be negative, got -1"):
        PromptTask([{"prompt": "a"}], reward=length, samples=-1)


# Numbers of rows.


MANY = [{"prompt": f"prompt {i}", "chosen": "a", "rejected": "b"} for i in range(50)]


def asked(**settings):
    return [row["prompt"] for row in PromptTask(MANY, test=[{"prompt": "held out"}], **settings).rows("train")]


def test_as_many_rows_are_drawn_as_are_asked_for_in_their_order_and_fewer_are_among_more():
    few, more = asked(train_rows=10), asked(train_rows=30)
    assert (len(few), len(more)) == (10, 30) and set(few) < set(more) < set(asked())
    assert few == asked(train_rows=10) != asked(train_rows=10, draw=1)
    assert more == [prompt for prompt in asked() if prompt in more]


def test_more_rows_than_there_are_cannot_be_drawn():
    with pytest.raises(BadSetting, match="a number of the 50 rows, got 51"):
        asked(train_rows=51)
