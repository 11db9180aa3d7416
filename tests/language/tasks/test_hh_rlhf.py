"""HH-RLHF: pairs in one text are parted, empty answers left out, and long ones if wanted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from palaestra.core.errors import BadDataset, BadSetting
from palaestra.data.real import real_data
from palaestra.language.preferences import ranked_of
from palaestra.language.tasks.hh_rlhf import HHRLHF

try:
    REAL: Path | None = real_data("hh-rlhf")
except BadDataset:
    REAL = None
real = pytest.mark.skipif(REAL is None, reason="HH-RLHF is not here")
TALK = "\n\nHuman: a {}?\n\nAssistant: b\n\nHuman: c?\n\nAssistant:"


def pair(number: int, chosen: str = " yes", rejected: str = " not at all") -> dict[str, str]:
    return {"chosen": TALK.format(number) + chosen, "rejected": TALK.format(number) + rejected}


@pytest.fixture
def published(tmp_path) -> Path:
    """A folder as published, with 40 pairs of one length, one of which has an empty answer."""
    rows = [pair(10 + i) for i in range(39)] + [pair(99, rejected=" ")]
    with gzip.open(tmp_path / "train.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, rows)))
    with gzip.open(tmp_path / "test.jsonl.gz", "wt") as file:
        file.write(json.dumps(pair(50)))
    return tmp_path


def test_pairs_are_parted_into_prompt_and_answers_and_empty_ones_left_out(published):
    with pytest.warns(
        UserWarning, match="1 of 40 rows .* are wrong and left out; the first: row 39 .* an empty answer"
    ):
        task = HHRLHF(published)
    assert (len(task.rows("train")), len(task.rows("test"))) == (39, 1)
    row = task.rows("train")[0]
    assert row["prompt"] == TALK.format(10) and ranked_of(row).answers == [" yes", " not at all"]
    assert row["completion"] == " yes" and task.stop == ("\n\nHuman:",)
    assert task.name == "hh-rlhf" and not task.evaluates


@pytest.mark.filterwarnings("ignore:1 of 40 rows")
def test_only_short_pairs_are_kept_if_wanted(published):
    length = len(TALK.format(10))
    assert len(HHRLHF(published, longest_prompt=length, longest_answer=11).rows("train")) == 39
    for settings in ({"longest_prompt": length - 1}, {"longest_answer": 10}):
        with pytest.raises(BadDataset, match=r"no pair of .* is as short"):
            HHRLHF(published, **settings)
    with pytest.raises(BadSetting):
        HHRLHF(published, longest_prompt=-1)


@pytest.mark.filterwarnings("ignore:1 of 40 rows")
def test_it_is_made_again_as_it_was(published):
    from palaestra.core.task import as_task

    task = HHRLHF(published, longest_answer=20)
    described = task.describe()
    assert as_task(described["spec"], **described["kwargs"]).describe() == described


@real
@pytest.mark.filterwarnings("ignore:4 of 2312 rows")
def test_of_the_published_harmless_test_split_all_but_four_pairs_are_read():
    task = HHRLHF(held_out=0.1)
    rows = [*task.rows("train"), *task.rows("test")]
    assert len(rows) == 2308
    assert all(row["prompt"].startswith("\n\nHuman:") and row["prompt"].endswith("\n\nAssistant:") for row in rows)
    assert all(text.startswith(" ") for row in rows for text in ranked_of(row).answers)
    assert not {row["prompt"] for row in task.rows("train")} & {row["prompt"] for row in task.rows("test")}
