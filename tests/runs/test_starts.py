"""Models that are trained before the run that names them: once for each task and seed, and what the name says."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting, PalaestraError
from palaestra.core.task import as_task
from palaestra.data.real import real_data
from palaestra.language.policy import LanguagePolicy
from palaestra.language.reward_policy import RewardPolicy
from palaestra.language.tasks.prompts import PromptTask
from palaestra.methods.language.ppo_lm import PPOLM
from palaestra.methods.language.sft import SFT
from palaestra.methods.preference.dpo import DPO
from palaestra.runs.engine import Engine
from palaestra.runs.executors import Board
from palaestra.runs.run import Run
from palaestra.runs.starts import STARTS, ready

QUIET = Engine(quiet=True, tensorboard=False, evaluate_episodes=2)
TASK = as_task("noisy-sort", train_rows=20, test_rows=6)


def made() -> list[str]:
    """The starts there are, without the hashes in their names."""
    names = (str(path.parent.relative_to(STARTS / TASK.label)) for path in STARTS.rglob("run.json"))
    return sorted(re.sub("-[0-9a-f]{8}/", "/", name) for name in names)


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The methods of the runs that are trained from here on."""
    names, train = [], Run.train
    monkeypatch.setattr(Run, "train", lambda self, **how: names.append(self.config.name) or train(self, **how))
    return names


def test_a_start_and_a_reward_model_are_trained_once_for_all_that_name_them(trained):
    ppo = PPOLM(model="sft:tiny-16x1:2", reward_model="rm:sft:tiny-16x1:2:1", prompts=2)
    for method in (ppo, PPOLM(model="tiny-16x1", reward_model="rm:sft:tiny-16x1:2:1", lr=1e-3)):
        found = ready(method, TASK, 0, QUIET)
        assert RewardPolicy.load(found.reward_model).kind == "reward-model"
    assert trained == ["sft", "reward-model"]
    assert made() == ["rm-sft-tiny-16x1-2-1/seed0", "tiny-16x1-2/seed0"]
    ready(ppo, TASK, 1, QUIET)
    assert len(trained) == 4, "another seed has another start, and another reward model"


def test_a_reward_model_begins_as_what_it_names():
    ready(PPOLM(model="tiny-16x1", reward_model="rm:sft:tiny-16x1:2:1", prompts=2), TASK, 0, QUIET)
    [config] = [path for path in STARTS.rglob("config.yaml") if "rm-" in str(path)]
    assert "method: reward-model" in config.read_text() and "model: sft:tiny-16x1:2\n" in config.read_text()
    assert "updates: 1\n" in config.read_text()


def test_ppo_learns_from_a_reward_model_that_is_made_for_it():
    run = pal.Run(
        PPOLM(model="tiny-16x1", reward_model="rm:tiny-16x1:1", prompts=2), TASK, updates=1, engine=QUIET
    ).train()
    assert run.finished and run.method.proxy is not None
    assert made() == ["rm-tiny-16x1-1/seed0"]
    assert not [path for path in Path("runs").rglob("*.tmp*")]


