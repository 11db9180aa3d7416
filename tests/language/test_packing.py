"""Packed sequences: the same numbers as apart, for every family, whatever the order and the split."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palaestra.core.experience import Experience
from palaestra.language.layout import Layout, layout_of
from palaestra.language.llama import _Gated, _Normed, _Projected, _Turned, fits
from palaestra.language.models import with_adapter
from palaestra.language.packing import bins, body, hidden_states, packable

from .tiny_models import FAMILIES, FAST, SHAPE, tiny_model

PACK = ("llama", "mistral", "qwen2", "qwen3", "gpt2", "gemma3")


def pieces(*lengths: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(2)
    return [torch.randint(3, 40, (n,), generator=g) for n in lengths]


@pytest.mark.parametrize("family", PACK)
@pytest.mark.parametrize("lengths", [(7, 3, 11, 1), (5, 5, 5), (9,)], ids=["mixed", "equal", "one"])
def test_packed_states_are_those_of_each_sequence_by_itself(family, lengths):
    model, parts = tiny_model(family), pieces(*lengths)
    with torch.no_grad():
        packed = hidden_states(model, torch.cat(parts), Layout.of(torch.tensor(lengths)))
        apart = torch.cat([model.base_model(input_ids=p.unsqueeze(0), use_cache=False)[0][0] for p in parts])
    torch.testing.assert_close(packed, apart, atol=1e-4, rtol=1e-4)


def test_packed_gradients_are_those_of_each_sequence_by_itself():
    model, parts = tiny_model("qwen2"), pieces(6, 2, 9)
    weights = torch.randn(17, SHAPE["hidden_size"], generator=torch.Generator().manual_seed(4))
    params = [p for p in model.base_model.parameters() if p.requires_grad]
    packed = (hidden_states(model, torch.cat(parts), Layout.of(torch.tensor([6, 2, 9]))) * weights).sum()
    apart = sum(
        (model.base_model(input_ids=p.unsqueeze(0), use_cache=False)[0][0] * w).sum()
        for p, w in zip(parts, weights.split([6, 2, 9]), strict=True)
    )
    for one, other in zip(torch.autograd.grad(packed, params), torch.autograd.grad(apart, params), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def biased_model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SHAPE, attention_bias=True, pad_token_id=5))


def classifier() -> Any:
    from transformers import Qwen2Config, Qwen2ForSequenceClassification

    return Qwen2ForSequenceClassification(Qwen2Config(**SHAPE, num_labels=1, pad_token_id=5))


UNUSUAL = {"biased": biased_model, "classifier": classifier}


@pytest.mark.parametrize("family", [*FAST, *UNUSUAL])
def test_gradients_by_hand_are_those_of_the_model_s_own_pass(family, monkeypatch):
    model, layout = UNUSUAL[family]() if family in UNUSUAL else tiny_model(family), layout_of(SHARED)
    weights = torch.randn(len(layout.position), SHAPE["hidden_size"], generator=torch.Generator().manual_seed(4))
    params = list(model.base_model.parameters())
    assert fits(body(model))
    found = [hidden_states(model, SHARED.action, layout)]
    monkeypatch.setattr("palaestra.language.packing.fits", lambda model: False)
    found.append(hidden_states(model, SHARED.action, layout))
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)
    ours, theirs = (torch.autograd.grad((states * weights).sum(), params) for states in found)
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm()


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_states_that_are_asked_for_alone_are_those_among_all_with_their_gradients(family):
    model, layout, rows = tiny_model(family), layout_of(SHARED), torch.tensor([0, 3, 3, 5])
    params = list(model.base_model.parameters())
    alone = hidden_states(model, SHARED.action, layout, rows=rows)
    among = hidden_states(model, SHARED.action, layout)[rows]
    torch.testing.assert_close(alone, among, atol=1e-6, rtol=1e-5)
    ours, theirs = (torch.autograd.grad(states.sin().sum(), params) for states in (alone, among))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_model_with_adapters_goes_by_its_own_pass():
    assert not fits(body(with_adapter(tiny_model("llama"), rank=2)))


def test_nodes_with_gradients_by_hand_have_those_of_finite_differences():
    g = torch.Generator().manual_seed(6)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()

    floor, angle = torch.tensor(0.1, dtype=torch.float64), draw(3, 1, 2).detach()
    turn = torch.polar(torch.ones_like(angle), angle)
    x = draw(3, 4)
    assert torch.autograd.gradcheck(_Normed.apply, (x, floor))
    assert torch.autograd.gradcheck(_Projected.apply, (x, floor, draw(4, 5), draw(5)))
    assert torch.autograd.gradcheck(_Projected.apply, (x, floor, draw(4, 5), None))
    assert torch.autograd.gradcheck(_Gated.apply, (x, floor, draw(4, 6), draw(3, 4)))
    assert torch.autograd.gradcheck(lambda y: _Turned.apply(y * 1.0, turn, 8), (draw(3, 10),))


def test_which_models_can_be_packed_is_found_by_trying():
    assert {family for family in FAMILIES if packable(tiny_model(family))} == set(PACK)


def test_the_model_s_own_attention_is_back_afterwards():
    model = tiny_model("llama")
    before = model.config._attn_implementation
    hidden_states(model, torch.arange(6), Layout.of(torch.tensor([4, 2])))
    assert model.config._attn_implementation == before


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.integers(1, 40))
def test_bins_hold_everything_once_and_no_more_than_fits(lengths, tokens):
    groups = bins(lengths, tokens)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or sum(lengths[i] for i in group) <= tokens


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_the_padded_view_shows_every_token_at_its_place_and_packs_back(lengths):
    layout = Layout.of(torch.tensor(lengths))
    total = sum(lengths)
    x = torch.arange(total * 2.0).view(1, 1, total, 2)
    padded = layout.padded(x)
    start = 0
    for row, length in zip(padded, lengths, strict=True):
        assert torch.equal(row[0, :length], x[0, 0, start : start + length])
        start += length
    assert torch.equal(layout.packed(padded), x.transpose(1, 2))
    assert layout.position.tolist() == [i for n in lengths for i in range(n)]


def answers(prompts: list[list[int]], counts: list[int], lengths: list[int]) -> Experience:
    """Packed answers of some lengths to prompts, `counts` to each."""
    g = torch.Generator().manual_seed(5)
    parts, number, rest = [], 0, iter(lengths)
    for group, (prompt, count) in enumerate(zip(prompts, counts, strict=True)):
        for _ in range(count):
            answer = torch.randint(3, 40, (next(rest),), generator=g)
            ids = torch.cat([torch.tensor(prompt), answer])
            mask = torch.arange(len(ids)) >= len(prompt)
            n = (len(ids),)
            parts.append(Experience(action=ids, mask=mask, segment=torch.full(n, number), group=torch.full(n, group)))
            number += 1
    return Experience.cat(parts)


SHARED = answers([[5, 6, 7, 8], [9, 10], [9, 10]], [3, 2, 2], [4, 1, 6, 3, 3, 2, 5])


def test_what_answers_begin_with_alike_is_laid_down_once():
    layout = layout_of(SHARED)
    assert layout.lengths.tolist() == [8, 5, 10, 5, 5, 4, 7]
    kept = len(SHARED) - 2 * 4 - 2 - 2  # groups share nothing with each other, even if their prompts are alike
    assert layout.kept.sum() == kept == len(layout.position)
    assert torch.equal(SHARED.action[layout.kept][layout.at(torch.arange(len(SHARED)))], SHARED.action)


@pytest.mark.parametrize("family", PACK)
def test_states_behind_a_shared_prompt_are_those_of_each_answer_by_itself(family):
    model, layout = tiny_model(family), layout_of(SHARED)
    parts = SHARED.action.split(layout.lengths.tolist())
    with torch.no_grad():
        found = hidden_states(model, SHARED.action, layout)[layout.at(torch.arange(len(SHARED)))]
        apart = torch.cat([model.base_model(input_ids=p.unsqueeze(0), use_cache=False)[0][0] for p in parts])
    torch.testing.assert_close(found, apart, atol=1e-4, rtol=1e-4)


def test_gradients_behind_a_shared_prompt_are_those_of_each_answer_by_itself():
    model, layout = tiny_model("llama"), layout_of(SHARED)
    weights = torch.randn(len(SHARED), SHAPE["hidden_size"], generator=torch.Generator().manual_seed(4))
    params = list(model.base_model.parameters())
    states = hidden_states(model, SHARED.action, layout)[layout.at(torch.arange(len(SHARED)))]
    shared = torch.autograd.grad((states * weights).sum(), params)
    plain = Layout.of(layout.lengths)
    apart = torch.autograd.grad((hidden_states(model, SHARED.action, plain) * weights).sum(), params)
    for one, other in zip(shared, apart, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_nothing_is_shared_where_prompts_differ_or_nothing_was_chosen():
    other = answers([[5, 6]], [3], [4, 1, 6])
    other.action[6] = 11  # the second answer's prompt
    assert layout_of(other).kept is None
    silent = answers([[5, 6]], [2], [4, 1])
    assert layout_of(silent.replace(mask=torch.zeros_like(silent.mask))).kept is None
    assert layout_of(silent.replace(group=None)).kept is None
