"""Datasets in a report: scores by host and sampler side by side, measures, and the map."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from palaestra.data.load import root
from palaestra.report import offline
from palaestra.report.page import write_report
from palaestra.report.summary import by_task
from palaestra.runs.record import load_records

from ..datasets import random_dataset
from .made_runs import write_comparison, write_run

NAMES = ("local:Pendulum-v1/random", "local:Pendulum-v1/medium")


@pytest.fixture
def data(monkeypatch):
    """Datasets as they would lie on this machine, both of 800 random steps."""
    monkeypatch.setenv("PALAESTRA_DATA", str(Path("data").absolute()))
    for i, name in enumerate(NAMES):
        made = random_dataset("Pendulum-v1", 1000, references=(-1500.0 - 100 * i, -100.0))
        made.save(root() / "local" / name.partition(":")[2] / "seed0")


def write_offline(folder: str, names=NAMES, seeds: int = 2) -> list:
    """Two hosts, one with two samplers, on every dataset; their normalised scores are 10, 20, 30, plus the seed."""
    for name in names:
        for i, (host, sampler) in enumerate([("bc", "uniform"), ("td3-bc", "aw:0.05"), ("td3-bc", "uniform")]):
            for seed in range(seeds):
                write_run(
                    f"{folder}/{name}/{host}-{sampler}/{seed}".replace(":", "-"),
                    [-1000.0, -900.0 + i],
                    method=host,
                    task=name,
                    seed=seed,
                    kind="dataset",
                    settings={"sampler": sampler, "gamma": 0.99},
                    extra={"evaluation/score": 10.0 * (i + 1) + seed},
                )
    return by_task(load_records(folder))


def section(groups) -> str:
    return str(offline.section(groups))


def test_hosts_and_samplers_stand_side_by_side(data):
    scores = offline.normalised(write_offline("runs"))
    assert list(scores) == [("bc", "uniform"), ("td3-bc", "uniform"), ("td3-bc", "aw:0.05")]
    assert [row[NAMES[0]].value for row in scores.values()] == [10.5, 30.5, 20.5]


def test_a_host_is_told_from_its_variants_by_all_but_the_sampler():
    for i, (sampler, gamma) in enumerate([("uniform", 0.9), ("aw:0.05", 0.99)]):
        write_run(f"runs/{i}", [1.0], kind="dataset", settings={"sampler": sampler, "gamma": gamma})
    assert {(r.label, r.host) for r in load_records("runs")} == {
        ("sac (gamma=0.9, sampler=uniform)", "sac (gamma=0.9)"),
        ("sac (gamma=0.99, sampler=aw:0.05)", "sac (gamma=0.99)"),
    }


def test_the_best_of_a_dataset_is_bold_and_the_behaviour_is_below(data):
    groups = write_offline("runs")
    found = section(groups)
    assert found.count("<strong>30.5</strong>") == 2 and "<strong>20.5" not in found
    behaviour = found[found.index("the data") :]
    places, _ = offline.measured(groups)
    for name in NAMES:
        assert f"<td>{100 * places[name].quality:.1f}</td>" in behaviour
    assert places[NAMES[1]].quality > places[NAMES[0]].quality, "its random reference is lower"


def test_the_map_has_a_point_per_dataset_whose_texts_do_not_cover_each_other(data):
    found = section(write_offline("runs"))
    assert found.count("<circle") == 2
    heights = [float(y) for y in re.findall(r'<text class="strong" y="([\d.]+)"', found)]
    assert abs(heights[0] - heights[1]) >= offline.LINE, "both cover the same, and their qualities are close"
    assert ">random</text>" in found and ">medium</text>" in found
    assert found.count("best: td3-bc, uniform, 30.5") == 2


def test_a_dataset_that_is_not_here_is_not_made_for_a_report(data):
    groups = write_offline("runs", names=(NAMES[0], "local:Pendulum-v1/expert"))
    found = section(groups)
    assert found.count("<circle") == 1 and "local:Pendulum-v1/expert is not on this machine" in found
    assert "<strong>30.5</strong>" in found, "its scores are known all the same"
    assert not (root() / "local" / "Pendulum-v1" / "expert").exists()


def test_without_references_there_is_neither_score_nor_map_but_coverage(data):
    random_dataset("Pendulum-v1", 1000, references=None).save(root() / "plain")
    write_run("runs", [-1000.0], method="bc", task="data:plain", kind="dataset")
    found = section(by_task(load_records("runs")))
    assert "<circle" not in found and "Normalised" not in found and "<td>1.00</td>" in found


def test_runs_on_environments_have_no_such_section():
    assert offline.section(by_task(load_records(write_comparison("runs")))) is None
    write_report(load_records("runs"), Path("report.html"), title="t", command="c", clips=False)
    assert "SACo" not in Path("report.html").read_text()


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["local:Pendulum-v1/medium", "local:Pendulum-v1/random"], ["medium", "random"]),
        (["local:A/medium/seed1", "local:B/medium/seed1"], ["local:A/medium/seed1", "local:B/medium/seed1"]),
        (["local:A/medium/seed1", "local:A/medium/seed2"], ["seed1", "seed2"]),
        (["local:A/b/c"], ["c"]),
        (["logs"], ["logs"]),
    ],
)
def test_names_are_shown_without_what_they_share(names, short):
    assert offline.shortened(names) == short
