"""Sorting for a proxy that pays for length: what the proxy adds, and what demonstrations show of it."""

from __future__ import annotations

import pytest

from palaestra.core.errors import BadSetting
from palaestra.language.preferences import cut_off, ranked_of
from palaestra.language.tasks.sort_len import SortLen
from tests.language.judges.samples import answers
from tests.language.tasks.laws import holds, scores


def test_it_keeps_the_contract_of_generated_tasks():
    holds(SortLen(ramblers=0.0), right=False, part="right")
    holds(SortLen(ramblers=0.0, noise=0.0), part="right")


@pytest.mark.parametrize(
    ("text", "gold", "proxy"),
    [
        ("0135", 1.0, 1.0),
        ("013", 0.6, 0.6),
        ("01357", 0.8, 0.85),
        ("0135" + "0" * 11, 0.8, 0.8 + 11 * 0.05),
        ("0135" + "0" * 12, 0.8, 0.8 + 11 * 0.05),
        ("1" * 16, 0.2, 0.2 + 11 * 0.05),
    ],
)
def test_the_proxy_pays_for_every_token_beyond_the_fifth_and_gold_does_not(text, gold, proxy):
    task, row = SortLen(), {"prompt": "5310=", "answer": "0135"}
    assert scores(task, [row], [text])["total"] == pytest.approx([proxy])
    with task.gold() as judge:
        assert judge(answers(text, answer="0135")).total.tolist() == pytest.approx([gold])


def test_a_share_of_demonstrations_goes_on_until_it_is_cut_off():
    task = SortLen(ramblers=0.2)
    rows = task.rows("train")
    lengths = [len(row["completion"]) for row in rows]
    assert set(lengths) == {4, 16} and task.max_tokens == 16
    for row in rows:
        assert ranked_of(row).truncated == [len(text) == 16 for text in row["completions"]]
        assert cut_off(row) == (len(row["completion"]) == 16)
    assert lengths.count(16) / len(rows) == pytest.approx(0.2, abs=0.03)


def test_rows_score_their_answers_as_the_judge_does():
    task = SortLen(ramblers=0.5)
    for row in task.rows("train")[:20]:
        ranked = ranked_of(row)
        assert scores(task, [row, row], ranked.answers)["total"] == pytest.approx(ranked.scores)


def test_a_setting_out_of_range_is_refused():
    for settings in ({"noise": 2.0}, {"ramblers": -0.1}, {"bonus": -1.0}, {"cap": 4}, {"answers": 0}):
        with pytest.raises(BadSetting):
            SortLen(**settings)
