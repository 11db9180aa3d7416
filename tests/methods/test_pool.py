"""The answers that methods of direct alignment learn from: the rows' own, drawn ones, or both."""

from __future__ import annotations

import pytest
import torch

from palaestra.core.errors import BadSetting, Unsupported
from palaestra.core.method import Budget
from palaestra.language.judges.judge import Judge
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.language.tasks.sorting import Sorting
from palaestra.methods.preference.pro import PRO

SMALL = {"model": "tiny-16x1", "prompts": 4}


class Lengths(NoisySort):
    def judge(self):
        return Judge(lambda completions, **columns: [float(len(text)) for text in completions])


def answers(task, **settings):
    method = PRO(**SMALL, **settings).bind(task, 0, Budget(updates=9))
    tokeniser, pool = method.language_policy.tokeniser, method.pool
    said = [
        [(tokeniser.decode(part.action[part.mask], skip_special_tokens=True), float(part.reward[0])) for part in group]
        for group in map(pool.answers, range(8))
    ]
    return said, [pool.rows[int(i)] for i in pool.first[:8]]


def test_rows_own_answers_may_stand_beside_drawn_ones_and_all_are_judged_alike():
    task = Lengths(train_rows=150)
    both, rows = answers(task, drawn=2, beside=True)
    drawn, _ = answers(task, drawn=2)
    for group, others, row in zip(both, drawn, rows, strict=True):
        assert [text for text, _ in group[:2]] == row["completions"] and group[2:] == others
        assert all(score == len(text) for text, score in group[:2])


def test_without_drawn_answers_nothing_stands_beside_rows_own():
    with pytest.raises(BadSetting, match="give drawn"):
        PRO(beside=True).check()


def test_rows_without_answers_have_none_to_stand_beside():
    with pytest.raises(Unsupported, match="have no judged answers"):
        PRO(**SMALL, drawn=2, beside=True).check_task(Sorting())


def test_a_list_of_people_s_pair_and_the_model_s_own_answers_is_learnt_from():
    method = PRO(**SMALL, drawn=2, beside=True).bind(Lengths(train_rows=150), 0, Budget(updates=9))
    assert torch.isfinite(method.step()["loss/preference"])
    assert method.counters.episodes == 4 * 4
