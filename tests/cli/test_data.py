"""`palaestra data`: made, imported, checked, shown, mixed and exported from the command line."""

from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import palaestra as pal
from palaestra.cli.main import main
from palaestra.data import make as making
from palaestra.data.behaviour import Recipe
from palaestra.data.load import load_dataset, stored
from palaestra.data.summary import spread, summarise
from palaestra.report.dataset import summary_text
from tests.data.test_checker import sound
from tests.data.test_dataset import dataset
from tests.data.test_importing import TABLE
from tests.data.test_make import ENV, TINY
from tests.datasets import random_dataset


@pytest.fixture(autouse=True)
def _kept_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PALAESTRA_DATA", str(tmp_path / "kept"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setattr("palaestra.data.behaviour.RANDOM_EPISODES", 20)
    monkeypatch.setattr("palaestra.data.behaviour.SNAPSHOTS", 8)


def run(command: str, code: int = 0) -> None:
    assert main(["data", *command.split()]) == code


def test_every_part_explains_itself(capsys):
    run("--help")
    listed = capsys.readouterr().out
    for part in ("make", "import", "check", "show", "list", "mix", "label", "export"):
        assert f"\n  {part} " in listed
        run(f"{part} --help")
        assert f"palaestra data {part}" in capsys.readouterr().out
    run("shwo", code=2)
    assert "did you mean 'show'?" in capsys.readouterr().err


def test_make_trains_a_behaviour_and_names_what_it_made(monkeypatch, capsys):
    monkeypatch.setattr(making, "recipe", lambda task: Recipe(TINY, 400, 300))
    run(f"make {ENV} random")
    said = capsys.readouterr()
    assert f"local:{ENV}/random: 3" in said.out and f"--dataset local:{ENV}/random" in said.out
    assert "is trained, for 400 steps" in said.err
    run(f"make {ENV} random --size 50 --seed 0 --name small")
    assert 50 <= len(load_dataset("small")) < 62
    settings = " ".join(
        f"--method.{name.replace('_', '-')} {value}"
        for name, value in {"network": 8, "batch_size": 8, "buffer_size": 100, "warmup_steps": 20}.items()
    )
    run(f"make {ENV} random --method dqn {settings} --steps 100 --size 40 --name other")
    assert load_dataset("other").about["behaviour"]["settings"]["buffer_size"] == 100
    run(f"make {ENV} randm", code=2)
    assert "unknown quality 'randm'; did you mean 'random'? (known: " in capsys.readouterr().err
    run(f"make {ENV} random --method.lr 1", code=2)
    assert "unknown option '--method.lr'" in capsys.readouterr().err


def test_import_states_what_it_took_for_granted_and_what_looks_wrong(capsys):
    Path("logs.csv").write_text(TABLE)
    run("import logs.csv --name mine --references 0 10")
    said = capsys.readouterr().out
    assert "note: there are taken to be 2 actions" in said and "mine: 5 steps, 2 episodes, mean return 3.0" in said
    assert load_dataset("mine").references == (0, 10)
    run("import logs.csv --name mine", code=2)
    assert "is there already" in capsys.readouterr().err
    run("import logs.csv --name more --action-count 4")
    assert load_dataset("more").action_space == gym.spaces.Discrete(4)
    run("import gone.csv --name gone", code=2)
    assert "there is no file gone.csv" in capsys.readouterr().err


def test_limits_may_be_negative_and_one_for_each(capsys):
    n = np.linspace(-1, 1, 10)
    ends = np.arange(10) % 5 == 4
    arrays = {
        "obs": n[:, None],
        "action": np.stack([2 * n, 5 * n], 1),
        "reward": n,
        "terminated": ends,
        "truncated": 0 * n,
    }
    np.savez("logs.npz", **arrays)
    run("import logs.npz --name wide --action-low -2 -5 --action-high 2 5")
    assert load_dataset("wide").action_space.high.tolist() == [2, 5]
    run("import logs.npz --name none", code=2)
    assert "give --action-low and --action-high" in capsys.readouterr().err


