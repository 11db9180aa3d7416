"""How exactly a run multiplies."""

from __future__ import annotations

import pytest
import torch
import yaml

import palaestra as pal
from palaestra.core.errors import BadSetting, UnknownName

QUIET = {"quiet": True, "tensorboard": False, "evaluate_episodes": 1}


class Seen(pal.PPO):
    """Notes the precision under which it learns."""

    def step(self):
        self.seen = torch.get_float32_matmul_precision()
        return super().step()


TINY = {"network": (4,), "num_envs": 1, "rollout_steps": 8, "minibatch": 8, "epochs": 1}


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_a_run_multiplies_as_it_was_told_and_leaves_no_trace(precision):
    run = pal.train(Seen(**TINY), "CartPole-v1", steps=8, out="run", precision=precision, **QUIET)
    assert run.method.seen == precision
    assert torch.get_float32_matmul_precision() == "highest"
    with open("run/config.yaml") as file:
        assert yaml.safe_load(file)["engine"]["precision"] == precision


def test_the_callers_own_choice_comes_back():
    torch.set_float32_matmul_precision("high")
    try:
        assert pal.train(Seen(**TINY), "CartPole-v1", steps=8, out="run", **QUIET).method.seen == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_an_unknown_precision_is_refused():
    with pytest.raises(UnknownName, match="unknown precision 'mediun'"):
        pal.train(pal.PPO(**TINY), "CartPole-v1", steps=8, out="run", precision="mediun", **QUIET)


def test_a_choice_that_torch_takes_for_a_contradiction_is_explained():
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        with pytest.raises(BadSetting, match="was set in torch"):
            pal.train(pal.PPO(**TINY), "CartPole-v1", steps=8, out="run", **QUIET)
    finally:
        torch.set_float32_matmul_precision("highest")
