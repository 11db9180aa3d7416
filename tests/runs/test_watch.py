"""Signs of sickness are said once, after they have lasted."""

from __future__ import annotations

import dataclasses
import io
import re

import pytest
import torch

import palaestra as pal
from palaestra.core import registry
from palaestra.methods.language.reg_grpo import RegGRPO
from palaestra.runs.progress import Progress
from palaestra.runs.watch import SIGNS, Watch

SICK = {
    "sampler/difference": 0.5,
    "policy/kl": 2.0,
    "policy/clipped": 0.8,
    "policy/entropy": 0.001,
    "value/explained_variance": -3.0,
    "guide/gated": 0.002,
    "groups/without_spread": 1.0,
    "answers/truncated": 0.9,
    "answers/length": 2.0,
    "policy/clipped_up": 0.5,
    "policy/kl_reference": 9.0,
    "preference/chosen_logp": -40.0,
    "preference/aim": 100.0,
    "pairs/prompts_without": 1.0,
}
WELL = {
    "sampler/difference": 0.01,
    "policy/kl": 0.01,
    "policy/clipped": 0.1,
    "policy/entropy": 0.69,
    "value/explained_variance": 0.8,
    "guide/gated": 0.4,
    "groups/without_spread": 0.3,
    "answers/truncated": 0.1,
    "answers/length": 40.0,
    "policy/clipped_up": 0.02,
    "policy/kl_reference": 0.1,
    "preference/chosen_logp": -4.0,
    "preference/aim": 16.0,
    "pairs/prompts_without": 0.4,
}


@pytest.mark.parametrize("sign", SIGNS, ids=lambda sign: sign.name)
def test_a_sign_is_said_once_when_it_has_lasted(sign):
    watch = Watch({})
    assert watch.look(WELL) == []
    sick = {sign.name: SICK[sign.name]}
    said = [watch.look(sick) for _ in range(100)]
    assert [len(s) for s in said] == [int(i == sign.rows - 1) for i in range(100)]
    assert said[sign.rows - 1][0].startswith(sign.what.format(SICK[sign.name]))


@pytest.mark.parametrize("name", registry.METHODS)
def test_what_is_advised_names_settings_that_the_method_has(name):
    cls = registry.method_class(name)
    own = {field.name for field in dataclasses.fields(cls)}
    every = {field.name for other in registry.METHODS for field in dataclasses.fields(registry.method_class(other))}
    for sign in SIGNS:
        named = set(re.findall(r"[a-z]+(?:_[a-z]+)+|epochs|overlong|resample|drawn|group|bar", advised(sign, cls())))
        assert named & every <= own


def advised(sign, method):
    return sign.said(SICK[sign.name], method.config).removeprefix(sign.what.format(SICK[sign.name]))


def test_every_setting_that_is_advised_is_one_of_some_method():
    every = {field.name for name in registry.METHODS for field in dataclasses.fields(registry.method_class(name))}
    assert {name for sign in SIGNS for name in sign.advice} - {""} <= every


def test_what_helps_is_listed_and_what_is_done_already_is_not():
    [sign] = [sign for sign in SIGNS if sign.name == "answers/truncated"]
    masks = "leave them out of the loss (overlong=mask)"
    assert advised(sign, pal.GRPO()) == f"; raise max_tokens or {masks}"
    assert advised(sign, pal.GRPO(overlong="mask")) == "; raise max_tokens"
    assert advised(sign, RegGRPO()) == "; raise max_tokens"
    assert advised(sign, pal.SAC()) == ""
    [sign] = [sign for sign in SIGNS if sign.name == "groups/without_spread"]
    assert advised(sign, pal.GRPO()).startswith("; choose prompts that are solved sometimes, start from")
    assert "resample" in advised(sign, pal.GRPO()) and "resample" not in advised(sign, RegGRPO())


@pytest.mark.parametrize("sign", SIGNS, ids=lambda sign: sign.name)
def test_a_passing_spell_is_not_worth_a_word(sign):
    watch = Watch({})
    for _ in range(10):
        for _ in range(sign.rows - 1):
            assert watch.look(SICK | WELL | {sign.name: SICK[sign.name]}) == []
        assert watch.look(WELL) == []


def test_a_healthy_gaussian_may_have_negative_entropy():
    watch = Watch({})
    assert all(watch.look({"policy/entropy": e}) == [] for e in [1.4, *[-2.0] * 50])


def test_a_run_says_it_beside_its_progress(capsys):
    class Frantic(pal.PPO):
        def learn(self, batch):
            return super().learn(batch) | {"policy/clipped": torch.tensor(0.9)}

    method = Frantic(network=(4,), num_envs=1, rollout_steps=8, minibatch=8, epochs=1)
    pal.train(method, "CartPole-v1", steps=160, out="run", tensorboard=False, evaluate_episodes=1, evaluate_every=0)
    assert capsys.readouterr().err.count("90% of the ratios are clipped") == 1


def test_what_is_said_does_not_break_the_live_line():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    progress = Progress("x", 10, "steps", stream=Terminal())
    progress.say("a remark")
    assert progress.stream.getvalue() == "\r\x1b[2Ka remark\n"


def test_a_step_that_goes_beyond_the_budget_leaves_no_time():
    """A round of some methods is thousands of updates."""
    assert "100%  6001/6001 updates  600/s  0m00s left" in Progress("x", 2, "updates").line(6001, 10.0, {})


def test_speed_is_counted_anew_where_a_run_goes_back_to_its_checkpoint(monkeypatch):
    clock = iter([0.0, 100.0, 110.0])
    monkeypatch.setattr("palaestra.runs.progress.time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    progress = Progress("x", 1000, "updates", start=500, stream=stream)
    progress.update(400, {}, force=True)
    progress.update(450, {}, force=True)
    assert "400/1000 updates  0/s  ? left" in stream.getvalue()
    assert "450/1000 updates  5/s  1m50s left" in stream.getvalue()


def test_a_speed_below_one_in_a_second_is_no_standstill():
    assert "4/20 updates  0.4/s  0m40s left" in Progress("x", 20, "updates").line(4, 10.0, {})


@pytest.mark.parametrize(("score", "shown"), [(0.8438, "0.844"), (1.1231, "1.12"), (-1234.56, "−1,235"), (0.0, "0")])
def test_scores_of_every_size_have_three_digits(score, shown):
    assert Progress("x", 2, "updates").line(1, 1.0, {"evaluation/return": score}).endswith(f"evaluation {shown}")


def test_in_text_the_line_has_the_entropy_of_sampling_and_how_far_an_update_went_where_there_is_no_reference():
    latest = {"answers/entropy": 1.5, "policy/entropy": 9.0, "policy/kl": 0.25}
    assert Progress("x", 2, "updates").line(1, 1.0, latest).endswith("entropy 1.5  kl 0.25")
    assert Progress("x", 2, "updates").line(1, 1.0, {**latest, "policy/kl_reference": 3.0}).endswith("kl 3")