def test_check_exits_1_and_says_why(capsys):
    sound().save("kept/good")
    run("check good")
    assert capsys.readouterr().out == "good: nothing wrong was found\n"
    Path("logs.csv").write_text(TABLE.replace("truncated", "done"))
    run("check logs.csv", code=1)
    said = capsys.readouterr().out
    assert "- terminated or" not in said and "'done' does not say whether the task ended" in said
    assert "logs.csv: 1 problem(s)" in said
    dataset([60]).save("kept/poor")
    run("check poor", code=1)
    assert "- there is one episode only" in capsys.readouterr().out
    run("check nowhere", code=2)
    run("check nowhere.csv", code=2)
    assert "there is no file nowhere.csv" in capsys.readouterr().err


def test_list_names_every_dataset_as_it_is_asked_for(capsys):
    run("list")
    assert "0 datasets in" in capsys.readouterr().out
    for place in (
        "local/Pendulum-v1/medium/seed0",
        "local/A/random-expert-0.1/seed2",
        "local/A/medium-sac-5/seed0",
        "x/y",
    ):
        dataset().save(f"kept/{place}")
    dataset().save("kept/cache/minari/copy")
    names = ["local/A/medium-sac-5/seed0", "local:A/random-expert-0.1/seed2", "local:Pendulum-v1/medium", "x/y"]
    assert stored() == names and all(len(load_dataset(name)) == 9 for name in names)
    Path("kept/x/y/obs.npy").unlink()
    run("list")
    said = capsys.readouterr().out
    assert "local:Pendulum-v1/medium" in said and "left out: " in said and "3 datasets in" in said
    run("list --json")
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == names[:3]


def test_mix_and_export(capsys):
    minari = pytest.importorskip("minari")
    dataset([3] * 10, references=(0.0, 5.0)).save("kept/good")
    dataset([5] * 10).save("kept/rest")
    run("mix good rest --share 0.2 --size 40 --name both")
    assert "both: 44 steps, 10 episodes" in capsys.readouterr().out
    run("export both --minari mine/both-v0")
    assert "minari.load_dataset('mine/both-v0')" in capsys.readouterr().out
    assert minari.load_dataset("mine/both-v0").total_steps == 44
    run("mix good rest --name both", code=2)
    assert "--share" in capsys.readouterr().err


def test_preferences_are_exported_as_lines_and_taken_in_again(capsys):
    dataset([9] * 4).save("kept/logs")
    run("label logs --pairs 12 --length 3 --name said")
    run("export said --jsonl said.jsonl")
    assert "wrote said.jsonl: 12 pairs of logs" in capsys.readouterr().out
    run("label logs --teacher said.jsonl --name again")
    assert pal.load_preferences("again").records() == pal.load_preferences("said").records()
    run("export said", code=2)
    run("export logs --minari mine/both-v0 --jsonl said.jsonl", code=2)
    assert capsys.readouterr().err.count("say where it goes: a dataset --minari ID") == 2


def test_show_says_what_a_dataset_is_like(capsys):
    dataset([3, 2, 4], [1, 2, 3, 10, 20, 0.5, 0.5, 0.5, 0.5], references=(0.0, 30.0)).save("kept/mine")
    run("show mine --reference mine -o page.html")
    said = capsys.readouterr().out
    for line in (
        "9 steps, 3 episodes",
        "returns: mean 12.7 ± 12.4, median 6.00, from 2.00 to 30.0",
        "lengths: mean 3.00",
        "1 episodes terminated, 2 truncated",
        "(TQ): 0.422",
        "coverage (SACo): 1.000 of logs",
        "distinct pairs of state and action: 9",
        "positive-sided variance of returns: 100",
        "- action 0 never changes",
        "report: page.html",
    ):
        assert line in said, line
    run("show mine --json")
    found = json.loads(capsys.readouterr().out)
    assert found["quality"] == pytest.approx(38 / 90) and found["coverage"] is None and found["steps"] == 9
    assert found["samplers"]["top"] == [30, 2]


