"""Soups: averages that are exact where models agree, names of theirs, and the barrier between models that differ in disguise."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import palaestra as pal
from palaestra.core.errors import BadSetting, PalaestraError, Unsupported
from palaestra.core.task import as_task
from palaestra.language.diffusion.loading import load_diffusion_model
from palaestra.language.models import load_model
from palaestra.language.policy import LanguagePolicy
from palaestra.language.soups import Barrier, barrier, blend, soup, weights_of

SORTING = as_task("sorting")


def tiny(seed: int = 0, name: str = "tiny-16x1", scale: float = 1.0) -> LanguagePolicy:
    torch.manual_seed(seed)
    policy = LanguagePolicy.make(name, SORTING)
    with torch.no_grad():
        for p in policy.parameters():
            p.mul_(scale if p.dim() > 1 else 1.0)
    return policy


class Part(nn.Module):
    def __init__(self, weight: float, average: float = 0.0, count: int = 0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight, 2 * weight]))
        self.register_buffer("average", torch.tensor(average))
        self.register_buffer("count", torch.tensor(count))


# The average.


@settings(max_examples=20)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=5))
def test_a_model_averaged_with_itself_is_itself_to_the_last_bit(weights):
    part = Part(0.1, 1 / 3)
    mixed = blend([part] * len(weights), weights)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(mixed).values(), weights_of(part).values(), strict=True))


def test_a_soup_by_hand():
    mixed = blend([Part(1.0, 4.0, 7), Part(3.0, 0.0, 7)], [1.0, 3.0])
    assert mixed.weight.tolist() == [2.5, 5.0]
    assert mixed.average.item() == 1.0
    assert mixed.count.item() == 7


def test_the_order_of_models_does_not_matter():
    one, other = tiny(0), tiny(1)
    there, back = soup([one, other], [0.3, 0.7]), soup([other, one], [0.7, 0.3])
    assert all(torch.equal(a, b) for a, b in zip(there.parameters(), back.parameters(), strict=True))


def test_a_soup_leaves_its_models_as_they_are_and_what_was_tied_stays_tied():
    one, other = tiny(0), tiny(1)
    before = copy.deepcopy(one.model.state_dict())
    mixed = soup([one, other])
    assert all(torch.equal(t, before[name]) for name, t in one.model.state_dict().items())
    assert mixed.model.get_output_embeddings().weight is mixed.model.get_input_embeddings().weight
    assert mixed.predict("31=") is not None


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: blend([Part(1.0), Part(1.0, count=1)], [1, 1]), "whole numbers of count"),
        (lambda: blend([Part(1.0), Part(1.0)], [1]), "needs as many weights"),
        (lambda: blend([Part(1.0), Part(1.0)], [2, -1]), "none below 0"),
        (lambda: blend([Part(1.0), Part(1.0)], [float("nan"), 1]), "none below 0"),
        (lambda: blend([Part(1.0), Part(1.0)], [0, 0]), "needs as many weights"),
        (lambda: soup([]), "one model or more"),
        (lambda: soup([tiny(), tiny(name="tiny-16x2")]), r"of one shape, and these differ \(model.layers.1"),
        (lambda: soup([tiny(), tiny(name="tiny-32x1")]), r"\(16, "),
        (lambda: soup([tiny(), LanguagePolicy.make("tiny-16x1", as_task("bandit"))]), "different vocabularies"),
    ],
)
def test_models_that_do_not_go_together_are_refused_with_what_differs(make, says):
    with pytest.raises(BadSetting, match=says):
        make()


@pytest.mark.parametrize(
    ("entry", "value"),
    [("rms_norm_eps", 0.1), ("head_dim", 8), ("rope_parameters", {"rope_type": "default", "rope_theta": 50.0})],
)
def test_models_of_one_shape_that_compute_otherwise_are_refused_with_what_differs(entry, value):
    """Their weights fit, but mean something else to each."""
    one, other = tiny(), tiny(1)
    other.model.config.update({entry: value})
    for pair in ([one, other], [other, one]):
        with pytest.raises(BadSetting, match=f"of one shape, and these differ in {entry}: "):
            soup(pair)


def test_models_may_come_from_elsewhere_and_have_been_trained_otherwise():
    one, other = tiny(), tiny(1)
    other.model.config.update(
        {"_name_or_path": "x", "attention_dropout": 0.1, "use_cache": False, "pad_token_id": None}
    )
    assert soup([one, other]).predict("31=") is not None


def test_adapters_are_not_averaged():
    with pytest.raises(Unsupported, match="adapters are not averaged"):
        soup([LanguagePolicy.make("tiny-16x1", SORTING, adapter=2)] * 2)


# Names.


def test_a_soup_is_the_name_of_a_model():
    for seed in (1, 2, 3):
        tiny(seed).save(f"m{seed}")
    model, tokeniser = load_model("soup:m1*0.5, m2*1.5,m3")
    expected = soup([tiny(1), tiny(2), tiny(3)], [0.5, 1.5, 1.0])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.model.parameters(), strict=True))
    assert tokeniser.get_vocab() == expected.tokeniser.get_vocab()
    run = pal.train(
        pal.SFT(model="soup:m1,m2", batch_size=2), "sorting", updates=1, out="run", quiet=True, tensorboard=False
    )
    assert run.record["status"] == "finished"


def test_masked_diffusion_models_are_averaged_too():
    task = as_task("squares")
    torch.manual_seed(0)
    one, other = (load_diffusion_model("mdm-16x1", task)[0] for _ in range(2))
    torch.manual_seed(0)
    mixed, _ = load_diffusion_model("soup:mdm-16x1,mdm-16x1", task)
    for a, b, c in zip(one.parameters(), other.parameters(), mixed.parameters(), strict=True):
        torch.testing.assert_close(c, (a + b) / 2)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("soup:m*much,m", "a number, got 'much'"),
        ("soup:m,", "lacks a model"),
        ("soup:./no/where,m", "there is no model ./no/where"),
        ("soup:m*-1,m*2", "none below 0"),
    ],
)
def test_a_name_that_makes_no_soup_is_refused(name, says):
    tiny().save("m")
    with pytest.raises(PalaestraError, match=says):
        load_model(name)


# Barriers.


def permuted(policy: LanguagePolicy) -> LanguagePolicy:
    """A twin whose perceptron has its hidden units in another order, which changes nothing of what it says."""
    twin = LanguagePolicy(copy.deepcopy(policy.model), policy.tokeniser)
    mlp = twin.model.model.layers[0].mlp
    order = torch.randperm(mlp.down_proj.weight.shape[1], generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for inward in (mlp.gate_proj, mlp.up_proj):
            inward.weight.copy_(inward.weight[order])
        mlp.down_proj.weight.copy_(mlp.down_proj.weight[:, order])
    return twin


@pytest.fixture(scope="module")
def own_answers():
    """A policy with something to say, and answers that it gave, on which nothing does better."""
    policy = tiny(scale=20.0)
    samples = policy.answer([{"prompt": "31="}, {"prompt": "4052="}], copies=60, max_tokens=8, seed=0)
    return policy, [{**s.row, "completion": s.text} for s in samples]


def test_a_permuted_twin_is_found_out_by_the_barrier(own_answers):
    policy, rows = own_answers
    twin = permuted(policy)
    ids = policy.prompt_ids("4052=").unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(twin.model(ids).logits, policy.model(ids).logits, atol=1e-4, rtol=1e-4)
    way = barrier(policy, twin, rows)
    assert way.loss[0] == pytest.approx(way.loss[-1], abs=1e-4)
    assert way.height > 0.1


def test_between_a_model_and_its_neighbour_there_is_no_barrier(own_answers):
    policy, rows = own_answers
    near = LanguagePolicy(copy.deepcopy(policy.model), policy.tokeniser)
    with torch.no_grad():
        for p in near.parameters():
            p.add_(0.01 * p.std() * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    assert barrier(policy, policy, rows).height == 0.0
    assert barrier(policy, near, rows).height < 0.01


def test_a_barrier_needs_answers(own_answers):
    with pytest.raises(BadSetting, match="give some rows with a completion"):
        barrier(own_answers[0], own_answers[0], [])


def test_a_barrier_is_measured_from_the_line_between_the_ends():
    assert Barrier((0.0, 0.5, 1.0), (1.0, 2.5, 2.0)).height == 1.0
    assert Barrier((0.0, 0.5, 1.0), (1.0, 1.0, 2.0)).height == 0.0
