"""Models that are trained before the run that names them: once for each task and seed, and what the name says."""

from __future__ import annotations

from pathlib import Path

import pytest

import palaestra as pal
from palaestra.core.errors import BadSetting
from palaestra.core.task import as_task
from palaestra.language.reward_policy import RewardPolicy
from palaestra.methods.language.ppo_lm import PPOLM
from palaestra.runs.engine import Engine
from palaestra.runs.run import Run
from palaestra.runs.starts import STARTS, ready

QUIET = Engine(quiet=True, tensorboard=False, evaluate_episodes=2)
TASK = as_task("noisy-sort", train_rows=20, test_rows=6)


def made() -> list[str]:
    return sorted(str(path.parent.relative_to(STARTS / TASK.label)) for path in STARTS.rglob("run.json"))


def test_a_start_and_a_reward_model_are_trained_once_for_all_that_name_them(monkeypatch):
    trained, train = [], Run.train
    monkeypatch.setattr(Run, "train", lambda self, **how: trained.append(self.config.name) or train(self, **how))
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


def test_where_the_task_does_not_say_how_long_a_name_must():
    with pytest.raises(BadSetting, match="such as rm:tiny-16x1:400"):
        ready(PPOLM(model="tiny-16x1", reward_model="rm:tiny-16x1"), as_task("countdown"), 0, QUIET)
