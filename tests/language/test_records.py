"""Judged answers are written down as rows, and another run learns from them, with what gave them as its reference."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadDataset, BadSetting
from palaestra.core.method import Budget
from palaestra.language.preferences import logps_of
from palaestra.language.records import record, recording, rows_of
from palaestra.language.sample import Sample
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.language.tasks.prompts import PromptTask
from palaestra.methods.language.rloo import RLOO
from palaestra.methods.preference.dno import DNO
from palaestra.methods.preference.dpo import DPO
from palaestra.methods.preference.inpo import INPO
from palaestra.methods.preference.pro import PRO
from palaestra.methods.preference.tdpo import TDPO1

TASK = NoisySort(train_rows=150)
QUIET = {"quiet": True, "tensorboard": False, "evaluate_every": 0}


class Digits(PromptTask):
    """Rows that a model from scratch can read."""

    def tokeniser(self):
        return TASK.tokeniser()


class Reader:
    """Reads a letter as the token of its place."""

    def completion_ids(self, text):
        return torch.tensor([1 + i for i in range(len(text))] + [1 + len(text)])


def said(text, logp=(-1.0, -2.0), group=0, source=0, row=None, truncated=False, messages=()):
    ids = torch.arange(1 + len(logp))  # as `Reader` reads one letter and the end
    told = torch.tensor([0.0, *logp])
    row = row or {"prompt": "2+2="}
    return Sample(ids, ids > 0, told, told, 1, text, truncated, row, group, {}, 0.5, messages, source)


def trained(folder="run", method=None, **engine):
    method = method or RLOO(model="tiny-16x1", prompts=3, group=2, lr=1e-2)
    return pal.Run(method, TASK, updates=4, folder=folder, engine=pal.Engine(**QUIET, **engine))


def lines(folder):
    return [json.loads(line) for line in Path(folder, "rounds.jsonl").read_text().splitlines()]


# What is written.


def test_scores_are_written_in_no_more_digits_than_they_have():
    reward = float(torch.tensor(0.6))
    (row,) = rows_of([dataclasses.replace(said("4"), reward=reward)], Reader())
    assert json.dumps(row["scores"]) == "[0.6]" and float(torch.tensor(row["scores"][0])) == reward


def test_the_answers_to_a_prompt_are_one_row_with_the_columns_that_it_had():
    row = {"prompt": "2+2=", "level": 3, "video": torch.zeros(1)}
    first, second = said("4", row=row), said("56", logp=(-3.0, -0.5), row=row, truncated=True)
    assert list(rows_of([first, second], Reader())) == [
        {
            "prompt": "2+2=",
            "level": 3,
            "completions": ["4", "56"],
            "scores": [0.5, 0.5],
            "logps": [-3.0, -3.5],
            "truncated": [False, True],
        }
    ]


def test_a_teacher_has_not_said_how_likely_its_answer_was_and_an_answer_without_a_word_is_left_out():
    (row,) = rows_of([said(" "), said("4", source=1)], Reader())
    assert row["completions"] == ["4"] and row["logps"] == [None]
    assert list(rows_of([said("")], Reader())) == []


def test_what_a_text_is_not_read_as_says_nothing_of_how_likely_it_was():
    (row,) = rows_of([said("4"), said("4", logp=(-1.0, -2.0, -3.0)), said("45")], Reader())
    assert row["logps"] == [-3.0, None, None]


def test_an_answer_with_two_scores_is_left_out_as_in_a_duel_with_itself():
    duel = [said("4"), said("4 "), said("5", group=1), said("5", group=1), said("6", group=1)]
    for sample, won in zip(duel, (1.0, 0.0, 1.0, 1.0, 0.0), strict=True):
        sample.reward = won
    (row,) = rows_of(duel, Reader())
    assert row["completions"] == ["5", "5", "6"]


def test_conversations_are_no_rows():
    with recording(print), pytest.raises(BadSetting, match="several turns"):
        record([said("4", messages=({"role": "assistant", "content": "4"},))], Reader())


def test_nothing_is_written_unless_somebody_wants_it():
    found = []
    with recording(found.append):
        record([said("4")], Reader(), round=7)
    record([said("4")], Reader(), round=8)
    assert [row["round"] for row in found] == [7]


# Runs.


def test_a_run_keeps_all_that_its_rounds_judged_if_it_is_asked_to():
    trained("plain").train()
    assert not Path("plain/rounds.jsonl").exists()
    trained("kept", keep_answers=True).train()
    rows = lines("kept")
    assert [row["round"] for row in rows] == [r for r in range(4) for _ in range(3)]
    assert all(len(row["completions"]) == len(row["logps"]) <= 2 for row in rows)
    assert any(logp is not None for row in rows for logp in row["logps"])


def test_keeping_them_changes_nothing():
    trained("plain").train()
    trained("kept", keep_answers=True).train()
    files = [Path(folder, "policy/model.safetensors").read_bytes() for folder in ("plain", "kept")]
    assert files[0] == files[1]


def test_a_run_that_is_killed_and_goes_on_has_each_answer_once(monkeypatch):
    trained("whole", keep_answers=True, checkpoint_every=2).train()
    step, calls = RLOO.step, []

    def mortal(self):
        calls.append(None)
        if len(calls) == 4:
            raise SystemExit
        return step(self)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(RLOO, "step", mortal)
        trained("cut", keep_answers=True, checkpoint_every=2).train()
    assert len(lines("cut")) == 9
    trained("cut", keep_answers=True, checkpoint_every=2).train(resume=True)
    assert Path("cut/rounds.jsonl").read_bytes() == Path("whole/rounds.jsonl").read_bytes()


def test_contests_are_kept_with_what_answers_have_won():
    method = DNO(model="tiny-16x1", prompts=4, group=2, minibatches=2, teacher="column:completion")
    trained("rounds", method, keep_answers=True).train()
    rows = lines("rounds")
    assert len(rows) == 8
    assert all(row["completions"][-1] == row["completion"] and row["logps"][-1] is None for row in rows)


def test_answers_that_were_drawn_for_a_loss_of_pairs_are_kept_too():
    trained("drawn", DPO(model="tiny-16x1", prompts=4, drawn=2), keep_answers=True).train()
    assert {len(row["scores"]) for row in lines("drawn")} == {1, 2}


# Learning from them.


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    run = trained(folder / "run", RLOO(model="tiny-16x1", prompts=40, group=2, lr=1e-9), keep_answers=True)
    run.train()
    return folder / "run"


def test_another_run_learns_from_what_a_run_has_kept(kept):
    task = PromptTask(str(kept / "rounds.jsonl"))
    method = PRO(model=str(kept), prompts=8).bind(task, 0, Budget(updates=10))
    assert math.isfinite(method.step()["loss/preference"])


def test_another_run_learns_from_duels_though_some_are_of_an_answer_with_itself():
    method = INPO(model="tiny-16x1", prompts=8, minibatches=1, temperature=0.1, max_tokens=2)
    trained("run", method, keep_answers=True).train()
    rows = lines("run")
    assert 0 < len(rows) < 32 and all(len(set(row["completions"])) == len(row["completions"]) for row in rows)
    task = PromptTask("run/rounds.jsonl", held_out=0.0)
    assert math.isfinite(DPO(model="run", prompts=8).bind(task, 0, Budget(updates=10)).step()["loss/preference"])


def test_what_gave_the_answers_is_the_reference_as_a_model_would_be(kept):
    """The run hardly moved, so that its policy and what was recorded say the same of every answer."""
    told = [row for row in lines(kept) if len(row["logps"]) == 2 and None not in row["logps"]]
    rows = [{**row, "scores": [1, 0]} for row in told]
    task = PromptTask(rows)
    losses = [
        DPO(model=str(kept), reference=reference, prompts=8, beta=3.0).bind(task, 0, Budget(updates=10)).step()
        for reference in ("", "recorded")
    ]
    for name in ("loss/preference", "preference/margin", "preference/chosen"):
        torch.testing.assert_close(losses[0][name], losses[1][name], rtol=0.0, atol=2e-3)


PAIR = {"prompt": "2+2=", "chosen": "4", "rejected": "5"}


def test_what_trl_computes_in_advance_of_pairs_is_read_as_it_is():
    assert logps_of({**PAIR, "ref_chosen_logps": -1.5, "ref_rejected_logps": -2}) == [-1.5, -2.0]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (PAIR, "does not say how likely its answers were: it has no ref_chosen_logps"),
        ({"prompt": "a", "completions": ["x", "y"], "scores": [1, 0], "logps": [-1.0]}, "2 answers and 1 log-prob"),
        ({"prompt": "a", "completion": "x", "score": 1, "logp": 0.5}, "a log-probability of 0.5; it is at most 0"),
    ],
)
def test_rows_without_log_probabilities_are_refused_where_these_are_the_reference(row, why):
    with pytest.raises(BadDataset, match=why):
        logps_of(row)
    if "completion" not in row:
        with pytest.raises(BadDataset, match=why):
            DPO(model="tiny-16x1", reference="recorded").check_task(PromptTask([row, row | {"prompt": "b"}]))


def test_answers_without_a_log_probability_are_left_out_of_what_is_compared_with_it():
    row = {"prompt": "1=", "completions": ["0", "1", "2"], "scores": [2, 1, 0], "logps": [-1.0, None, -2.0]}
    method = DPO(model="tiny-16x1", reference="recorded")
    with pytest.warns(UserWarning, match="1 of 3 answers of prompts do not say how likely they were"):
        bound = method.bind(Digits([row], held_out=0.0), 0, Budget(updates=1))
    assert [float(part.ref_logp.sum()) for part in bound.pool.answers(0)] == [-1.0, -2.0]
    with pytest.raises(BadSetting, match="no answer of prompts says"):
        method.check_task(PromptTask([row | {"logps": [None] * 3}], held_out=0.0))


@pytest.mark.parametrize("method", [PRO, TDPO1])
def test_a_recorded_reference_is_refused_where_it_would_be_asked_more_or_nothing(method):
    with pytest.raises(BadSetting, match="name a model as reference"):
        method(reference="recorded").check()


def test_a_recorded_reference_draws_nothing():
    with pytest.raises(BadSetting, match="draws no answers"):
        DPO(reference="recorded", drawn=2).check()
