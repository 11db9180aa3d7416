"""The table for a terminal, and the words and numbers of a report."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaestra.core.errors import PalaestraError
from palaestra.report.summary import across, by_task
from palaestra.report.table import text_table
from palaestra.report.text import clean, duration, number, seeds
from palaestra.runs.record import load_records

from .made_runs import write_comparison, write_run


def test_methods_stand_in_the_order_of_their_scores():
    lines = text_table(load_records(write_comparison("all"))).splitlines()
    assert lines[0] == "Pendulum-v1"
    assert [line.split()[0] for line in lines[3:5]] == ["good", "bad"]
    assert "0–4" in lines[3] and "1,000" in lines[3]


def test_few_seeds_come_with_a_warning_and_enough_without():
    assert "With 2 seeds" in text_table(load_records(write_comparison("few", seeds=2)))
    assert "One seed" in text_table(load_records(write_comparison("one", seeds=1)))
    assert "seeds an interval" not in text_table(load_records(write_comparison("enough", seeds=5)))


def test_a_run_whose_last_round_went_beyond_the_budget_is_named():
    folder = write_run("run", [1.0], method="inpo", steps=20)
    record = json.loads((folder / "run.json").read_text())
    record["counters"]["steps"] = 24
    (folder / "run.json").write_text(json.dumps(record))
    write_run("other", [1.0], method="dpo", steps=20)
    said = text_table(load_records(["run", "other"]))
    assert said.endswith("Rounds are not cut off at the budget: inpo made 24 steps.")


def test_budgets_that_differ_are_whole_numbers_in_their_order():
    write_run("large", [1.0], method="a", steps=300_000)
    write_run("small", [1.0], method="b", steps=20)
    assert "The budgets differ: 20 steps, 300,000 steps." in text_table(load_records(["large", "small"]))


def test_a_run_that_did_not_finish_is_said_to_be_so():
    write_run("run", [1.0], status="diverged", reason="loss/critic became nan")
    assert "sac seed 0 is diverged (loss/critic became nan)" in text_table(load_records("run"))


def test_a_run_without_evaluations_has_a_row_without_numbers():
    folder = write_run("run", [1.0], status="running")
    (folder / "metrics.jsonl").write_text("")
    assert " – " in text_table(load_records("run"))


def test_no_runs_are_refused():
    with pytest.raises(PalaestraError, match="no runs"):
        text_table([])


def test_what_cannot_be_told_apart_is_said_to_be_so():
    for seed in range(3):
        write_run(f"a{seed}", [float(seed)], method="a", seed=seed)
        write_run(f"b{seed}", [float(seed)], method="b", seed=seed)
    (group,) = by_task(load_records([f"{m}{s}" for m in "ab" for s in range(3)]))
    assert group.finding.endswith("these seeds do not tell the two apart.")


def test_several_tasks_are_also_compared_as_one_on_a_common_scale():
    write_comparison("all", "Pendulum-v1")
    write_comparison("all", "CartPole-v1")
    groups = by_task(load_records("all"))
    overall = across(groups)
    assert [entry.label for entry in overall.entries] == ["good", "bad"]
    assert [len(stratum) for stratum in overall.entries[0].strata] == [5, 5]
    # Scores of good are 9 to 13, of bad 3 to -1: on [0, 1] the middle of good is (11 + 1) / 14.
    assert overall.entries[0].iqm.value == pytest.approx(12 / 14)
    assert across(groups[:1]) is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (-152.34, "−152"),
        (12.345, "12.3"),
        (1.5, "1.50"),
        (0.1234, "0.123"),
        (123456, "123,456"),
        (float("nan"), "–"),
    ],
)
def test_numbers_show_three_digits_or_all_before_the_point(value, shown):
    assert number(value) == shown


def test_durations_are_read_at_a_glance():
    assert [duration(s) for s in (2.2, 42.4, 75, 3725)] == ["2.2 s", "42 s", "1 min 15 s", "1 h 02 min"]


def test_seeds_are_read_at_a_glance():
    assert seeds([0, 1, 2, 3, 7, 9, 10]) == "0–3, 7, 9, 10"


@given(st.text() | st.text(alphabet="\u202e\u2066\x00\x1b\ud800a"))
def test_cleaned_text_is_printable_in_any_terminal_and_file(text):
    shown = clean(text)
    shown.encode()
    assert not set(shown) & set("\u202e\u2066\x00\x1b\n\r\u200b")
    assert len(shown) <= 161
