"""Processes that are killed or interrupted at any moment lose nothing."""

from __future__ import annotations

import random
import shlex
import signal
from functools import cache
from pathlib import Path

import pytest

import palaestra as pal

from .processes import PATIENCE, fingerprint, finish, order, start, wait_for_rows

SAC = {"network": [16, 16], "batch_size": 16, "buffer_size": 900, "warmup_steps": 100}
PPO = {"network": [16, 16], "num_envs": 2, "rollout_steps": 16, "minibatch": 16, "epochs": 2, "normalise_obs": True}
GRPO = {"model": "tiny-16x1", "prompts": 3, "group": 4, "epochs": 2, "minibatches": 2, "kl_weight": 0.1}
ORDERS = {
    "sac on HalfCheetah": order("sac", SAC, "HalfCheetah-v5", 1800),
    "ppo on Ant": order("ppo", PPO, "Ant-v5", 1600),
    "grpo on sorting": order("grpo", GRPO, "sorting", 8000),  # most of whose time is generation
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted run of an order, trained once."""

    @cache
    def trained(name: str) -> str:
        folder = str(tmp_path_factory.mktemp("whole"))
        finish(start(ORDERS[name], folder, quiet=True, resume=True))
        return folder

    return trained


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDERS)
def test_killed_again_and_again_and_resumed_it_ends_byte_equal(name, whole):
    what, kills = ORDERS[name], random.Random(name)
    rows = len(pal.load_run(whole(name)).metrics)
    for moment in sorted(kills.sample(range(2, rows - 2), 3)):
        process = start(what, "cut", resume=True, quiet=True)
        wait_for_rows(process, "cut", moment)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    finish(start(what, "cut", resume=True, quiet=True))
    assert fingerprint("cut") == fingerprint(whole(name))
    assert not list(Path("cut").rglob(".*.tmp-*")), "what the kills left half-written is swept away"


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_says_how_to_resume_and_the_resumed_run_is_byte_equal(signum, whole):
    name = "sac on HalfCheetah"
    what = ORDERS[name]
    process = start(what, "cut")
    wait_for_rows(process, "cut", 20)
    process.send_signal(signum)
    said, _ = process.communicate(timeout=PATIENCE)
    stopped = pal.load_run("cut")
    assert f"palaestra train --resume {shlex.quote('cut')}" in said
    assert stopped.record["status"] == "interrupted"
    assert f"stopped at {stopped.record['counters']['steps']}" in said
    assert pal.load_policy("cut") is not None
    finish(start(what, "cut", resume=True, quiet=True))
    assert fingerprint("cut") == fingerprint(whole(name))