def pairs(folder: str, good: str) -> PromptTask:
    rows = [{"prompt": f"Say {i}", "chosen": good, "rejected": "no"} for i in range(12)]
    Path(folder).mkdir(exist_ok=True)
    Path(folder, "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return PromptTask(f"{folder}/pairs.jsonl")


def test_other_data_of_the_same_name_and_data_that_were_edited_have_starts_of_their_own(trained):
    try:
        real_data("stories260K")
    except PalaestraError:
        pytest.skip("stories260K is not here")
    method = DPO(model="sft:stories260K:1")
    found = [
        ready(method, pairs(*at), 0, QUIET).model for at in [("a", "yes"), ("b", "yes"), ("a", "yes"), ("a", "sir")]
    ]
    assert len(set(found)) == 3 and found[0] == found[2] and len(trained) == 3
    Path("rows.jsonl").write_text("\n".join(json.dumps({"prompt": f"p{i}", "completion": "a"}) for i in range(12)))
    first = ready(SFT(model="sft:stories260K:1"), PromptTask("rows.jsonl"), 0, QUIET).model
    Path("rows.jsonl").write_text(Path("rows.jsonl").read_text().replace('"a"', '"b"'))
    assert ready(SFT(model="sft:stories260K:1"), PromptTask("rows.jsonl"), 0, QUIET).model != first


def test_models_in_folders_of_the_same_name_have_starts_of_their_own(trained):
    for at, seed in (("x", 0), ("y", 1)):
        torch.manual_seed(seed)
        LanguagePolicy.make("tiny-16x1", TASK).save(Path(at, "policy"))
    names = ["sft:x/policy:1", "sft:y/policy:1", "sft:soup:x/policy,y/policy:1", "sft:sft:x/policy:1:1"]
    found = [ready(DPO(model=name), TASK, 0, QUIET).model for name in names * 2]
    assert len(set(found)) == 4 and len(trained) == 4, "the last has a start that is there"
    torch.manual_seed(2)
    LanguagePolicy.make("tiny-16x1", TASK).save(Path("x", "policy"))
    assert not {ready(DPO(model=name), TASK, 0, QUIET).model for name in names if "x" in name} & set(found)


def test_a_finished_start_of_other_settings_is_not_taken():
    start = Path(ready(DPO(model="sft:tiny-16x1:1"), TASK, 0, QUIET).model)
    config = start / "config.yaml"
    config.write_text(config.read_text().replace("batch_size: 64", "batch_size: 8"))
    with pytest.raises(BadSetting, match="batch_size 8 then, 64 now; move it away, and it is made anew"):
        ready(DPO(model="sft:tiny-16x1:1"), TASK, 0, QUIET)


def test_the_updates_of_starts_count_in_the_progress_of_a_comparison():
    runs = [
        Run(DPO(model="sft:tiny-16x1:3", lr=lr), TASK, updates=2, seed=seed, folder=f"{lr}/{seed}", engine=QUIET)
        for seed in (0, 1)
        for lr in (1e-3, 1e-4)
    ]
    ready(runs[0].config, TASK, 0, QUIET)
    board = Board(runs)
    assert (board.progress.first, board.progress.total) == (3, 2 * 3 + 4 * 2)
    board.progress.stream = StringIO()
    ready(runs[0].config, TASK, 1, QUIET)
    board.show(force=True)
    assert "6/14 updates" in board.progress.stream.getvalue()


def test_so_do_those_that_starts_themselves_begin_as(trained):
    methods = [
        PPOLM(model="sft:tiny-16x1:2", reward_model="rm:sft:tiny-16x1:2:3", prompts=2),
        PPOLM(model="tiny-16x1", reward_model="rm:sft:tiny-16x1:4:1", prompts=2),
    ]
    runs = [Run(method, TASK, updates=5, folder=str(i), engine=QUIET) for i, method in enumerate(methods)]
    assert Board(runs).progress.total == (2 + 3) + (4 + 1) + 2 * 5, "each start once"
    for method in methods:
        ready(method, TASK, 0, QUIET)
    assert Board(runs).progress.first == 10 and len(trained) == 4


def test_a_comparison_says_what_is_made_first(monkeypatch, capsys):
    monkeypatch.setattr("palaestra.runs.compare.train_all", lambda runs, *how: {run.folder: "left out" for run in runs})
    methods = [DPO(model="sft:tiny-16x1:2"), PPOLM(model="tiny-16x1", reward_model="rm:sft:tiny-16x1:2:1", prompts=2)]
    with pytest.raises(PalaestraError, match="every run failed"):
        pal.compare(methods, TASK, seeds=2, updates=1)
    assert capsys.readouterr().err == (
        f"made first for each seed, unless it is there: sft:tiny-16x1:2 of {TASK.name}, 2 updates\n"
        f"made first for each seed, unless it is there: rm:sft:tiny-16x1:2:1 of {TASK.name}, 1 updates\n"
    )


def test_where_the_task_does_not_say_how_long_a_name_must():
    with pytest.raises(BadSetting, match="such as rm:tiny-16x1:400"):
        ready(PPOLM(model="tiny-16x1", reward_model="rm:tiny-16x1"), as_task("countdown"), 0, QUIET)
