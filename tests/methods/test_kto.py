"""KTO's point of reference: answers to other prompts, whatever the window of the model is."""

from __future__ import annotations

import pytest
import torch

from palaestra.core.errors import BadSetting
from palaestra.core.method import Budget
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.language.tasks.prompts import PromptTask
from palaestra.methods.preference.kto import KTO


@pytest.fixture
def narrow(tmp_path):
    """The folder of a model with learnt positions, eight of them, that reads digits."""
    transformers = pytest.importorskip("transformers")
    tokeniser = NoisySort(train_rows=100).tokeniser()
    shape = {"n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": len(tokeniser)}
    ends = {"bos_token_id": tokeniser.bos_token_id, "eos_token_id": tokeniser.eos_token_id}
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, **ends)).save_pretrained(tmp_path / "model")
    tokeniser.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_a_mismatched_answer_is_cut_to_the_model_s_window(narrow):
    rows = [{"prompt": "12345=", "completion": "1"}, {"prompt": "1=", "completion": "54321"}]
    task = PromptTask([{**row, "label": i > 0} for i, row in enumerate(rows)], held_out=0.0)
    method = KTO(model=narrow, prompts=2, lr=1e-2, warmup=0).bind(task, 0, Budget(updates=9))
    method.step()
    seen, score = [], method.language_policy.score
    method.language_policy.score = lambda batch: seen.append(batch) or score(batch)
    method.average_gain(method.pool.take(2))
    (read,) = seen
    said = method.language_policy.tokeniser.decode(read.action, skip_special_tokens=True)
    assert "12345=54" in said and "12345=543" not in said and "1=1" in said


def test_a_single_prompt_has_no_other_to_compare_with():
    with pytest.raises(BadSetting, match="prompts must be at least 2, got 1"):
        KTO(prompts=1).check()
