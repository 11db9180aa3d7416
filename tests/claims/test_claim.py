"""A claim is an experiment: it runs, resumes, is judged by its own findings, and leaves a file that says so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.claims import result
from palaestra.claims.claim import (
    Arm,
    Claim,
    Finding,
    Record,
    Records,
    Scale,
    above,
    arms_of,
    difference,
    estimate,
    mean,
)
from palaestra.claims.reproduce import Trial, reproduce, trials
from palaestra.core import registry
from palaestra.core.errors import BadSetting, PalaestraError, UnknownName
from palaestra.methods.language.sft import SFT
from palaestra.methods.offline.bc import BC
from palaestra.runs.training import Training

from ..datasets import save_tiny

ABOUT = ("command", "machine", "palaestra", "python", "torch", "numpy")
TOY = f"{Path(__file__).with_name('toy.py')}:claim"


def test_a_claim_that_holds_is_reproduced_and_written_down(capsys):
    assert reproduce(TOY, workers=2)
    content = json.loads(Path("results/toy-small.json").read_text())
    assert content["holds"] is True
    assert content["command"].startswith("palaestra reproduce")
    assert {"commits", "machine", "torch", "seconds"} <= set(content)
    plain = content["arms"]["plain"]
    assert plain["seeds"] == [0, 1]
    assert plain["settings"]["rollout_steps"] == 16
    assert plain["measures"]["iterations"]["value"] == 2
    assert plain["return"]["value"] == pytest.approx(np.mean([run["return"] for run in plain["runs"]]))
    page = Path("results/toy-small.md").read_text()
    assert "the claim holds" in page
    assert "| held | the pole stands for a step |" in page
    assert "rollout_steps 16" in page
    assert "lam" not in page, "a default setting needs no mention"
    assert "held      the pole stands" in capsys.readouterr().out


def test_a_claim_that_does_not_hold_says_so_everywhere(capsys):
    assert not reproduce(TOY, scale="paper", workers=1, out="elsewhere")
    content = json.loads(Path("elsewhere/toy-paper.json").read_text())
    assert content["holds"] is False
    assert [finding["held"] for finding in content["findings"]] == [True, False]
    assert "**not held** | plain beats itself" in Path("elsewhere/toy-paper.md").read_text()
    assert "NOT HELD  plain beats itself" in capsys.readouterr().out


def test_an_arm_that_never_acts_is_counted_in_updates():
    arm = Arm(BC(network=(8,), batch_size=8), save_tiny("CartPole-v1", "dataset"), updates=40, seeds=1)
    claim = Claim(
        "cloned", BC.paper, "Actions can be imitated.", {"small": Scale("seconds", {"bc": arm}, lambda _: [])}
    )
    record = Trial(claim, "small", "bc", 0).train().read()
    assert [clock for clock, _ in record.curve] == [*range(2, 41, 2)]
    content = result.as_json(claim, "small", Records([record]), [], dict.fromkeys(ABOUT, "") | {"seconds": 1.0})
    assert "| bc | dataset | 40 updates | 0-0 |" in result.as_markdown(content)


def test_a_quantity_that_some_seeds_lack_is_told_for_those_that_have_it():
    arm = Arm(BC(), "dataset", updates=40, seeds=2)
    claim = Claim(
        "cloned", BC.paper, "Actions can be imitated.", {"small": Scale("seconds", {"bc": arm}, lambda _: [])}
    )
    both = Records([Record("bc", 0, ((1, 1.0),), {"a": 1.0, "b": 2.0}), Record("bc", 1, ((1, 1.0),), {"a": 3.0})])
    content = result.as_json(claim, "small", both, [], dict.fromkeys(ABOUT, "") | {"seconds": 1.0})
    assert list(content["arms"]["bc"]["measures"]) == ["a"]
    assert [run["measures"] for run in content["arms"]["bc"]["runs"]] == [{"a": 1.0, "b": 2.0}, {"a": 3.0}]


def test_the_page_names_settings_of_the_task_and_what_an_arm_begins_with():
    sft = SFT(model="tiny-16x1", batch_size=2)
    arms = {
        "start": Arm(sft, "sorting", updates=2, seeds=1, settings={"most": 3}),
        "on": Arm(sft, "sorting", updates=2, seeds=1, begins_with="start"),
    }
    claim = Claim("sorted", SFT.paper, "Digits can be sorted.", {"small": Scale("seconds", arms, lambda _: [])})
    records = Records(Trial(claim, "small", arm, 0).train().read() for arm in arms)
    content = result.as_json(claim, "small", records, [], dict.fromkeys(ABOUT, "") | {"seconds": 1.0})
    page = result.as_markdown(content)
    assert "- start: `sft` model tiny-16x1, batch_size 2; task's most 3\n" in page
    assert "- on: `sft` model tiny-16x1, batch_size 2; begins with start\n" in page


def test_the_page_is_the_same_from_the_file_and_keeps_settings_that_are_no_more():
    arms = {"bc": Arm(BC(network=(8,)), "palaestra.tests:toy", updates=40, seeds=1)}
    claim = Claim("toy", SFT.paper, "It is learnt.", {"small": Scale("seconds", arms, lambda _: [])})
    content = result.as_json(
        claim, "small", Records([Record("bc", 0, ((1, 1.0),), {})]), [], dict.fromkeys(ABOUT, "") | {"seconds": 1.0}
    )
    assert result.as_markdown(json.loads(json.dumps(content))) == result.as_markdown(content)
    content["arms"]["bc"]["settings"]["bygone"] = 3
    assert "- bc: `bc` network [8], bygone 3\n" in result.as_markdown(content)


def test_what_is_finished_is_neither_trained_nor_measured_again(monkeypatch):
    reproduce(TOY, workers=1)
    before = Path("results/toy-small.json").read_text()
    monkeypatch.setattr(Trial, "train", lambda self, resume: pytest.fail("trained again"))
    assert reproduce(TOY, workers=1)
    after = json.loads(Path("results/toy-small.json").read_text())
    assert after["arms"] == json.loads(before)["arms"]
    assert after["findings"] == json.loads(before)["findings"]


def test_an_interrupted_reproduction_goes_on_where_it_stopped(monkeypatch):
    claim = registry.claim(TOY)
    whole = trials(claim, "paper")[0].train().read()
    cut = trials(claim, "small")[0]
    with monkeypatch.context() as patch:
        patch.setattr(Training, "write_record", lambda self, status, reason="": _stop_when(status == "finished"))
        with pytest.raises(KeyboardInterrupt):
            cut.train()
    assert not cut.measured
    again = trials(claim, "small")[0].train(resume=True).read()
    assert (again.curve, again.measures) == (whole.curve, whole.measures)


def _stop_when(condition: bool) -> None:
    if condition:
        raise KeyboardInterrupt


def test_seeds_differ():
    first, second = (trial.train().read() for trial in trials(registry.claim(TOY), "small") if trial.arm == "plain")
    assert first.curve != second.curve


def test_runs_of_another_version_of_the_claim_are_refused():
    claim = registry.claim(TOY)
    trials(claim, "small")[0].train()
    config = Path("runs/claims/toy/small/plain/seed0/config.yaml")
    config.write_text(config.read_text().replace("gamma: 0.99", "gamma: 0.9"))
    with pytest.raises(BadSetting, match=r"was started with other .* now; move runs/claims/toy/small away"):
        reproduce(TOY)


def test_a_failed_run_leaves_the_question_open(monkeypatch):
    monkeypatch.setattr("palaestra.envs.task.EnvTask.evaluate", lambda *a, **k: 1 / 0)
    with pytest.raises(PalaestraError, match="3 of 3 runs failed; the first: ZeroDivisionError"):
        reproduce(TOY, workers=1)
    assert not Path("results").exists()


def test_an_unknown_claim_or_scale_is_refused_by_name():
    with pytest.raises(UnknownName, match="did you mean 'sac'"):
        reproduce("sacc")
    with pytest.raises(UnknownName, match="did you mean 'small'"):
        reproduce(TOY, scale="smal")
    with pytest.raises(PalaestraError, match="workers must be at least 1"):
        reproduce(TOY, workers=0)


def make(arm: str, *finals: float) -> Records:
    return Records(Record(arm, seed, ((1, 0.0), (2, final)), {"twice": 2 * final}) for seed, final in enumerate(finals))


def test_records_are_selected_by_arm_in_the_order_of_seeds():
    records = Records([*make("a", 1.0, 2.0), *make("b", 5.0)])
    records.reverse()
    assert records.final("a").tolist() == [1.0, 2.0]
    assert records.area("a").tolist() == [0.5, 1.0]
    assert records.measure("b", "twice").tolist() == [10.0]
    with pytest.raises(UnknownName, match="unknown arm 'c'"):
        records.final("c")


@settings(max_examples=25)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6))
def test_an_estimate_lies_in_its_interval_and_the_interval_in_the_data(values):
    number = mean(np.array(values))
    slack = 1e-6
    assert min(values) - slack <= number.low <= number.value + slack
    assert number.value - slack <= number.high <= max(values) + slack


def test_arms_are_resampled_apart():
    same = np.array([0.0, 10.0])
    assert difference(same, same).value == 0
    assert difference(same, same).low < 0 < difference(same, same).high
    alone = estimate(lambda a: a.sum() - a.sum(), same)
    assert (alone.low, alone.high) == (0, 0)


@pytest.mark.parametrize(("least", "held"), [(0.0, True), (2.0, False), (-3.0, True)])
def test_an_arm_lies_above_another_if_the_means_differ_by_more_than_is_asked(least, held):
    first, second = np.array([2.0, 12.0]), np.array([0.0, 10.0])
    apart, paired = (above("further", first, second, least, paired) for paired in (False, True))
    assert apart.sentence == "further" and apart.held is paired.held is held
    assert [finding.numbers["difference"].value for finding in (apart, paired)] == [2.0, 2.0]
    assert apart.numbers["difference"].low < 2 and paired.numbers["difference"].low == 2, "seeds lie apart, but alike"


def test_methods_that_have_all_else_in_common_become_arms():
    few, many = SFT(batch_size=2), SFT(batch_size=4)
    assert arms_of({"few": few, "many": many}, "sorting", updates=3, seeds=2) == {
        "few": Arm(few, "sorting", updates=3, seeds=2),
        "many": Arm(many, "sorting", updates=3, seeds=2),
    }


def test_what_a_claim_takes_is_told_before_its_data_are_looked_for(capsys):
    with pytest.raises(PalaestraError, match=r"there is no file .*lean\.py"):
        reproduce("unlikeliness", scale="paper")
    said = capsys.readouterr().out
    assert "deepseek-ai/DeepSeek-Prover-V1.5-SFT" in said and "in lean.py a reward function `proved`" in said


@pytest.mark.parametrize("name", registry.table("claims"))
def test_the_cost_at_paper_scale_names_models_and_data_of_the_hub(name):
    scale = registry.claim(name).scale("paper")
    for arm in scale.arms.values():
        models = [value for setting, value in arm.method.config.items() if setting.endswith("model")]
        for text in (*models, arm.settings.get("data")):
            for owner, what in re.findall(r"([\w.-]+)/([\w.-]+)", str(text)):
                assert f"{owner}/" in scale.cost and what.removeprefix("iterative-prompt-v1") in scale.cost


@pytest.mark.parametrize(("scale", "code"), [("small", 0), ("paper", 1)])
def test_the_command_exits_with_the_truth(scale, code):
    command = [sys.executable, "-m", "palaestra", "reproduce", TOY, "--scale", scale, "--workers", "1"]
    assert subprocess.run(command, capture_output=True, text=True).returncode == code


def test_a_finding_that_compares_arrays_can_be_written_as_json():
    assert json.dumps(Finding("larger", np.float64(2) > np.float64(1), {}).held) == "true"
