"""Layers that are computed again in the backward pass, and passes in bfloat16."""

from __future__ import annotations

import pytest
import torch

from palaestra.core.experience import Experience
from palaestra.core.precision import multiplying
from palaestra.language.generation.sampling import Sampling
from palaestra.language.policy import LanguagePolicy
from palaestra.language.tasks.clips import Clips
from palaestra.language.tasks.sorting import Sorting
from palaestra.language.tasks.squares import Squares


def policy_of(name: str = "tiny-32x4", seed: int = 0) -> LanguagePolicy:
    torch.manual_seed(seed)
    return LanguagePolicy.make(name, Sorting())


def answered(policy: LanguagePolicy) -> Experience:
    """Packed answers to three prompts, four to each."""
    rows = [Sorting().rows("train")[i] for i in range(3)]
    samples = policy.answer(rows, copies=4, max_tokens=12, sampling=Sampling(), seed=1)
    parts = [
        Experience(
            action=s.ids,
            mask=s.mask,
            logp=s.logp,
            segment=torch.full((len(s),), i),
            group=torch.full((len(s),), s.group),
        )
        for i, s in enumerate(samples)
    ]
    return Experience.cat(parts)


def gradient(policy: LanguagePolicy, batch: Experience) -> tuple[torch.Tensor, int]:
    """The gradient of likelihood and entropy, and the bytes that the pass kept for it."""
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        scored = policy.score(batch)
    own = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    found = torch.autograd.grad(scored.logp.sum() + 0.1 * scored.entropy.sum(), policy.trainable())
    return torch.cat([g.flatten() for g in found]), sum(size for place, size in kept.items() if place not in own)


@pytest.mark.parametrize("precision", ["highest", "bfloat16"])
def test_computing_layers_again_changes_no_gradient_and_keeps_less(precision):
    """Four layers and prompts that answers share, which the pass lays down once."""
    policy = policy_of()
    batch = answered(policy)
    with multiplying(precision):
        whole, kept = gradient(policy, batch)
        policy.recompute = True
        again, kept_again = gradient(policy, batch)
    torch.testing.assert_close(again, whole, rtol=1e-6, atol=1e-6)
    assert kept_again < kept / 3


def test_computing_layers_again_leaves_the_model_as_it_was_and_dropout_off():
    policy = policy_of()
    policy.recompute = True
    policy.train()
    policy.score(answered(policy)).logp.sum().backward()
    assert not any(module.training or "forward" in vars(module) for module in policy.modules())


@pytest.mark.parametrize(("name", "task"), [("tiny-video-16x2", Clips), ("mdm-16x2", Squares)])
def test_models_that_see_or_fill_in_compute_their_layers_again_too(name, task):
    import palaestra as pal
    from palaestra.core.method import make_method

    method = {"tiny-video-16x2": "sft", "mdm-16x2": "mdm-sft"}[name]
    rows = []
    for again in (False, True):
        settings = {"model": name, "batch_size": 2, "recompute": again}
        run = pal.train(
            make_method(method, settings), task(), updates=2, out=f"run{again}", quiet=True, tensorboard=False,
            evaluate_every=0, evaluate_episodes=1, log_every=1,
        )  # fmt: skip
        rows.append(run.metrics)
    assert rows[0] == rows[1]


def test_what_is_sampled_in_bfloat16_is_scored_in_bfloat16():
    """Sampling and training round alike, up to sums in another order; single precision is further away."""
    policy = policy_of()
    with multiplying("bfloat16"):
        batch = answered(policy)
        scored = policy.score(batch).logp
    chosen = batch.mask
    assert scored.dtype == batch.logp.dtype == torch.float32
    exact = policy.score(batch).logp
    assert not torch.equal(exact, scored)
    torch.testing.assert_close(scored[chosen], batch.logp[chosen], rtol=0, atol=0.02)
    torch.testing.assert_close(scored[chosen], exact[chosen], rtol=0, atol=0.02)


def test_gradients_of_passes_in_bfloat16_are_in_single_precision_and_point_the_same_way():
    policy = policy_of()
    batch = answered(policy)
    exact, _ = gradient(policy, batch)
    with multiplying("bfloat16"):
        rounded, _ = gradient(policy, batch)
    assert rounded.dtype == torch.float32
    assert float(torch.cosine_similarity(rounded, exact, dim=0)) > 0.999


def test_a_table_of_logits_made_in_parts_is_rounded_as_a_whole_one_is(monkeypatch):
    from palaestra.language import logprob

    policy = policy_of()
    batch = answered(policy)
    with multiplying("bfloat16"):
        whole, _ = gradient(policy, batch)
        monkeypatch.setattr(logprob, "WHOLE", 64)
        in_parts, _ = gradient(policy, batch)
    assert float(torch.cosine_similarity(whole, in_parts, dim=0)) > 0.9999
