"""Signals that ask a run to stop: the first waits for the step, and what follows loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from palaestra.runs.folder import read_record
from palaestra.runs.interrupt import interruptible

from .processes import PATIENCE


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_is_noted_and_a_second_ctrl_c_acts_at_once(first):
    with interruptible() as interrupted:
        assert not interrupted
        send(first)
        assert interrupted
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_terminate_that_comes_again_changes_nothing(first):
    # The kernel sends a worker one for each thread of a parent that was killed, some milliseconds apart.
    with interruptible() as interrupted:
        send(first)
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert interrupted


def test_what_handled_the_signals_before_handles_them_afterwards():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


TERMINATED_AGAIN_WHEN_IT_STOPS = """
import os, signal
import palaestra as pal
from palaestra.runs.training import Training

write = Training.write_record

def write_record(self, status, reason=""):
    if status == "interrupted":
        os.kill(os.getpid(), signal.SIGTERM)
    write(self, status, reason)

class Terminated(pal.PPO):
    def step(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().step()

Training.write_record = write_record
method = Terminated(network=(8,), num_envs=2, rollout_steps=16, minibatch=16, epochs=1)
pal.train(method, "CartPole-v1", steps=10_000, out="stopped", quiet=True, tensorboard=False)
"""


def test_a_signal_that_comes_while_a_run_stops_does_not_end_it_before_it_has_said_so():
    ended = subprocess.run(
        [sys.executable, "-c", TERMINATED_AGAIN_WHEN_IT_STOPS], capture_output=True, text=True, timeout=PATIENCE
    )
    assert "KeyboardInterrupt" in ended.stderr
    stopped = read_record(Path("stopped"))
    assert stopped["status"] == "interrupted"
    assert stopped["counters"]["steps"] == 32
