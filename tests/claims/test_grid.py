"""Grids: which cells they have, what they share, that nothing is done twice, and what their tables say."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from palaestra.claims.claim import Record, Records
from palaestra.claims.grid import START, Cell, Grid, Level
from palaestra.claims.reproduce import Trial
from palaestra.claims.study import read_grid, study
from palaestra.core.errors import BadSetting, PalaestraError, UnknownName
from palaestra.language.policy import LanguagePolicy
from palaestra.methods.language.ppo_lm import PPOLM
from palaestra.methods.language.sft import SFT
from palaestra.methods.preference.dpo import DPO
from palaestra.methods.preference.reward_model import RewardModelling

TINY = """
task = "skill-mix"
seeds = 1
settings = { train_rows = 40, test_rows = 30 }

[start]
model = "tiny-16x1"
batch_size = 4
updates = 2

[data.clean]
[data.flipped]
flip = 0.5

[algorithms.dpo]
lr = [1e-4, 1e-3]
prompts = 2
updates = 2
[algorithms.ppo]
method = "ppo-lm"
prompts = 4
updates = 2

[rewards.same]
prompts = 2
updates = 2
[rewards.other]
model = "tiny-32x1"
prompts = 2
updates = 2
settings = { train_rows = 60 }

[prompts.same]
[prompts.reverse]
skills = ["reverse"]
"""
RUNS = 1 + 3 + 4 + 4
"""The start; both reward models of the first data and one of the other; DPO at two rates on both; PPO."""
LESS = "".join(
    part for part in re.split(r"(?m)^(?=\[)", TINY) if not part.startswith(("[data.f", "[rewards.o", "[prompts.r"))
)
"""The same with one level of each factor but the algorithm: five runs."""


def grid(**changes) -> Grid:
    factors = {
        "task": "skill-mix",
        "start": Level(SFT(model="tiny-16x1"), 2),
        "data": {"clean": {}, "flipped": {"flip": 0.3}},
        "algorithms": {"dpo": Level(DPO(), 2, tried={"lr": (1e-4, 1e-3)}), "ppo": Level(PPOLM(), 2)},
        "rewards": {
            "small": Level(RewardModelling(model=START), 2),
            "large": Level(RewardModelling(model="tiny-32x1"), 2),
        },
        "prompts": {"same": {}, "reverse": {"skills": ("reverse",)}},
        "seeds": 2,
    }
    return Grid(**factors | changes)


@pytest.fixture
def described() -> Path:
    path = Path("tiny.toml")
    path.write_text(TINY)
    return path


# ----------------------------------------------------------------------------------------------------------- cells, arms


def test_one_factor_is_changed_at_a_time_from_the_first_of_each():
    assert [str(cell) for cell in grid().cells()] == [
        "dpo, clean",
        "dpo, flipped",
        "ppo, clean, small, same",
        "ppo, clean, small, reverse",
        "ppo, clean, large, same",
        "ppo, flipped, small, same",
    ]


def test_or_all_are_combined_where_they_make_a_difference():
    cells = grid(whole=True).cells()
    assert len(cells) == len(set(cells)) == 2 + 2 * 2 * 2


def test_cells_share_their_start_and_their_reward_models():
    arms = grid(whole=True).arms()
    models = [label for label in arms if label.startswith("reward model")]
    assert models == [f"reward model, {data}, {name}" for data in ("clean", "flipped") for name in ("small", "large")]
    cells = [arm for label, arm in arms.items() if label.startswith(("dpo", "ppo"))]
    assert {arm.begins_with for arm in cells} == {START}
    assert arms["ppo, flipped, large, reverse"].named == {"reward_model": "reward model, flipped, large"}
    assert arms[models[0]].begins_with == START and arms[models[1]].begins_with is None
    assert all(arms[name].beside == (START,) for name in models), "whose answers they choose among"


def test_what_a_cell_is_trained_on_is_the_data_with_its_prompts_on_top():
    common = {"train_rows": 50}
    arms = grid(whole=True, settings=common).arms()
    assert arms["ppo, flipped, small, reverse"].settings == common | {"flip": 0.3, "skills": ("reverse",)}
    assert (
        arms["ppo, flipped, small, same"].settings == arms["dpo, flipped, lr=0.001"].settings == common | {"flip": 0.3}
    )
    assert arms[START].settings == common


def test_prompts_may_be_another_task_s():
    arms = grid(prompts={"same": {}, "sort": {"task": "noisy-sort", "digits": 4}}, settings={"train_rows": 50}).arms()
    assert (arms["ppo, clean, small, sort"].task, arms["ppo, clean, small, sort"].settings) == (
        "noisy-sort",
        {"digits": 4},
    )
    assert arms["ppo, clean, small, same"].task == "skill-mix"


def test_a_reward_may_be_the_task_s_own_judge_and_an_algorithm_may_draw():
    whole = grid(rewards={"judge": None}, algorithms={"dpo": Level(DPO(drawn=2), 2)})
    assert next(map(str, whole.cells())) == "dpo, clean, judge, same"
    assert set(whole.arms()) == {START, *map(str, whole.cells())} and not whole.arms()["dpo, clean, judge, same"].named


def test_a_factor_without_levels_is_refused():
    with pytest.raises(BadSetting, match="at least one of its data"):
        grid(data={})
    with pytest.raises(BadSetting, match="at least one seed, got 0"):
        grid(seeds=0)


def test_a_method_that_does_not_train_what_its_factor_needs_is_refused():
    with pytest.raises(BadSetting, match="small is to train a reward model, which dpo does not"):
        grid(rewards={"small": Level(DPO(), 2)})
    for factor in ({"start": Level(RewardModelling(), 2)}, {"algorithms": {"start": Level(RewardModelling(), 2)}}):
        with pytest.raises(BadSetting, match="start is to train a policy, which reward-model does not"):
            grid(**factor)


def test_prompts_that_all_is_evaluated_on_are_not_to_be_learnt_from():
    grid(settings={"train_rows": 200, "test_rows": 100}).check()
    for name, prompts in {"all": range(40), "eval": range(10), "other": range(30, 40)}.items():
        rows = [{"prompt": f"p{i} =", "chosen": f"a{i}", "rejected": f"b{i}"} for i in prompts]
        Path(f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {"data": "all.jsonl", "test": "eval.jsonl"}
    data = {"a": {}, "b": {"test": "other.jsonl"}}
    mixed = {"task": "prompts", "settings": settings, "algorithms": {"dpo": Level(DPO(), 2)}}
    with pytest.raises(BadSetting, match=r"dpo, b would learn from the prompt 'p0 =', which all holds out to eval"):
        grid(**mixed, data=data).check()
    grid(**mixed, data={"a": {}, "b": {"held_out": 0.5}}).check()


# ------------------------------------------------------------------------------------------------------------- the tables


def records(scores: dict[str, list[float]], choosing: dict[str, float] | None = None) -> Records:
    found = Records()
    for label in grid().arms():
        for seed in (0, 1):
            told = {f"best of {n}": 0.5 for n in (1, 4, 16)} | {"pairs right": 0.8}
            if not label.startswith("reward model"):
                score = scores.get(label, [0.5, 0.7])[seed]
                told = {
                    "average": score,
                    "sort": score,
                    "max": score + 0.1,
                    "choosing": (choosing or {}).get(label, 0.0),
                }
            found.append(Record(label, seed, (), told))
    return found


def test_of_what_is_tried_the_best_counts_on_prompts_that_choose_whatever_the_others_say():
    found = records({"dpo, clean, lr=0.0001": [0.9, 0.9]}, {"dpo, clean, lr=0.001": 0.2})
    assert grid().chosen(found, Cell("clean", "dpo")) == "dpo, clean, lr=0.001"
    assert grid().scores(found, Cell("clean", "dpo")).tolist() == [0.5, 0.7]


def test_a_row_of_the_table_is_a_cell_with_its_lead_over_the_start_paired_by_seed():
    tables = grid().tables(records({"ppo, clean, small, same": [0.6, 0.8]}))
    head, start, *cells = tables["Grid"]
    assert head[-4:] == ["average", "over the start", "sort", "max"] and start[0] == START
    assert len(cells) == len(grid().cells()) and len({len(row) for row in tables["Grid"]}) == 1
    [ppo] = [row for row in cells if row[:4] == ["ppo", "clean", "small", "same"]]
    assert ppo[5:7] == ["0.700 [0.600, 0.800]", "0.100 [0.100, 0.100]"], "every seed gains as much, however they differ"
    assert [row[0] for row in tables["Reward models"][1:]] == [
        f"reward model, {data}" for data in ("clean, small", "clean, large", "flipped, small")
    ]


# -------------------------------------------------------------------------------------------------------------- a study


def test_a_study_trains_what_cells_share_once_and_goes_on_where_it_stopped(described, monkeypatch):
    """It is stopped after some runs; the second call does the others alone, and a third nothing."""
    trained, drawn = [], []
    train, answer = Trial.train, LanguagePolicy.answer

    def noted(self, resume=False, overwrite=False):
        if len(trained) == 5:
            raise KeyboardInterrupt
        train(self, resume, overwrite)
        trained.append((self.arm, self.seed))
        return self

    def counted(self, rows, *, copies=1, **how):
        drawn.append(copies)
        return answer(self, rows, copies=copies, **how)

    monkeypatch.setattr(Trial, "train", noted)
    monkeypatch.setattr(LanguagePolicy, "answer", counted)
    monkeypatch.setattr("palaestra.runs.executors._may_fork", lambda board: False)
    with pytest.raises(KeyboardInterrupt):
        study(described)
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("claim.json")}
    assert len(before) == 5 and not Path("results").exists()
    trained.insert(0, "stopped once")
    _, found, _ = study(described)
    assert len(trained) == len(set(trained)) == 1 + RUNS and len(found) == RUNS
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert drawn.count(16) == 1, "what reward models choose among is drawn once, not once for each model"
    study(described)
    assert len(trained) == 1 + RUNS


def test_its_tables_have_every_cell_and_every_number(described, monkeypatch):
    monkeypatch.setattr("palaestra.runs.executors._may_fork", lambda board: False)
    described.write_text(LESS)
    _, found, page = study(described, out="elsewhere")
    said = page.read_text()
    assert page == Path("elsewhere/tiny.md") and "palaestra study tiny.toml" in said and "## Reward models" in said
    assert said.count("\n| dpo | clean | ") == said.count("\n| ppo | clean | same | same | ") == 1
    rows = list(csv.DictReader(page.with_suffix(".csv").open()))
    told = {"last evaluation", "average", "sort", "reverse", "max", "choosing"}
    assert {row["measure"] for row in rows if row["run"] == START} == told
    tried = {row["run"]: row["counts"] for row in rows if row["algorithm"] == "dpo"}
    assert sorted(tried.values()) == ["0", "1"]
    [average] = [float(row["value"]) for row in rows if row["run"] == START and row["measure"] == "average"]
    [start] = [record.measures for record in found if record.arm == START]
    skills = [start[name] for name in ("sort", "reverse", "max")]
    assert np.mean(skills) == pytest.approx(average), "skills count alike, however often they are asked for"


def test_what_a_file_has_more_than_before_is_trained_and_what_it_changes_is_refused(described, monkeypatch):
    monkeypatch.setattr("palaestra.runs.executors._may_fork", lambda board: False)
    described.write_text(LESS)
    study(described)
    trained, train = [], Trial.train
    monkeypatch.setattr(Trial, "train", lambda self, *a, **k: trained.append(self.arm) or train(self, *a, **k))
    described.write_text(LESS + '[prompts.max]\nskills = ["max"]\n')
    study(described)
    assert trained == ["ppo, clean, same, max"]
    described.write_text(LESS.replace("[rewards.same]\nprompts = 2", "[rewards.same]\nprompts = 3"))
    words = "other settings: prompts 2 then, 3 now; move runs/studies/tiny away to start again, or give the level .* another name"
    with pytest.raises(BadSetting, match=words):
        study(described)


def test_runs_that_were_evaluated_on_other_tasks_are_not_mixed_with_those_to_come(described, monkeypatch):
    monkeypatch.setattr("palaestra.runs.executors._may_fork", lambda board: False)
    described.write_text(LESS)
    study(described)
    described.write_text('evaluate = ["sorting"]\n' + LESS)
    with pytest.raises(BadSetting, match="were evaluated on their own task; give the study's file another name"):
        study(described)


def test_a_study_that_is_killed_goes_on_and_leaves_what_is_finished_as_it_is(described):
    described.write_text(LESS)
    command = [sys.executable, "-m", "palaestra", "study", str(described), "--workers", "2"]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    folder = Path("runs/studies/tiny")
    until = time.monotonic() + 200
    while len(list(folder.rglob("claim.json"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(process.pid, 9)
    process.wait()
    time.sleep(0.5)  # for workers, which end with it
    done = {path: path.stat().st_mtime_ns for path in folder.rglob("claim.json")}
    assert 2 <= len(done) < 5
    said = subprocess.run(command, env=quiet, capture_output=True, text=True, check=True).stdout
    assert f"5 runs, of which {5 - len(done)} are to do" in said and "Reward models" in said
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(list(folder.rglob("claim.json"))) == 5


# --------------------------------------------------------------------------------------------------------------- the file


def test_a_list_is_tried_one_by_one_and_what_is_not_said_is_usual(described):
    read = read_grid(described)
    dpo, ppo = read.algorithms["dpo"], read.algorithms["ppo"]
    assert list(dpo.variants()) == ["lr=0.0001", "lr=0.001"] and isinstance(ppo.method, PPOLM)
    assert read.rewards["same"].method.model == START
    described.write_text('task = "skill-mix"\n[start]\nmodel = "tiny-16x1"\n[data.all]\n[algorithms.dpo]\n')
    read = read_grid(described)
    assert (read.start.updates, read.algorithms["dpo"].updates) == (1500, 400), "as the task says"
    assert [str(cell) for cell in read.cells()] == ["dpo, all"]


def test_of_a_setting_that_is_several_numbers_a_list_is_one_value_and_a_list_of_lists_is_tried():
    path, head = Path("several.toml"), 'task = "skill-mix"\n[data.all]\n[algorithms.grpo]\ndifficulty = '
    path.write_text(head + "[0.1, 0.9]")
    level = read_grid(path).algorithms["grpo"]
    assert level.method.difficulty == (0.1, 0.9) and list(level.variants()) == [""]
    path.write_text(head + "[[0.1, 0.9], [0.2, 0.8]]\nlr = [1e-4, 1e-3]")
    variants = read_grid(path).algorithms["grpo"].variants()
    assert [(method.difficulty, method.lr) for method in variants.values()] == [
        ((0.1, 0.9), 1e-4),
        ((0.1, 0.9), 1e-3),
        ((0.2, 0.8), 1e-4),
        ((0.2, 0.8), 1e-3),
    ]
    assert next(iter(variants)) == "difficulty=0.1x0.9 lr=0.0001"


def test_values_that_differ_are_tried_under_names_that_differ_however_close_they_are():
    level = Level(DPO(), 2, tried={"lr": (0.000123456789, 0.000123456788)})
    assert list(level.variants()) == ["lr=0.000123456789", "lr=0.000123456788"]


def test_the_grid_of_the_page_is_one():
    page = (Path(__file__).parents[2] / "docs" / "methods" / "unpacking-dpo-ppo.md").read_text()
    path = Path("my-grid.toml")
    path.write_text(page.partition("```toml\n")[2].partition("```")[0])
    read = read_grid(path)
    assert len(read.cells()) == 2 + 2 + 2 + 1
    assert read.rewards["truth"] is None and read.algorithms["ppo"].method.endless == -10
    for arm in read.arms().values():
        arm.method.check()


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("task = ", BadSetting, "not valid TOML"),
        ("[data.all]", BadSetting, "names no task"),
        ('task = "skill-mix"\nseed = 3', UnknownName, "did you mean 'seeds'"),
        ('task = "skill-mix"\ndata = 3', BadSetting, "data must be tables"),
        ('task = "skill-mix"\ncells = "some"', BadSetting, "cells must be around or all, got 'some'"),
        ("task = 3", BadSetting, "task must be a name, got 3"),
        ('task = "skill-mix"\nseeds = "3"', BadSetting, "seeds must be a whole number, got '3'"),
        ('task = "skill-mix"\nseeds = true', BadSetting, "seeds must be a whole number, got True"),
        ('task = "skill-mix"\nevaluate = "gsm8k"', BadSetting, "evaluate must be names, got 'gsm8k'"),
        ('task = "skill-mix"\nsettings = 3', BadSetting, "settings must be a table"),
        ('task = "skill-mix"\n[data.all]\ntask = 3', BadSetting, "task of all must be a name, got 3"),
        ('task = "skill-mix"\n[data.all]\n[algorithms.a]\nmethod = 3', BadSetting, "method of a must be a name, got 3"),
        (
            'task = "skill-mix"\n[data.all]\n[algorithms.dpo]\nsettings = 3',
            BadSetting,
            "settings of dpo must be a table",
        ),
        (
            'task = "skill-mix"\n[data.all]\n[algorithms.dpo]\nupdates = "9"',
            BadSetting,
            "updates of dpo must be a whole number, got '9'",
        ),
        ('task = "skill-mix"\n[data.all]\n[algorithms.dpo]\nbta = 1.0', UnknownName, "did you mean 'beta'"),
        ('task = "skill-mix"\n[data.all]\n[algorithms.dppo]', UnknownName, "did you mean"),
        ('task = "skill-mix"\n[data.all]\n[algorithms.dpo]\nbeta = []', BadSetting, "an empty list"),
        ('task = "countdown"\n[data.all]\n[algorithms.dpo]', BadSetting, "how many updates"),
        ('task = "skill-mix"\n[data.all]', BadSetting, "at least one of its algorithms"),
    ],
)
def test_a_file_that_describes_no_grid_is_refused_in_words(text, error, words):
    path = Path("wrong.toml")
    path.write_text(text)
    with pytest.raises(error, match=words):
        read_grid(path)


def test_prompts_that_all_is_evaluated_on_are_refused_before_anything_is_trained(described):
    rows = [{"prompt": f"p{i}", "completions": ["a", "b"], "scores": [1, 0]} for i in range(40)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("less.jsonl").write_text("\n".join(map(json.dumps, rows[:20])))
    data = '[data.all]\ndata = "rows.jsonl"\ntest = "less.jsonl"\n[data.rest]\ndata = "rows.jsonl"\n'
    tail = "[start]\nupdates = 2\n[algorithms.dpo]\nupdates = 2\n"
    described.write_text(f'task = "prompts"\nsettings = {{ data = "rows.jsonl" }}\n{data}{tail}')
    with pytest.raises(BadSetting, match="would learn from the prompt"):
        study(described)
    assert not Path("runs").exists()


def test_a_setting_that_data_do_not_have_is_refused_before_anything_is_trained(described):
    described.write_text(TINY.replace("flip = 0.5", "flop = 0.5"))
    with pytest.raises(UnknownName, match="did you mean 'flip'"):
        study(described)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        ("lr = [1e-4, 1e-3]", "lr = [1e-4, -1.0]", r"dpo, clean, lr=-1: lr must be positive, got -1\.0"),
        ("lr = [1e-4, 1e-3]", 'lr = [1e-4, "fast"]', "dpo, clean, lr=fast: lr must be a number, got 'fast'"),
        ("lr = [1e-4, 1e-3]", "lr = [1e-4, [1e-3]]", "dpo, clean, .*: lr must be a number, got "),
        ("prompts = 4", "prompts = 4.5", "ppo, clean, .*: prompts must be a whole number, got 4.5"),
        ("batch_size = 4", 'batch_size = "4"', "start: batch_size must be a whole number, got '4'"),
        ('method = "ppo-lm"\nprompts = 4', 'method = "sac"', "ppo, clean: sac does not learn from text"),
        ("flip = 0.5", 'flip = "half"', "reward model, flipped, same: flip must be a number, got 'half'"),
        ("train_rows = 60", "train_rows = 60.5", "reward model, clean, other: train_rows must be a whole number"),
        ("train_rows = 40", 'train_rows = "40"', "train_rows must be a whole number, got '40'"),
        ('skills = ["reverse"]', "skills = 3", "ppo, clean, same, reverse: skills must be names, got 3"),
    ],
)
def test_every_cell_is_checked_before_anything_is_trained(described, was, now, words):
    assert was in TINY
    described.write_text(TINY.replace(was, now))
    with pytest.raises(PalaestraError, match=words):
        study(described)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "levels",
    [
        '[data."a b"]\n[data.a-b]\n[algorithms.dpo]',
        '[data."a, b"]\n[data."a b"]\n[algorithms.dpo]',
        '[data.c]\n[data."b, c"]\n[algorithms.a]\nmethod = "dpo"\n[algorithms."a, b"]\nmethod = "dpo"',
        '[data.all]\n[algorithms.ppo-lm]\n[rewards."a/b"]\n[rewards.a-b]',
    ],
)
def test_levels_whose_runs_would_be_kept_in_one_folder_are_refused(described, levels):
    described.write_text(f'task = "skill-mix"\n{levels}\n')
    with pytest.raises(BadSetting, match=r"would both be kept in the folder .*; give one of their levels another name"):
        study(described)
    assert not Path("runs").exists()


def test_a_missing_file_is_named():
    with pytest.raises(PalaestraError, match=r"there is no file nowhere\.toml"):
        study("nowhere.toml")


def test_a_run_that_fails_is_named_and_the_rest_is_kept(described, monkeypatch):
    monkeypatch.setattr("palaestra.runs.executors._may_fork", lambda board: False)
    described.write_text(LESS)
    measure, bad = Grid.measure, "dpo, clean, lr=0.001"
    monkeypatch.setattr(Grid, "measure", lambda self, run: 1 / 0 if run.arm == bad else measure(self, run))
    with pytest.raises(PalaestraError, match="1 of 5 runs failed; the first: ZeroDivisionError"):
        study(described)
    assert Path("runs/studies/tiny/dpo-clean-lr=0.0001/seed0/claim.json").exists()
