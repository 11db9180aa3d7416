"""Tricks or traps: verdicts on made-up records, and gradients of a finished policy."""

from __future__ import annotations

import pytest
import torch

from palaestra.claims import tricks_or_traps
from palaestra.claims.claim import Records
from palaestra.claims.tricks_or_traps import PRESETS, norm, share_of_longest, weighed
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.language.policy import LanguagePolicy
from palaestra.methods.language.grpo import GRPO
from palaestra.runs.run import Run

from .test_verdicts import made_up, not_held

MEASURES = {
    "sft": {"right": 0.6, "share of the longest, token-mean": 0.4, "share of the longest, sequence-mean": 0.3},
    "sft, most solved": {
        "largest advantage, group": 2.4,
        "largest advantage, batch": 1.9,
        "spread of gradient norms, group": 0.8,
        "spread of gradient norms, batch": 0.5,
    },
    **{name: {"right": 0.7} for name in PRESETS},
    "clip to 1.2": {"clipped up": 0.1, "entropy at the end": 0.2},
    "clip to 1.28": {"clipped up": 0.05, "entropy at the end": 0.3},
    "cut off, kept": {"right": 0.6, "greedy right": 0.7},
    "cut off, masked": {"right": 0.7, "greedy right": 0.8},
}


def records(**changes) -> Records:
    measures = {arm: {**values, **changes.get(arm, {})} for arm, values in MEASURES.items()}
    return made_up(tricks_or_traps.claim, {}, measures)


def test_it_holds_where_every_algorithm_improves_and_every_mechanism_shows():
    assert not_held(tricks_or_traps.claim, records()) == []


@pytest.mark.parametrize("name", PRESETS)
def test_every_named_algorithm_must_improve(name):
    [sentence] = not_held(tricks_or_traps.claim, records(**{name: {"right": 0.6}}))
    assert name in sentence


@pytest.mark.parametrize(
    ("arm", "measured", "words"),
    [
        ("sft", {"share of the longest, token-mean": 0.3}, "mean over tokens"),
        ("sft, most solved", {"largest advantage, batch": 9.9}, "largest advantage"),
        ("sft, most solved", {"spread of gradient norms, batch": 0.8}, "vary more"),
        ("clip to 1.28", {"clipped up": 0.1}, "binds less often"),
        ("clip to 1.28", {"entropy at the end": 0.2}, "leaves more entropy"),
        ("cut off, masked", {"right": 0.6}, "more is right in the end"),
        ("cut off, masked", {"greedy right": 0.7}, "greedy answers"),
    ],
)
def test_each_mechanism_can_fail(arm, measured, words):
    [sentence] = not_held(tricks_or_traps.claim, records(**{arm: measured}))
    assert words in sentence


def test_at_paper_scale_dapo_has_all_four_of_its_techniques():
    arms = tricks_or_traps.claim.scale("paper").arms
    for size in ("4B", "8B"):
        dapo = arms[f"dapo {size}"].method
        assert (dapo.clip_high, dapo.average, dapo.resample > 0, dapo.soft_overlong) == (0.28, "token-mean", True, 0.2)


TINY = {"model": "tiny-16x1", "prompts": 4, "group": 4}


def batch_of(method):
    samples, _ = method.sample()
    rewards = torch.rand(len(samples), generator=torch.Generator().manual_seed(1))
    return method.learnable(samples, rewards, torch.tensor([s.group for s in samples]))


def test_the_norm_is_that_of_the_step_s_gradient():
    method = GRPO(**TINY, micro_tokens=30).bind(as_task("sorting"), 0, Budget(updates=1))
    batch = batch_of(method)
    found = norm(method, weighed(batch, "sequence-mean"))
    method.update(batch)
    assert found == pytest.approx(float(method.optimiser.norm), rel=1e-4)


def test_the_longest_answers_have_more_of_the_gradient_under_the_mean_over_tokens():
    method = GRPO(**TINY).bind(as_task("sorting", least=1), 0, Budget(updates=1))
    batch = batch_of(method)
    assert share_of_longest(method, batch, "token-mean") > share_of_longest(method, batch, "sequence-mean")


def test_where_nothing_differs_there_is_no_share():
    method = GRPO(**TINY).bind(as_task("sorting"), 0, Budget(updates=1))
    batch = batch_of(method)
    batch = batch.replace(advantage=[torch.zeros(len(part)) for part in batch.parts])
    share = share_of_longest(method, batch, "token-mean")
    assert share != share


def test_a_finished_run_is_measured_with_room_for_every_answer(monkeypatch):
    monkeypatch.setattr(tricks_or_traps, "PROBLEMS", 3)
    asked, answer = [], LanguagePolicy.answer
    monkeypatch.setattr(
        LanguagePolicy, "answer", lambda self, rows, **how: asked.append(how["max_tokens"]) or answer(self, rows, **how)
    )
    run = Run(GRPO(**TINY, kl_weight=0.1), as_task("sorting", limit=3), updates=2, folder="run").train()
    assert set(asked) == {3}
    found = tricks_or_traps.measure(run)
    assert set(found) == {"right", "greedy right", "clipped up", "entropy at the end", "cut off"}
    assert asked[-2:] == [9, 9]
