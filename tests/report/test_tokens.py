"""Rewards of tokens drawn over text: shades, numbers, and that text stays text."""

from __future__ import annotations

import re

import pytest

from palaestra.language.readout import Reading, Readout
from palaestra.report.page import write_report
from palaestra.report.readout import readout_text, write_readout
from palaestra.report.tokens import drawn, heat, legend, level, signed
from palaestra.runs.record import load_records

from .made_runs import write_run
from .test_page import HOSTILE


def reading(tokens=("3", "1", "</s>"), rewards=(0.5, -2.0, 0.0), **fields) -> Reading:
    return Reading(
        **{
            "prompt": "13=",
            "what": "chosen",
            "tokens": tokens,
            "rewards": rewards,
            "logp": rewards,
            "ref_logp": rewards,
            **fields,
        }
    )


def readout(*answers: Reading) -> Readout:
    return Readout(
        "runs/dpo",
        "runs/start",
        0.1,
        "noisy-sort",
        answers or (reading(score=0.4), reading(what="rejected", ended=False)),
    )


def test_shades_go_from_the_lowest_to_the_highest_reward_and_0_has_none():
    assert [level(r, 2.0) for r in (-9.0, -2.0, -1.2, 0.0, 0.1, 0.8, 2.0, 9.0)] == [0, 0, 2, 5, 5, 7, 10, 10]
    assert level(0.0, 0.0) == 5


def test_each_token_has_its_shade_and_shows_its_numbers():
    drawing = heat(reading(), 2.0)
    assert re.findall(r'<span class="p(\d+)" title="([^:"]*)', drawing) == [("6", "+0.500"), ("0", "−2.00"), ("5", "0")]
    assert ">3</span>" in drawing and "log p −2.00, of the reference −2.00" in drawing


def test_the_legend_says_which_shade_is_which_number():
    said = re.findall(r'class="p(\d+)">([^<]*)<', legend(2.0))
    assert said[0] == ("0", "≤ −2.00") and said[5] == ("5", "0") and said[-1] == ("10", "≥ +2.00")
    assert len(said) == 11


def test_a_terminal_has_rewards_below_their_tokens_and_colours_only_if_it_takes_them():
    plain = readout_text(readout())
    above, below = next((a, b) for a, b in zip(plain.splitlines(), plain.splitlines()[1:]) if "</s>" in a)
    assert above.split() == ["3", "1", "</s>"] and below.split() == ["+0.500", "−2.00", "0"]
    assert above.index("1") == below.index("−2.00") + 4
    assert "\x1b" not in plain
    coloured = readout_text(readout(), colour=True)
    assert "\x1b[48;5;202;" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain


def test_both_kinds_have_their_means_and_answers_that_did_not_end_are_counted():
    said = readout_text(readout())
    rows = {line.split()[0]: line.split() for line in said.splitlines() if line.startswith(("chosen", "rejected"))}
    assert rows["chosen"][1:4] == ["1", "0.400", "−1.50"] and rows["rejected"][1:4] == ["1", "–", "−1.50"]
    assert "1 of the answers did not come to an end" in said and "beta = 0.1" in said


def test_a_long_answer_is_folded():
    lines = readout_text(readout(reading(("word",) * 60, (0.5,) * 60))).splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line.split().count("word") for line in lines) == 60


def test_line_breaks_are_drawn():
    assert "a↵\nb" in heat(reading(("a\nb",), (1.0,)), 1.0)
    assert "a↵b" in readout_text(readout(reading(("a\nb",), (1.0,))))


def test_of_many_answers_a_report_shows_the_first():
    assert drawn(readout(*[reading()] * 9), most=2).count("said heat") == 2


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda text: repr(text[:20]))
def test_whatever_tokens_prompts_and_names_hold_stays_text(hostile, tmp_path):
    found = Readout(
        hostile, hostile, 1.0, hostile, (reading((hostile, "b"), (1.0, -1.0), prompt=hostile, what=hostile),)
    )
    page = write_readout(found, tmp_path / "tokens.html", hostile).read_text()
    for markup in ("<script", "<img", "<svg", "\x1b", "\u202e", "\x00"):
        assert markup not in page
    said = readout_text(found, colour=False)
    assert not any(c in said for c in "\x1b\u202e\x00\r")


def test_a_report_draws_the_read_out_of_a_run_that_has_one(tmp_path):
    folder = write_run(tmp_path / "a" / "seed0", [0.1, 0.2], method="dpo", task="noisy-sort", kind="prompts")
    records = load_records(folder)
    plain = write_report(records, tmp_path / "plain.html", title="t", command="c", clips=False).read_text()
    assert 'class="said heat"' not in plain
    readout().save(folder / "tokens.json")
    page = write_report(records, tmp_path / "page.html", title="t", command="c", clips=False).read_text()
    assert page.count('class="said heat"') == 2 and 'title="−2.00' in page


def test_numbers_have_their_sign():
    assert [signed(x) for x in (1.5, -1.5, 0.0)] == ["+1.50", "−1.50", "0"]
