"""When a run compiles its losses."""

from __future__ import annotations

import shlex

import pytest
import yaml

import palaestra as pal
from palaestra.cli.main import main
from palaestra.runs import engine

TINY = pal.PPO(network=(4,), num_envs=1, rollout_steps=8, minibatch=8, epochs=1)


def planned(budget: dict[str, int], **options) -> pal.Run:
    return pal.Run(TINY, "CartPole-v1", **budget, engine=pal.Engine(**options))


@pytest.mark.parametrize(
    ("unit", "count", "expected"), [("steps", 99_999, False), ("steps", 100_000, True), ("updates", 100_000, True)]
)
def test_a_budget_that_repays_it_is_compiled(unit, count, expected, monkeypatch):
    monkeypatch.setattr(engine, "compiler", lambda: "/usr/bin/g++")
    assert planned({unit: count}).engine.compile is expected


def test_without_a_compiler_nothing_is(monkeypatch):
    monkeypatch.setattr(engine, "compiler", lambda: None)
    assert planned({"steps": 10**6}).engine.compile is False


def test_the_user_has_the_last_word(monkeypatch):
    monkeypatch.setattr(engine, "compiler", lambda: "/usr/bin/g++")
    assert planned({"steps": 8}, compile=True).engine.compile is True
    assert planned({"steps": 10**6}, compile=False).engine.compile is False


@pytest.mark.parametrize(("flag", "expected"), [([], False), (["--no-compile"], False), (["--compile"], True)])
def test_the_choice_is_written_down_with_the_run(flag, expected, monkeypatch):
    monkeypatch.setattr("palaestra.nets.gradient.Gradients._compile", lambda *arguments: None)
    settings = shlex.split(
        "--method.network 4 --method.num-envs 1 --method.rollout-steps 8 --method.minibatch 8 --method.epochs 1"
    )
    assert main(["train", "ppo", "--task", "CartPole-v1", "--steps", "8", "--out", "run", *settings, *flag]) == 0
    with open("run/config.yaml") as file:
        assert yaml.safe_load(file)["engine"]["compile"] is expected
