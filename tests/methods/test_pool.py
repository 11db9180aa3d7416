"""The answers that methods of direct alignment learn from: the rows' own, drawn ones, or both."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting, Unsupported
from palaestra.core.method import Budget
from palaestra.language.anchors import Anchor
from palaestra.language.judges.judge import Judge
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.language.tasks.sorting import Sorting
from palaestra.methods.preference.a_lol import ALoL
from palaestra.methods.preference.dpo import DPO
from palaestra.methods.preference.pro import PRO
from palaestra.methods.preference.weighted import RLoL
from palaestra.runs import checkpoint

SMALL = {"model": "tiny-16x1", "prompts": 4}


class Lengths(NoisySort):
    def judge(self):
        return Judge(lambda completions, **columns: [float(len(text)) for text in completions])


def answers(task, **settings):
    method = PRO(**SMALL, **settings).bind(task, 0, Budget(updates=9))
    tokeniser, pool = method.language_policy.tokeniser, method.pool
    said = [
        [(tokeniser.decode(part.action[part.mask], skip_special_tokens=True), float(part.reward[0])) for part in group]
        for group in map(pool.answers, range(8))
    ]
    return said, [pool.rows[int(i)] for i in pool.first[:8]]


def test_rows_own_answers_may_stand_beside_drawn_ones_and_all_are_judged_alike():
    task = Lengths(train_rows=150)
    both, rows = answers(task, drawn=2, beside=True)
    drawn, _ = answers(task, drawn=2)
    for group, others, row in zip(both, drawn, rows, strict=True):
        assert [text for text, _ in group[:2]] == row["completions"] and group[2:] == others
        assert all(score == len(text) for text, score in group[:2])


def test_without_drawn_answers_nothing_stands_beside_rows_own():
    with pytest.raises(BadSetting, match="give drawn"):
        PRO(beside=True).check()


def test_rows_without_answers_have_none_to_stand_beside():
    with pytest.raises(Unsupported, match="have no judged answers"):
        PRO(**SMALL, drawn=2, beside=True).check_task(Sorting())


def test_a_list_of_people_s_pair_and_the_model_s_own_answers_is_learnt_from():
    method = PRO(**SMALL, drawn=2, beside=True).bind(Lengths(train_rows=150), 0, Budget(updates=9))
    assert torch.isfinite(method.step()["loss/preference"])
    assert method.counters.episodes == 4 * 4


class Silent(NoisySort):
    def judge(self):
        return Judge(lambda completions, **columns: [None] * len(completions))


def test_answers_that_could_not_be_scored_teach_nothing():
    method, again = (PRO(**SMALL, drawn=2).bind(Silent(train_rows=100), 0, Budget(updates=9)) for _ in range(2))
    assert "loss/preference" not in method.step()
    assert method.pool.answers(0) == [] and method.counters.unscored == 128
    again.load_state_dict(method.state_dict())
    assert again.pool.answers(0) == [] and again.counters.judge_calls == 128


# What survives a kill.


class Whims(NoisySort):
    """A judge that draws its scores, and so says something else whenever it is asked again."""

    whims, calls = random.Random(0), 0

    def judge(self):
        def drawn(completions, **columns):
            Whims.calls += len(completions)
            return [self.whims.random() for _ in completions]

        return Judge(drawn)


QUIET = {"quiet": True, "tensorboard": False, "evaluate_every": 0, "evaluate_episodes": 1, "checkpoint_every": 1}


def trained(folder, method, resume=False, dies_after=None):
    task = Whims(train_rows=150, test_rows=4)
    run = pal.Run(method, task, updates=4, folder=folder, engine=pal.Engine(**QUIET))
    step, steps = type(method).step, iter(range(dies_after or 100))

    def mortal(self):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(method), "step", mortal)
        return run.train(resume=resume)


@pytest.mark.parametrize(
    ("method", "calls"),
    [
        (DPO(model="tiny-16x1", prompts=20, drawn=2), 256),  # in chunks of 64 prompts, of which two are begun
        (PRO(model="tiny-16x1", prompts=20, rescored=True), 256),
        (RLoL(model="tiny-16x1", prompts=4, rescored=True), 300),
        (ALoL(model="tiny-16x1", prompts=4, rescored=True, value_prompts=10), 310),
        (ALoL(model="tiny-16x1", prompts=4, rescored=True, value="mean", value_prompts=10), 310),
    ],
)
def test_a_run_that_is_resumed_asks_neither_judge_nor_reference_again(method, calls, monkeypatch):
    passes, logp = [], Anchor.logp
    monkeypatch.setattr(Anchor, "logp", lambda self, parts, *how: passes.append(len(parts)) or logp(self, parts, *how))
    found = []
    for dies_after in (None, 2):
        folder, Whims.whims, Whims.calls = f"dies after {dies_after}", random.Random(0), 0
        passes.clear()
        if dies_after:
            with pytest.raises(KeyboardInterrupt):
                trained(folder, method, dies_after=dies_after)
        run = trained(folder, method, resume=dies_after is not None)
        newest = checkpoint.newest(Path(folder) / "checkpoints")
        found.append(
            (
                Whims.calls,
                run.record["counters"]["judge_calls"],
                list(passes),
                [(newest / name).read_bytes() for name in ("state.safetensors", "state.json")],
                (Path(folder) / "metrics.jsonl").read_bytes(),
            )
        )
    assert found[0] == found[1]
    assert found[0][:2] == (calls, calls)
