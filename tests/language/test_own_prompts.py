"""Prompts and rewards of one's own, from the command line and from Python: trained, resumed from the folder alone, refused."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from pathlib import Path

import pytest

import palaestra as pal
from palaestra.cli.main import main
from palaestra.core.errors import BadSetting
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.language.policy import LanguagePolicy
from palaestra.language.tasks.prompts import PromptTask
from palaestra.methods.language.grpo import GRPO
from palaestra.methods.preference.dpo import DPO
from palaestra.methods.preference.inpo import INPO

REWARD = """
def digits(completions, answer, **columns):
    return [float(text.strip() == right) for text, right in zip(completions, answer)]


def short(completion_ids, **columns):
    return [1.0 / len(ids) for ids in completion_ids]
"""


@pytest.fixture
def own(tmp_path):
    """A model, rows and rewards as a user has them: a folder and two files."""
    pal.LanguagePolicy.make("tiny-16x1", as_task("sorting")).save(tmp_path / "model")
    rows = [{"prompt": f"{i}{9 - i}=", "answer": "".join(sorted(f"{i}{9 - i}"))} for i in range(10)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rewards.py").write_text(REWARD)
    return ["--task", "prompts", "--task.data", "rows.jsonl", "--task.reward", "rewards.py:digits", "rewards.py:short"]


TRAIN = ["train", "grpo", "--model", "model", "--method.prompts", "2", "--method.group", "2", "--quiet", "--out", "run"]


def test_files_and_functions_are_trained_on_and_the_run_goes_on_from_its_folder_alone(own):
    assert main([*TRAIN, *own, "--updates", "4", "--checkpoint-every", "2"]) == 0
    whole = Path("run/metrics.jsonl").read_bytes()
    run = pal.load_run("run")
    assert {"reward/digits", "reward/short"} <= set(run.metrics[0])
    newest = sorted(Path("run/checkpoints").glob("0*"))[-1]
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    assert main(["train", "--resume", "run", "--quiet"]) == 0
    assert Path("run/metrics.jsonl").read_bytes() == whole


@pytest.mark.filterwarnings("ignore:answers are left without a score")
@pytest.mark.parametrize(
    "method",
    [
        GRPO(model="model", prompts=2, group=2),
        DPO(model="model", prompts=5, drawn=2, warmup=0),
        INPO(model="model", prompts=2, group=4, minibatches=1),
    ],
    ids=lambda method: method.name,
)
def test_metrics_and_counters_say_what_share_of_answers_or_pairs_had_no_score(own, method):
    def picky(completions, **columns):
        return [math.nan if i % 4 == 3 else float(len(text)) for i, text in enumerate(completions)]

    rows = [{"prompt": f"{i}{9 - i}="} for i in range(10)]
    task = PromptTask(rows, test=[{"prompt": "00="}], reward=picky, on_error="skip")
    run = pal.train(method, task, updates=2, log_every=1, quiet=True, tensorboard=False)
    assert [row["reward/unscored"] for row in run.metrics if "reward/unscored" in row] == [0.25, 0.25]
    assert run.record["counters"]["unscored"] * 4 == run.record["counters"]["judge_calls"] > 0


def test_somebody_else_s_run_does_not_execute_its_rewards(own, monkeypatch, capsys):
    assert main([*TRAIN, *own, "--updates", "1"]) == 0
    Path("run/seal").unlink()
    assert main(["train", "--resume", "run"]) == 2
    error = capsys.readouterr().err
    assert "rewards.py:digits" in error
    assert "--trust" in error


def test_a_reward_that_raises_stops_the_run_with_its_name_and_an_example_and_nothing_is_lost(own, capsys):
    Path("rewards.py").write_text(REWARD.replace("1.0 / len(ids)", "1.0 / (len(ids) - len(ids))"))
    assert main([*TRAIN, *own, "--updates", "3"]) == 2
    error = capsys.readouterr().err
    assert "short raised ZeroDivisionError" in error
    assert "prompt '" in error
    assert json.loads(Path("run/run.json").read_text())["status"] == "failed"


def test_a_stock_trl_reward_and_dataset_run_unchanged(own):
    """A Hugging Face dataset in trl's columns, and a function in trl's signature."""
    import datasets

    def reward_len(completions, **kwargs):
        return [-abs(3 - len(completion)) for completion in completions]

    data = datasets.Dataset.from_list([{"prompt": f"{i}4=", "level": i} for i in range(8)])
    method = pal.GRPO(model="model", prompts=2, group=3)
    run = pal.train(method, pal.PromptTask(data, reward_len), updates=2, out="trl", quiet=True)
    assert run.metrics[0]["reward/mean"] <= 0


def test_evaluations_ask_for_answers_no_longer_than_those_that_are_learnt_from(own):
    def length(completion_ids, **columns):
        return [float(len(ids)) for ids in completion_ids]

    task = PromptTask([{"prompt": f"{i}{9 - i}="} for i in range(10)], reward=length, limit=40)
    method = GRPO(model="model", prompts=2, group=2, max_tokens=3)
    run = pal.train(method, task, updates=1, quiet=True, tensorboard=False)
    assert run.metrics[-1]["evaluation/length"] <= 3 and run.evaluate(2).mean <= 3
    assert task.max_tokens == 40


@pytest.mark.parametrize("split", ["train", "test"])
def test_prompts_that_leave_no_room_for_an_answer_are_refused_before_anything_is_trained(own, split):
    rows = {name: [{"prompt": "12=" * (1360 if name == split else 1)}, {"prompt": "1="}] for name in ("train", "test")}
    task = PromptTask(rows["train"], test=rows["test"], reward=lambda completions, **_: [0.0] * len(completions))
    method = GRPO(model="model", prompts=1, group=2)
    with pytest.raises(BadSetting, match=r"need 4336 positions, but the model has 4096; .*at most 16 .*--task.limit"):
        method.bind(task, 0, Budget(updates=1))


@pytest.mark.parametrize("missing", [0, 1])
def test_prompts_that_are_made_when_asked_for_are_looked_at_too(missing, monkeypatch):
    task = as_task("sorting", least=3, most=3)
    made = LanguagePolicy.make("tiny-16x1", task)
    needed = len(made.prompt_ids("123=")) + task.max_tokens
    made.model.config.max_position_embeddings = needed - missing
    monkeypatch.setattr(GRPO, "make_policy", lambda self: made)
    said = f"need {needed} positions, but the model has {needed - missing}"
    with pytest.raises(BadSetting, match=said) if missing else nullcontext():
        GRPO(model="tiny-16x1", prompts=1, group=2).bind(task, 0, Budget(updates=1))


def test_the_limit_of_a_task_is_named_to_who_calls_it_as_methods_do(own, capsys):
    assert main([*TRAIN, *own, "--updates", "1", "--task.max-tokens", "4"]) != 0
    assert "did you mean '--task.limit'?" in capsys.readouterr().err
