"""Beam search by likelihood, against all answers there are, and proxy tuning."""

from __future__ import annotations

import itertools

import pytest
import torch

from palaestra.core.errors import BadSetting
from palaestra.language.generation.beam import beam_search
from palaestra.language.generation.proxy import ProxyTuned
from palaestra.language.policy import LanguagePolicy
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.language.tasks.sorting import Sorting

TASK = NoisySort()


def policy(seed: int = 0, task=TASK) -> LanguagePolicy:
    torch.manual_seed(seed)
    made = LanguagePolicy.make("tiny-16x1", task)
    with torch.no_grad():  # far from uniform, so that answers differ in how likely they are
        for p in made.model.parameters():
            p.mul_(3.0)
    return made


def every_answer(model, prompt, most, end):
    """All answers of at most `most` tokens with their log-probability, the likeliest first."""
    found = []
    for length in range(1, most + 1):
        for ids in itertools.product(range(model.config.vocab_size), repeat=length):
            if end in ids[:-1] or (length < most and ids[-1] != end):
                continue
            whole = torch.tensor([*prompt.tolist(), *ids])
            with torch.no_grad():
                logp = model(input_ids=whole.unsqueeze(0)).logits[0].log_softmax(-1)
            found.append((sum(float(logp[i - 1, whole[i]]) for i in range(len(prompt), len(whole))), ids))
    return sorted(found, reverse=True)


def test_a_beam_as_wide_as_all_beginnings_finds_the_likeliest_answers():
    made, prompt = policy(), torch.tensor([3, 4])
    end, size = made.tokeniser.eos_token_id, made.model.config.vocab_size
    (beams,) = beam_search(made.model, [prompt], size, 2, [end])
    expected = every_answer(made.model, prompt, 2, end)[:size]
    assert [tuple(beam.ids.tolist()) for beam in beams] == [ids for _, ids in expected]
    for beam, (logp, _) in zip(beams, expected, strict=True):
        assert beam.logp == pytest.approx(logp, abs=1e-4)
        assert beam.ended == (int(beam.ids[-1]) == end)


def test_a_beam_of_one_is_greedy():
    made = policy(1)
    rows = [TASK.rows("test")[i] for i in range(5)]
    greedy = made.answer(rows, greedy=True, max_tokens=6)
    found = beam_search(made.model, [made.prompt_ids(r["prompt"]) for r in rows], 1, 6, [made.tokeniser.eos_token_id])
    assert [b[0].ids.tolist() for b in found] == [s.completion.tolist() for s in greedy]


def test_a_prompt_s_beams_do_not_depend_on_what_else_is_searched():
    made = policy(2)
    prompts = [made.prompt_ids(TASK.rows("test")[i]["prompt"]) for i in range(3)] + [torch.tensor([5])]
    together = beam_search(made.model, prompts, 3, 5, [made.tokeniser.eos_token_id])
    for prompt, beams in zip(prompts, together, strict=True):
        (alone,) = beam_search(made.model, [prompt], 3, 5, [made.tokeniser.eos_token_id])
        assert [b.ids.tolist() for b in alone] == [b.ids.tolist() for b in beams]


def test_a_beam_without_width_is_refused():
    with pytest.raises(BadSetting, match="width"):
        beam_search(policy().model, [torch.tensor([3])], 0, 4, [1])
    assert beam_search(policy().model, [], 2, 4, [1]) == []


def test_a_base_tuned_by_a_proxy_samples_from_their_product():
    base, proxy, reference = (policy(seed) for seed in range(3))
    prompt = base.prompt_ids("5310=").unsqueeze(0)
    base.engine = ProxyTuned(proxy, reference, beta=0.7)
    samples = base.answer([{"prompt": "5310="}], copies=40, max_tokens=1, seed=3)
    with torch.no_grad():
        one, two, three = (p.model(input_ids=prompt).logits[0, -1].log_softmax(-1) for p in (base, proxy, reference))
    expected = (one + 0.7 * (two - three)).log_softmax(-1)
    for sample in samples:
        assert float(sample.logp[-1]) == pytest.approx(float(expected[sample.ids[-1]]), abs=1e-4)


def test_without_weight_or_with_the_reference_as_proxy_the_base_is_itself():
    base, proxy = policy(0), policy(1)
    rows = [TASK.rows("test")[i] for i in range(4)]
    plain = [s.text for s in base.answer(rows, seed=5, max_tokens=5)]
    for engine in (ProxyTuned(proxy, base, beta=0.0), ProxyTuned(proxy, proxy, beta=2.0)):
        base.engine = engine
        assert [s.text for s in base.answer(rows, seed=5, max_tokens=5)] == plain


def test_a_proxy_with_another_vocabulary_is_refused():
    with pytest.raises(BadSetting, match="vocabularies"):
        ProxyTuned(policy(0), policy(1, Sorting()))
