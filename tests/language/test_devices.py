"""Language models on another device than the processor, which here is one that computes with the processor all the same."""

import subprocess
import sys
from pathlib import Path

import pytest

import palaestra as pal
from palaestra.core.devices import models_device, placing
from palaestra.core.errors import BadSetting

ROOT = Path(__file__).parents[2]
METHODS = ("grpo", "ppo-max-released", "tdpo1", "a-lol", "reward-model", "unigrpo")
"""Between them: answers, penalties, critics, anchors, whole distributions, heads on states, scores, and masked diffusion."""


def test_a_run_elsewhere_has_the_metrics_and_checkpoints_of_one_with_the_processor():
    # In a process of its own, since a device stays registered.
    done = subprocess.run(
        [sys.executable, "-m", "tests.language.trained_elsewhere", *METHODS],
        capture_output=True,
        text=True,
        timeout=900,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [word for name in METHODS for word in (name, "agrees")]


def test_models_are_put_where_a_run_says_and_nowhere_else_afterwards():
    with placing("meta"):
        assert models_device().type == "meta"
    assert models_device().type in ("cpu", "cuda")


def test_a_device_that_is_not_there_is_refused_by_name():
    with pytest.raises(BadSetting, match="there is no device cuda:99 here"), placing("cuda:99"):
        pass
    with pytest.raises(BadSetting, match="there is no device abacus here"), placing("abacus"):
        pass


def test_methods_of_control_take_no_device(tmp_path):
    with pytest.raises(BadSetting, match="train on the processor, not on cuda"):
        pal.train("ppo", "CartPole-v1", steps=10, device="cuda", out=tmp_path / "run")
