"""Training that goes wrong stops, keeps the last good weights, and names what went first; so do broken environments."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import palaestra as pal
from palaestra.cli.main import main
from palaestra.core.errors import BadEnvironment, Diverged
from palaestra.core.policy import parameters_finite
from palaestra.runs.metrics import EXPLODED, Meter

from ..environments import Faulty

TINY = {"network": (8, 8), "batch_size": 8, "buffer_size": 200, "warmup_steps": 20}
QUIET = {"quiet": True, "tensorboard": False, "evaluate_episodes": 1, "evaluate_every": 0}


@dataclass
class Poisoned(pal.SAC):
    """Goes wrong at one update."""

    poison: str = "loss"
    at: int = 45

    def update(self, batch, noise):
        metrics = super().update(batch, noise)
        if self.counters.updates == self.at:
            if self.poison == "loss":
                metrics["loss/critic"] = metrics["loss/critic"] * torch.nan
            elif self.poison == "explosion":
                metrics["value/q"] = metrics["value/q"] + 2 * EXPLODED
            elif self.poison == "weights":
                next(self.actor.parameters()).data.fill_(torch.nan)
            elif self.poison == "critics":
                next(self.critics.parameters()).data.fill_(torch.nan)
        return metrics


def tree(folder: str) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


def diverge(poison: str, **engine) -> str:
    with pytest.raises(Diverged) as stopped:
        pal.train(Poisoned(**TINY, poison=poison), "Pendulum-v1", steps=200, out="run", **{**QUIET, **engine})
    assert "\n" not in str(stopped.value)
    record = json.loads(Path("run/run.json").read_text())
    assert record["status"] == "diverged"
    assert record["reason"] in str(stopped.value)
    return str(stopped.value)


# Update 45, counted from 0, is made in step 66.
NAMED = {
    "loss": "loss/critic became nan",
    "explosion": "value/q became 2e.12",
    "weights": r"the parameter actor\.\S+ is no longer finite",
    "critics": r"the parameter critics\.\S+ is no longer finite",
}


@pytest.mark.parametrize("poison", NAMED)
def test_the_step_and_the_quantity_that_went_first_are_named_and_the_weights_before_it_are_kept(poison):
    said = diverge(poison, checkpoint_every=20)
    assert re.search(f"in the step after 65: {NAMED[poison]}", said)
    assert "the weights are in run/policy" in said
    sound = pal.train(Poisoned(**TINY, poison=poison), "Pendulum-v1", steps=65, out="sound", **QUIET)
    for name, value in pal.load_policy("run").state_dict().items():
        torch.testing.assert_close(value, sound.policy.state_dict()[name], rtol=0, atol=0)


def test_a_poisoned_state_is_not_saved_even_if_nothing_was_logged_since():
    said = diverge("critics", checkpoint_every=10, log_every=150)
    assert re.search(NAMED["critics"], said)
    kept = sorted(path.name for path in Path("run/checkpoints").glob("0*"))
    assert kept[-1] == "000000000065"


def test_without_checkpoints_the_run_is_repeated_from_its_start():
    assert "in the step after 65" in diverge("loss", checkpoint_every=0)
    assert parameters_finite(pal.load_policy("run")) is None


def test_resuming_repeats_the_one_step_that_broke():
    diverge("loss", checkpoint_every=20)
    before = tree("run/checkpoints")
    made = []
    update = Poisoned.update
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Diverged, match="in the step after 65"):
        patch.setattr(
            Poisoned, "update", lambda self, *args: [made.append(self.counters.updates), update(self, *args)][1]
        )
        pal.train(Poisoned(**TINY), "Pendulum-v1", steps=200, out="run", resume=True, **{**QUIET, "log_every": 1})
    assert made == [45, 45]  # as it was noticed, and as it was looked for
    assert tree("run/checkpoints") == before


def test_a_first_step_that_breaks_is_told():
    class Broken(pal.PPO):
        def learn(self, batch):
            return super().learn(batch) | {"loss/value": torch.tensor(torch.nan)}

    method = Broken(network=(4,), num_envs=1, rollout_steps=8, minibatch=8, epochs=1)
    with pytest.raises(Diverged, match=r"in its first step: loss/value became nan$"):
        pal.train(method, "CartPole-v1", steps=80, out="run", **QUIET)


def test_what_does_not_happen_again_is_told_so():
    once = []

    class Fleeting(Poisoned):
        def update(self, batch, noise):
            self.at = -1 if once else 45
            if self.counters.updates == 45:
                once.append(True)
            return super().update(batch, noise)

    with pytest.raises(
        Diverged, match=r"loss/critic became nan.* did not show that again; the weights of step 60 are in run/policy"
    ):
        pal.train(Fleeting(**TINY), "Pendulum-v1", steps=200, out="run", checkpoint_every=20, **QUIET)


def test_the_command_line_ends_with_a_code_of_its_own(capsys):
    file = Path("poisoned.py")
    file.write_text(
        "from dataclasses import dataclass\nimport torch, palaestra as pal\n\n@dataclass\nclass Poisoned(pal.SAC):\n"
        "    def update(self, batch, noise):\n        return {'loss/critic': torch.tensor(torch.nan)}\n"
    )
    options = ["--method.warmup-steps", "20", "--out", "run", "--quiet"]
    assert main(["train", "poisoned.py:Poisoned", "--task", "Pendulum-v1", "--steps", "60", *options]) == 3
    assert "loss/critic became nan" in capsys.readouterr().err


def test_the_meter_names_the_earliest_of_several():
    meter = Meter()
    for step in range(5):
        meter.add(
            {
                "late": torch.tensor(torch.nan if step >= 3 else 1.0),
                "early": torch.tensor(0.0 if step < 1 else torch.inf),
            }
        )
    with pytest.raises(Diverged, match="early became inf 3 steps before the last"):
        meter.flush()


def test_the_meter_averages_since_the_last_flush():
    meter = Meter()
    for value in (1.0, 2.0, 6.0):
        meter.add({"a": torch.tensor(value)})
    assert meter.flush() == {"a": 3.0}
    meter.add({"a": torch.tensor(5.0)})
    assert meter.flush() == {"a": 5.0}
    assert meter.flush() == {}


# Environments that break their contract.

FAULTS = {
    "nan": "the observation of .* is NaN or infinite",
    "nan reward": "environment 0, episode 0, step 15: the reward is nan",
    "shape": r"the observation of .* has shape \(2,\), but its space says \(3,\)",
    "dtype": "an observation does not fit",
    "text reward": "environment 0, episode 0, step 15: step failed with ValueError",
    "raises": r"step failed with ZeroDivisionError: the joint is gone \(environments.py, line \d+\)",
    "exits": "step failed with SystemExit: 0",
    "reset": r"reset failed with RuntimeError: no simulator \(environments.py, line \d+\)",
}


@pytest.mark.parametrize("method", ["sac", "ppo"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_environment_is_named_in_one_line(fault, method):
    config = pal.SAC(**TINY) if method == "sac" else pal.PPO(network=(8,), num_envs=1, rollout_steps=20, minibatch=10)
    with pytest.raises(BadEnvironment, match=FAULTS[fault]) as stopped:
        pal.train(config, functools.partial(Faulty, fault), steps=60, out="run", **QUIET)
    assert "\n" not in str(stopped.value)
    if fault != "reset":
        assert json.loads(Path("run/run.json").read_text())["status"] == "failed"


def test_a_run_whose_environment_failed_resumes_from_its_checkpoint(monkeypatch):
    whole = pal.train(pal.SAC(**TINY), Faulty, steps=100, out="whole", checkpoint_every=10, **QUIET)
    with monkeypatch.context() as patch, pytest.raises(BadEnvironment):
        patch.setattr(Faulty.__init__, "__defaults__", ("raises", 25))
        pal.train(pal.SAC(**TINY), Faulty, steps=100, out="run", checkpoint_every=10, **QUIET)
    resumed = pal.train(pal.SAC(**TINY), Faulty, steps=100, out="run", resume=True, checkpoint_every=10, **QUIET)
    assert resumed.metrics == whole.metrics


def test_an_environment_that_hands_out_one_array_again_and_again_is_copied():
    class Reusing(Faulty):
        def reset(self, **kwargs):
            obs, info = super().reset(**kwargs)
            self.array = np.zeros(3, np.float32)
            self.array[:] = obs
            return self.array, info

        def step(self, action):
            obs, *rest = super().step(action)
            self.array[:] = obs
            return self.array, *rest

    Reusing.__name__ = "Faulty"  # streams are seeded by the task's name
    fresh = pal.train(pal.SAC(**TINY), Faulty, steps=60, out="fresh", **QUIET)
    reusing = pal.train(pal.SAC(**TINY), Reusing, steps=60, out="reusing", **QUIET)
    assert reusing.metrics == fresh.metrics


def test_an_image_of_fractions_is_refused_instead_of_turned_black():
    class Fractions(Faulty):
        observation_space = gym.spaces.Box(0, 255, (12, 12, 3), np.uint8)

        def reset(self, **kwargs):
            return np.full((12, 12, 3), 0.5, np.float32), super().reset(**kwargs)[1]

    with pytest.raises(BadEnvironment, match="an observation of type float32 does not fit"):
        pal.train(pal.SAC(**TINY), Fractions, steps=60, out="run", **QUIET)
