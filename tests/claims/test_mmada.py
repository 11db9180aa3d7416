"""The verdicts on MMaDA, on made-up records: they hold where they should, and each finding can fail by itself."""

from __future__ import annotations

import pytest

from palaestra.claims.mmada import claim, images
from palaestra.language.diffusion.policy import DiffusionLanguagePolicy
from palaestra.language.tasks.arithmetic import Arithmetic
from palaestra.language.tasks.squares import Squares
from palaestra.methods.language.mdm_sft import MDMSFT
from palaestra.methods.language.unigrpo import UniGRPO
from palaestra.runs.engine import Engine
from palaestra.runs.run import Run

from .test_verdicts import made_up, not_held

MEASURES = {
    "sft": {"greedy": 0.6},
    "sft without thoughts": {"greedy": 0.5},
    "unigrpo": {"greedy": 0.8},
    "random shares": {"greedy": 0.78},
    "d1": {"greedy": 0.9},
}
IMAGES = {
    "sft": {"captions, greedy": 0.4, "images, greedy": 0.3},
    "unigrpo": {"captions, greedy": 0.5, "images, greedy": 0.6},
}


def test_it_holds_where_unigrpo_is_well_above_fine_tuning_whatever_d1_does():
    assert not_held(claim, made_up(claim, {}, MEASURES)) == []


@pytest.mark.parametrize(
    ("arm", "value", "words"),
    [
        ("sft", 0.66, "15% more often"),
        ("random shares", 0.81, "random shares"),
        ("sft without thoughts", 0.61, "with a thought"),
    ],
)
def test_each_finding_can_fail(arm, value, words):
    [sentence] = not_held(claim, made_up(claim, {}, MEASURES | {arm: {"greedy": value}}))
    assert words in sentence


def test_one_bad_seed_is_enough():
    records = made_up(claim, {}, MEASURES)
    for i, record in enumerate(records):
        if record.arm == "sft" and record.seed == 1:
            records[i] = type(record)(record.arm, record.seed, record.curve, {"greedy": 0.7})
    [sentence] = not_held(claim, records)
    assert "15% more often" in sentence


@pytest.mark.parametrize(("measure", "words"), [("captions, greedy", "captions"), ("images, greedy", "images")])
def test_of_images_each_finding_can_fail(measure, words):
    assert not_held(images, made_up(images, {}, IMAGES)) == []
    worse = IMAGES | {"unigrpo": IMAGES["unigrpo"] | {measure: 0.2}}
    [sentence] = not_held(images, made_up(images, {}, worse))
    assert words in sentence


@pytest.mark.parametrize(
    ("task", "names"),
    [
        (Arithmetic(), {"greedy", "sampled"}),
        (Squares(), {"captions, greedy", "captions, sampled", "images, greedy", "images, sampled"}),
    ],
)
def test_what_is_measured_of_a_run(task, names, monkeypatch):
    monkeypatch.setattr("palaestra.claims.mmada.ASKED", 6)
    engine = Engine(quiet=True, tensorboard=False, evaluate_episodes=2)
    run = Run(
        MDMSFT(model="mdm-16x1", batch_size=2, image_steps=2), task, updates=1, folder="run", engine=engine
    ).train()
    found = claim.measure(run)
    assert set(found) == names and all(0 <= value <= 1 for value in found.values())


def test_answers_have_the_places_in_which_the_run_is_evaluated(monkeypatch):
    monkeypatch.setattr("palaestra.claims.mmada.ASKED", 2)
    asked, answer = [], DiffusionLanguagePolicy.answer
    monkeypatch.setattr(
        DiffusionLanguagePolicy,
        "answer",
        lambda self, rows, **how: asked.append(how["max_tokens"]) or answer(self, rows, **how),
    )
    engine = Engine(quiet=True, tensorboard=False, evaluate_episodes=2)
    method = UniGRPO(model="mdm-16x1", prompts=2, group=2, max_tokens=4)
    claim.measure(Run(method, Arithmetic(), updates=1, folder="run", engine=engine).train())
    assert Arithmetic().max_tokens > 4 and asked[-2:] == [4, 4]


def test_every_arm_of_both_scales_can_be_set_up():
    for one in (claim, images):
        for scale in one.scales.values():
            for arm in scale.arms.values():
                arm.method.check()
