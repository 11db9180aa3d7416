"""What is true of every registered method: it trains, resumes byte for byte, and its policy loads."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import palaestra as pal
from palaestra.core import registry
from palaestra.core.errors import BadSetting
from palaestra.core.hints import ranges_of
from palaestra.core.method import make_method
from palaestra.nets.gradient import compiler
from palaestra.runs import checkpoint

from .datasets import save_tiny
from .methods_table import TINY

QUIET = {"quiet": True, "tensorboard": False, "evaluate_episodes": 2}

IN_TEXT = {name for name in TINY if registry.method_class(name).learns_from == "prompts"}
"""Methods whose losses are made of sequences of any length, which nothing compiles."""
COMPILED = sorted(set(TINY) - {"a2c"} - IN_TEXT)  # a2c steps torch's RMSProp by torch's backward


def test_every_registered_method_has_a_tiny_setting():
    assert set(TINY) == set(registry.METHODS)


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_setting_out_of_the_range_in_its_hint_is_refused(name):
    settings = registry.method_class(name).defaults()
    for setting, allowed in ranges_of(registry.method_class(name)):
        if setting in settings:
            with pytest.raises(BadSetting, match=f"{setting} {allowed.said}, got -1"):
                make_method(name, {**TINY[name][1], setting: -1}).check()


def fingerprint(folder: Path) -> dict[str, str]:
    """The bytes that an interrupted and an uninterrupted run must share."""
    newest = checkpoint.newest(folder / "checkpoints")
    weights = next((folder / "policy").glob("*.safetensors"))
    files = [folder / "metrics.jsonl", weights, newest / "state.safetensors"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Killed(BaseException):
    pass


def tiny_run(name: str, folder: str, compiled: bool = False) -> pal.Run:
    task, settings, budget = TINY[name]
    if task.startswith("data:"):
        task = save_tiny(task.removeprefix("data:"), "dataset")
    engine = pal.Engine(**QUIET, checkpoint_every=budget // 4, compile=compiled)
    method = make_method(name, settings)
    limit = {"updates" if method.learns_from in ("dataset", "prompts") else "steps": budget}
    return pal.Run(method, task, folder=folder, engine=engine, **limit)


def die_after(calls: int, cls: type, monkeypatch) -> None:
    """Make `step` die without any clean-up after so many calls."""
    step, count = cls.step, iter(range(calls))

    def mortal(self):
        if next(count, None) is None:
            raise Killed
        return step(self)

    monkeypatch.setattr(cls, "step", mortal)


def count_calls(name: str, monkeypatch) -> list[None]:
    """A list that grows by one with every `step`."""
    cls, calls = registry.method_class(name), []
    step = cls.step
    monkeypatch.setattr(cls, "step", lambda self: (calls.append(None), step(self))[1])
    return calls


@pytest.mark.parametrize("name", sorted(TINY))
def test_it_trains_evaluates_and_its_policy_loads(name):
    run = tiny_run(name, "run").train()
    assert run.record["status"] == "finished"
    assert max(run.metrics[-1][unit] for unit in ("steps", "updates")) >= TINY[name][2]
    loaded = pal.load_policy("run")
    if not run.config.evaluates:
        return
    in_text = run.config.learns_from == "prompts"
    obs = run.task.rows("test")[0]["prompt"] if in_text else run.task.observation_space.sample()
    actions = []
    for policy in (loaded, run.policy):
        torch.manual_seed(0)  # some policies sample, also when they are evaluated
        actions.append(policy.predict(obs))
    np.testing.assert_array_equal(*actions)
    assert isinstance(actions[0], str | float) if in_text else run.task.action_space.contains(actions[0])


@pytest.mark.parametrize("name", sorted(TINY))
def test_killed_at_any_step_and_resumed_it_ends_byte_equal(name, monkeypatch):
    check_resumes(name, monkeypatch)


@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_too_it_ends_byte_equal_with_nothing_left_to_autograd(name, monkeypatch):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*left to autograd.*")
        check_resumes(name, monkeypatch, compiled=True)


def check_resumes(name: str, monkeypatch, compiled: bool = False) -> None:
    calls = count_calls(name, monkeypatch)
    whole = tiny_run(name, "whole", compiled).train()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_after(int(0.65 * len(calls)), type(whole.config), patch)
        tiny_run(name, "cut", compiled).train()
    assert 0 < pal.load_run("cut").record["counters"]["updates"] < whole.record["counters"]["updates"]
    resumed = pal.load_run("cut").train(resume=True)
    assert fingerprint(resumed.folder) == fingerprint(whole.folder)
    assert resumed.record["counters"] == whole.record["counters"]