def test_a_page_is_well_formed_needs_nothing_else_and_shows_text_as_text(capsys):
    logs = sound()
    logs.name, logs.about = "<script>alert(1)</script>", {"notes": ["<img src=x>"]}
    logs.save("kept/odd")
    run("show odd -o page.html")
    page = Path("page.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert not tags.open and "script" not in tags.seen and "img" not in tags.seen and "svg" in tags.seen
    assert "http://" not in page and "https://" not in page
    assert "&lt;script&gt;alert(1)" in page


class Tags(HTMLParser):
    """Which elements a page has, and which are never closed."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_summary_says_only_what_can_be_said(capsys):
    """One episode has no samplers but the uniform one, no references no quality, no reference dataset no coverage."""
    text = summary_text(summarise(dataset([60])))
    assert "needs reference returns" in text and "needs a reference of the same size" in text
    assert "uniform" in text and "\nrw" not in text
    broken = sound()
    broken.steps.reward[3] = np.nan
    with pytest.raises(pal.PalaestraError, match="cannot be measured: reward is NaN or infinite in row 3"):
        summarise(broken)
    with pytest.raises(pal.PalaestraError, match="has other spaces than"):
        summarise(sound(), sound(actions="discrete"))


def test_histograms_hold_every_episode():
    logs = sound()
    for values in (logs.returns, logs.lengths.double(), logs.returns[:2], logs.returns[:1]):
        found = spread(values)
        assert sum(found.counts) == len(values) and len(found.edges) == len(found.counts) + 1
        assert found.edges[0] == found.low <= found.median <= found.high == found.edges[-1]


def test_what_the_command_line_does_python_does_too():
    assert pal.load_dataset is load_dataset
    Path("logs.csv").write_text(TABLE)
    logs = pal.import_dataset("logs.csv", name="mine", limits=pal.Limits(action_count=3))
    assert isinstance(logs, pal.Dataset) and len(pal.load_dataset("mine")) == 5
    assert pal.check_dataset(logs) == [] and pal.summarise(logs).steps == 5
    assert pal.DatasetTask(logs).dataset is logs


def test_label_says_which_window_is_better_by_a_teacher_or_by_people(capsys):
    dataset().save("logs")
    run("label logs --pairs 40 --foresee 3 --tie 0.5 --flip 0.25 --seed 2 --length 2 --name said")
    assert "said: 40 pairs of logs, " in capsys.readouterr().out
    said = pal.load_preferences("said", dataset())
    assert said.about == {"teacher": "scripted", "foresee": 3, "average": False, "tie": 0.5, "flip": 0.25, "seed": 2}
    run("label logs --name said", code=2)
    assert "is there already" in capsys.readouterr().err
    people = {"start_indices": [0, 1], "start_indices_2": [1, 0], "human_label": [0, -1]}
    Path("people.json").write_text(json.dumps(people))
    run("label logs --teacher people.json --length 1 --name people")
    assert "people: 2 pairs of logs, 1 of them ties" in capsys.readouterr().out
    run("label logs --teacher people.json --flip 0.1 --name other", code=2)
    assert "--flip is for the scripted teacher" in capsys.readouterr().err
    run("label logs --foresee few --name other", code=2)
    assert "foresee takes" in capsys.readouterr().err


def test_what_was_learnt_without_an_environment_is_played_where_one_says(capsys):
    dataclasses.replace(random_dataset("Pendulum-v1", 250), env=None).save("kept/bare")
    train = "train bc --updates 2 --method.network 4 --quiet --dataset"
    assert main(f"{train} bare --out bare".split()) == 0
    assert "--episodes 20 --task ID" in capsys.readouterr().out
    assert main(["evaluate", "bare", "--episodes", "1"]) == 2
    assert "give one with --task ID" in capsys.readouterr().err
    assert main(["evaluate", "bare", "--episodes", "1", "--task", "Pendulum-v1"]) == 0
    assert "1 episode of 200 steps" in capsys.readouterr().out
    assert main(["evaluate", "bare", "--episodes", "1", "--task", "CartPole-v1"]) == 2
    assert "evaluate on the environment that the data came from" in capsys.readouterr().err
