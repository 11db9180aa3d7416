"""Which of several things goes wrong first with the answers that a preference method learns from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from palaestra.report.likelihood import events, sentence, smooth
from palaestra.report.page import write_report
from palaestra.report.summary import by_task
from palaestra.runs.record import load_records

from .made_runs import write_run

ROWS = 20


def record(folder: Path, chosen, rejected, score, seed: int = 0):
    """A run of 20 rows, in each of which these functions of the share of training were logged."""
    shares = [i / ROWS for i in range(ROWS)]
    write_run(folder, [score(x) for x in shares], method="dpo", task="noisy-sort", kind="prompts", seed=seed)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for x, row in zip(shares, rows, strict=True):
        row |= {"preference/chosen": chosen(x), "preference/rejected": rejected(x)}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_records(folder)[0]


def test_a_value_is_averaged_with_its_neighbours():
    np.testing.assert_allclose(smooth([0, 0, 5, 0, 0, 10]), [5 / 3, 5 / 4, 1, 3, 15 / 4, 10 / 3])
    assert len(smooth([])) == 0


def test_what_lasts_to_the_end_is_dated_by_its_beginning(tmp_path):
    found = events(record(tmp_path / "run", lambda x: 1 - 2 * x, lambda x: -1, lambda x: x if x < 0.6 else 1.2 - x))
    chosen, rejected, score = (
        next(v for k, v in found.items() if k.startswith(w)) for w in ("chosen", "rejected", "the score")
    )
    assert rejected == 50 and 500 <= chosen <= 600 and 600 <= score <= 700


def test_what_comes_and_goes_or_is_noise_is_no_event(tmp_path):
    found = events(
        record(
            tmp_path / "run",
            lambda x: -1 if 0.2 < x < 0.5 else 1,
            lambda x: 1,
            lambda x: 0.5 + 0.01 * (-1) ** round(20 * x),
        )
    )
    assert found == {}


def test_a_sentence_has_the_events_in_their_order_and_says_in_how_many_seeds(tmp_path):
    record(tmp_path / "0", lambda x: 1 - 2 * x, lambda x: -1, lambda x: x)
    record(tmp_path / "1", lambda x: 1 - 2 * x, lambda x: -1, lambda x: 1 - x, seed=1)
    (group,) = by_task(load_records(tmp_path))
    said = sentence(group.entries[0])
    assert said.index("rejected") < said.index("chosen") and "the score falls" in said and "in 1 of 2 seeds" in said
    assert said.endswith("(steps).")


def test_a_method_that_compares_nothing_has_no_sentence_and_no_figure(tmp_path):
    write_run(tmp_path / "0", [1.0, 2.0])
    (group,) = by_task(load_records(tmp_path))
    assert sentence(group.entries[0]) is None
    page = write_report(load_records(tmp_path), tmp_path / "p.html", title="t", command="c", clips=False).read_text()
    assert 'data-plot="likelihood"' not in page
