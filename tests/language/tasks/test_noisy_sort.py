"""Sorting with spoilt demonstrations: how they are spoilt, what they score, and which way round."""

from __future__ import annotations

import random

import pytest

from palaestra.core.errors import BadSetting
from palaestra.language.preferences import ranked_of
from palaestra.language.sample import Sample
from palaestra.language.tasks.noisy_sort import NoisySort, share_right, spoilt
from tests.language.judges.samples import answers
from tests.language.tasks.laws import holds, scores


def mean_score(task: NoisySort, rows: int = 3000) -> float:
    return sum(row["scores"][0] for row in task.rows("train")[:rows]) / rows


def test_it_keeps_the_contract_of_generated_tasks():
    holds(NoisySort(), right=False, part="right")
    holds(NoisySort(noise=0.0, digits=6), part="right")


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("1359", 1.0),
        ("1358", 0.8),
        ("135", 0.6),
        ("13599", 0.8),
        ("3159", 0.6),
        ("", 0.0),
        ("9531", 0.2),
        ("1359=", 0.8),
    ],
)
def test_a_score_is_the_share_of_right_places_of_which_the_end_is_one(text, share):
    assert share_right(text, "1359") == pytest.approx(share)


@pytest.mark.parametrize(
    ("settings", "mean"),
    [
        ({}, (4 * (1 - 0.35 * 7 / 8) + 1) / 5),
        ({"biased": True}, (4 * 0.45 + 1) / 5),
        ({"noise": 0.0}, 1.0),
        ({"noise": 1.0}, (4 / 8 + 1) / 5),
        ({"noise": 1.0, "biased": True}, 1 / 5),
        ({"mix": True}, (4 * (1 - (0.15 + 0.8) / 2 * 7 / 8) + 1) / 5),
        ({"noise": 1.0, "biased": True, "places": (3, 4)}, 3 / 5),
    ],
)
def test_demonstrations_are_as_wrong_as_asked_for(settings, mean):
    assert mean_score(NoisySort(**settings)) == pytest.approx(mean, abs=0.01)


def test_a_biased_digit_is_the_next_one_and_7_becomes_0():
    assert spoilt("0367", 1.0, random.Random(0), biased=True) == "1470"
    assert spoilt("0367", 1.0, random.Random(0), biased=True, places=(1, 2)) == "1467"
    assert spoilt("0367", 0.0, random.Random(0)) == "0367"


def test_halves_of_a_mix_are_of_two_kinds():
    wrong = [sum(a != b for a, b in zip(row["completion"], row["answer"])) for row in NoisySort(mix=True).rows("train")]
    most = sum(count >= 3 for count in wrong) / len(wrong)
    none = sum(count == 0 for count in wrong) / len(wrong)
    assert most == pytest.approx(0.5 * (4 * 0.7**3 * 0.3 + 0.7**4), abs=0.04)
    assert none == pytest.approx(0.5 * ((1 - 0.15 * 7 / 8) ** 4 + 0.3**4), abs=0.04)


def test_a_row_has_answers_with_their_scores_and_imitation_takes_the_first():
    task = NoisySort(answers=4, scale=10.0)
    for row in task.rows("train")[:50]:
        ranked = ranked_of(row)
        assert len(ranked.answers) == 4 and ranked.answers[0] == row["completion"]
        assert ranked.scores == [10 * share_right(text, row["answer"]) for text in ranked.answers]
    rows = task.rows("train")[:1]
    assert scores(task, rows, [rows[0]["answer"]])["total"] == [10.0]


def test_evaluation_has_no_scale():
    task = NoisySort(scale=10.0)
    with task.gold() as judge:
        assert judge(answers("1359", answer="1359")).total.tolist() == [1.0]


def test_flipped_rows_have_the_same_answers_and_mirrored_scores():
    kept, turned = (NoisySort(answers=3, flip=flip).rows("train")[:300] for flip in (0.0, 1.0))
    for row, other in zip(kept, turned):
        assert row["completions"] == other["completions"]
        low, high = min(row["scores"]), max(row["scores"])
        assert other["scores"] == pytest.approx([high + low - score for score in row["scores"]])
    some = NoisySort(answers=3, flip=0.3).rows("train")[:300]
    unequal = [i for i, row in enumerate(kept) if len(set(row["scores"])) > 1]
    flipped = sum(some[i]["scores"] != kept[i]["scores"] for i in unequal) / len(unequal)
    assert flipped == pytest.approx(0.3, abs=0.08)


def test_the_pair_judge_prefers_what_scores_better_and_errs_as_often_as_asked_for():
    rows = [{"prompt": f"{i}=", "answer": "1359"} for i in range(500)]
    good, bad = ["1359"] * 500, ["1300"] * 500
    assert NoisySort().pair_judge()(rows, good, bad).tolist() == [1.0] * 500
    assert NoisySort().pair_judge()(rows[:1], ["1300"], ["1200"]).tolist() == [1.0]
    assert NoisySort().pair_judge()(rows[:1], ["1300"], ["1250"]).tolist() == [0.5]
    noisy = NoisySort(flip=0.1).pair_judge()
    said = noisy(rows, good, bad)
    assert said.mean().item() == pytest.approx(0.9, abs=0.04)
    assert noisy(rows, bad, good).tolist() == (1 - said).tolist()


def test_no_held_out_prompt_is_trained_on_and_there_are_hundreds():
    task = NoisySort(train_rows=20_000)
    train = {row["prompt"] for row in task.rows("train")}
    test = {row["prompt"] for row in task.rows("test")}
    assert not train & test and len(test) > 300


def test_it_is_evaluated_by_sampling():
    class Policy:
        def answer(self, rows, greedy=False, **how):
            self.greedy = greedy
            texts = [row["answer"] for row in rows]
            return [Sample(none.long(), none.bool(), none, none, 0, text, False, row) for text, row in zip(texts, rows)]

    import torch

    none, policy = torch.zeros(0), Policy()
    assert NoisySort(scale=5.0).evaluate(policy, 7, seed=0).returns == [1.0] * 7
    assert policy.greedy is False


def test_a_setting_out_of_range_is_refused():
    for settings in (
        {"noise": 1.5},
        {"flip": -0.1},
        {"answers": 0},
        {"digits": 0},
        {"scale": 0.0},
        {"places": (0,)},
        {"places": (5,)},
        {"mix": True, "noise": 0.3},
    ):
        with pytest.raises(BadSetting):
            NoisySort(**settings)
