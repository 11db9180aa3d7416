"""Supervised fine-tuning: its loss by an ordinary forward pass, packed and apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from palaestra.core.errors import BadDataset, BadSetting, Unsupported
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.language.preferences import cut_off
from palaestra.language.tasks.prompts import PromptTask
from palaestra.methods.language.batch import Batch
from palaestra.methods.language.mdm_sft import MDMSFT
from palaestra.methods.language.sft import SFT
from palaestra.methods.language.unigrpo import UniGRPO
from palaestra.methods.preference.reward_model import RewardModelling
from palaestra.objectives.segments import step_weights

TINY = {"model": "tiny-16x1", "batch_size": 5}


def bound(method, **settings):
    return method.bind(as_task("sorting", **settings), 0, Budget(updates=100))


def encoded(method):
    return Batch([method.encoded(row, i) for i, row in enumerate(method.next_rows(method.batch_size, "rows"))])


@pytest.mark.parametrize(
    ("method", "task"),
    [
        (SFT(**TINY, adapter=4), "sorting"),
        (RewardModelling(model="tiny-16x1", adapter=4), "noisy-sort"),
        (MDMSFT(model="mdm-16x1", adapter=4), "arithmetic"),
        (UniGRPO(model="mdm-16x1", adapter=4), "arithmetic"),
    ],
)
@pytest.mark.parametrize(("alpha", "weight"), [(0, 2.0), (1, 0.25)])
def test_adapters_weigh_alpha_over_their_rank_and_twice_unless_told(method, task, alpha, weight):
    bound = replace(method, adapter_alpha=alpha).bind(as_task(task), 0, Budget(updates=10))
    layers = [
        layer
        for layer in bound.language_policy.model.modules()
        if hasattr(layer, "scaling") and hasattr(layer, "lora_A")
    ]
    assert layers and all(layer.scaling["default"] == weight for layer in layers)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"adapter": 4, "adapter_alpha": -1}, "must not be negative"), ({"adapter_alpha": 16}, "give adapter")],
)
def test_an_alpha_without_adapters_or_below_0_is_refused(settings, said):
    with pytest.raises(BadSetting, match=said):
        SFT(**settings).check()


def test_the_answer_and_its_end_are_learnt_and_the_prompt_is_not():
    method = bound(SFT(**TINY))
    row = {"prompt": "31=", "completion": "13"}
    part = method.encoded(row, 0)
    tokeniser = method.language_policy.tokeniser
    assert tokeniser.decode(part.action[:-1]) == "31=13"
    assert part.action[-1] == tokeniser.eos_token_id
    assert part.mask.tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize(
    "row",
    [
        {"completion": "13", "truncated": [True]},
        {"completion": "13", "label": True, "truncated": [True]},
        {"completions": ["31", "13"], "scores": [0.0, 1.0], "truncated": [False, True]},
        {"completion": "13", "completions": ["13", "31"], "scores": [0.0, 1.0], "truncated": [True, False]},
        {"completions": ["13", "31", "13"], "scores": [0.0, 0.5, 1.0], "truncated": [False, False, True]},
        {"chosen": "13", "rejected": "31", "truncated": [True, False]},
    ],
)
def test_an_answer_that_was_cut_off_has_no_end_to_learn_whatever_its_row_is(row):
    method = bound(SFT(**TINY))
    for turned in (False, True):
        flags = [flag != turned for flag in row["truncated"]]
        (read,) = PromptTask([{"prompt": "31=", **row, "truncated": flags}], held_out=0.0).rows("train")
        part = method.encoded(read, 0)
        assert method.language_policy.tokeniser.decode(part.action[3:5]) == "13"
        assert len(part) == (6 if turned else 5) and int(part.mask.sum()) == len(part) - 3


def test_another_number_of_flags_than_answers_is_refused_at_load():
    assert cut_off({"completion": "13", "truncated": True})
    with pytest.raises(BadDataset, match="row 0 of the data has 1 answers and 2 flags"):
        PromptTask([{"prompt": "31=", "completion": "13", "truncated": [True, False]}])


def test_a_completion_that_is_longer_than_the_model_s_window_is_refused():
    method = bound(SFT(**TINY))
    method.language_policy.model.config.max_position_embeddings = 5
    with pytest.raises(BadDataset, match="the answer '13' to '31=' needs 6 positions"):
        method.encoded({"prompt": "31=", "completion": "13"}, 0)


def test_the_loss_is_the_mean_surprise_over_all_tokens_of_all_answers():
    method = bound(SFT(**TINY))
    batch = encoded(method)
    weighed = batch.with_weights(lambda mask, segment: step_weights(mask, segment, "token-mean"))
    loss, _ = method.loss(weighed.micro(10_000)[0])
    surprise = []
    for part in batch.parts:
        with torch.no_grad():
            logp = method.language_policy.model(input_ids=part.action.unsqueeze(0)).logits[0].log_softmax(-1)
        surprise += [-logp[t - 1, part.action[t]] for t in range(1, len(part)) if part.mask[t]]
    assert loss.item() == pytest.approx(torch.stack(surprise).mean().item(), rel=1e-5)


def test_packed_or_one_by_one_the_gradient_is_the_same():
    found = []
    for tokens in (16_384, 20, 1):
        method = bound(SFT(**TINY, micro_tokens=tokens))
        seen = []
        method.optimiser.apply = lambda gradients, scale=None, seen=seen: seen.append(
            torch.cat([g.flatten() for g in gradients])
        )
        method.step()
        found.append(seen[0])
    for gradient in found[1:]:
        torch.testing.assert_close(gradient, found[0], atol=1e-6, rtol=1e-4)


def test_every_row_is_seen_once_before_any_again():
    method = bound(SFT(**TINY), train_rows=12)
    rows = [row["prompt"] for _ in range(12) for row in method.next_rows(method.batch_size, "rows")]
    every = sorted(row["prompt"] for row in method.task.rows("train"))
    for first in range(0, 60, 12):
        assert sorted(rows[first : first + 12]) == every
    assert rows[:12] != rows[12:24]


def test_the_learning_rate_rises_and_then_falls_to_nothing():
    method = SFT(**TINY, lr=1.0, warmup=5).bind(as_task("sorting"), 0, Budget(updates=20))
    seen = []
    for _ in range(20):
        method.step()
        seen.append(method.optimiser.lr)
    assert seen[0] == pytest.approx(0.2)
    assert max(seen) == max(seen[4], seen[5])
    assert seen[5:] == sorted(seen[5:], reverse=True)
    assert seen[-1] < 0.02


def test_rows_without_a_good_answer_are_no_data_for_it(monkeypatch):
    task = as_task("sorting")
    monkeypatch.setattr(type(task), "rows", lambda self, split: [{"prompt": "31="}])
    with pytest.raises(Unsupported, match="completion"):
        SFT(**TINY).bind(task, 0, Budget(updates=1))


def test_it_learns_what_it_is_shown():
    method = bound(SFT(**{**TINY, "batch_size": 16}, lr=1e-2), train_rows=4, least=1, most=3)
    for _ in range(100):
        metrics = method.step()
    assert metrics["loss/policy"] < 0.2
    rows = method.task.rows("train")[:]
    answers = method.policy().answer(rows, greedy=True, max_tokens=5)
    assert [a.text for a in answers] == [row["completion"] for row in rows]


def test_an_empty_batch_is_refused():
    with pytest.raises(BadSetting, match="batch_size"):
        SFT(batch_size=0).check()
