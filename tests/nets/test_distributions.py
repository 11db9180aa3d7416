"""Action distributions against torch.distributions, and at the edges of floating point."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions as td

from palaestra.nets.distributions import (
    Categorical,
    DiagGaussian,
    MultiCategorical,
    SquashedGaussian,
    gumbel,
    squash_correction,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def gaussians():
    ours = [DiagGaussian(normal(5, 3, seed=i), 0.3 * normal(3, seed=i + 10)) for i in range(2)]
    theirs = [td.Independent(td.Normal(d.mean, d.log_std.exp().expand(5, 3)), 1) for d in ours]
    return ours, theirs


def test_a_gaussian_has_torchs_density_entropy_and_divergence(gaussians):
    (p, q), (p_, q_) = gaussians
    action = normal(5, 3, seed=7)
    torch.testing.assert_close(p.logp(action), p_.log_prob(action))
    torch.testing.assert_close(p.entropy(), p_.entropy())
    torch.testing.assert_close(p.kl(q), td.kl_divergence(p_, q_))
    assert p.kl(p).abs().max() == 0


@pytest.mark.parametrize("shared", [True, False])
def test_the_gradients_of_a_gaussians_density_are_those_of_its_formula(shared):
    mean, log_std = normal(4, 2).requires_grad_(), (0.3 * (normal(2) if shared else normal(4, 2))).requires_grad_()
    action = normal(4, 2, seed=5)
    assert torch.autograd.gradcheck(lambda m, s: DiagGaussian(m, s).logp(action), (mean, log_std))


@pytest.mark.parametrize("mask", [None, torch.tensor([True, False, True])])
def test_the_gradients_of_a_categoricals_probability_are_those_of_its_formula(mask):
    logits, action = normal(4, 3).requires_grad_(), torch.tensor([0, 2, 0, 2])
    assert torch.autograd.gradcheck(lambda x: Categorical.among(x, mask).logp(action), (logits,))
    assert torch.autograd.gradcheck(lambda x: Categorical.among(x, mask).entropy(), (logits,))


def test_a_divergence_can_be_differentiated_twice():
    """The Fisher-vector products of trust-region methods need it."""
    logits, mean, log_std = normal(4, 3).requires_grad_(), normal(4, 2).requires_grad_(), normal(2).requires_grad_()
    fixed, gaussian = Categorical(normal(4, 3, seed=1)), DiagGaussian(normal(4, 2, seed=1), normal(2, seed=2))
    assert torch.autograd.gradgradcheck(lambda x: fixed.kl(Categorical(x)), (logits,))
    assert torch.autograd.gradgradcheck(lambda m, s: gaussian.kl(DiagGaussian(m, s)), (mean, log_std))


def test_a_detached_gaussian_does_not_follow_its_parameter():
    log_std = torch.nn.Parameter(torch.zeros(2))
    frozen = DiagGaussian(torch.zeros(1, 2), log_std).detach()
    with torch.no_grad():
        log_std += 1.0
    assert frozen.log_std.tolist() == [0.0, 0.0]


def test_a_categorical_has_torchs_probability_entropy_and_divergence():
    logits, other, action = normal(6, 4), normal(6, 4, seed=1), torch.tensor([0, 1, 2, 3, 0, 1])
    p, q = Categorical(logits), Categorical(other)
    p_, q_ = td.Categorical(logits=logits), td.Categorical(logits=other)
    torch.testing.assert_close(p.logp(action), p_.log_prob(action))
    torch.testing.assert_close(p.entropy(), p_.entropy())
    torch.testing.assert_close(p.kl(q), td.kl_divergence(p_, q_))
    assert p.mode().tolist() == logits.argmax(-1).tolist()


def test_a_multi_categorical_is_the_product_of_its_parts():
    logits, action = normal(6, 5), torch.tensor([[0, 1], [2, 0], [1, 1], [0, 0], [2, 1], [1, 0]])
    joint = MultiCategorical.among(logits, [3, 2], None)
    first, second = Categorical(logits[:, :3]), Categorical(logits[:, 3:])
    torch.testing.assert_close(joint.logp(action), first.logp(action[:, 0]) + second.logp(action[:, 1]))
    torch.testing.assert_close(joint.entropy(), first.entropy() + second.entropy())
    other = MultiCategorical.among(normal(6, 5, seed=3), [3, 2], None)
    torch.testing.assert_close(joint.kl(other), sum(a.kl(b) for a, b in zip(joint.parts, other.parts, strict=True)))
    assert joint.sample(torch.Generator().manual_seed(0)).shape == (6, 2)


def test_disallowed_actions_have_no_probability_entropy_or_gradient():
    logits = torch.tensor([[5.0, 1.0, 2.0]], requires_grad=True)
    mask = torch.tensor([[False, True, True]])
    masked, smaller = Categorical.among(logits, mask), Categorical(logits[:, 1:])
    torch.testing.assert_close(masked.entropy(), smaller.entropy())
    torch.testing.assert_close(masked.logp(torch.tensor([1])), smaller.logp(torch.tensor([0])))
    other = Categorical.among(torch.zeros(1, 3), mask)
    torch.testing.assert_close(masked.kl(other), smaller.kl(Categorical(torch.zeros(1, 2))))
    (gradient,) = torch.autograd.grad((masked.entropy() + masked.kl(other)).sum(), logits)
    assert gradient[0, 0] == 0
    assert bool(torch.isfinite(gradient).all())


def test_samples_have_the_frequencies_of_the_probabilities():
    probabilities = torch.tensor([0.1, 0.2, 0.7])
    draws = Categorical(probabilities.log().expand(20_000, 3)).sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(draws.bincount() / 20_000, probabilities, atol=0.015, rtol=0)
    gaussian = DiagGaussian(torch.full((20_000, 1), 3.0), torch.tensor([math.log(2.0)]))
    drawn = gaussian.sample(torch.Generator().manual_seed(0))
    assert drawn.mean().item() == pytest.approx(3, abs=0.06)
    assert drawn.std().item() == pytest.approx(2, abs=0.04)


def test_a_zero_from_the_exponential_generator_does_not_choose_a_disallowed_action(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self, generator=None: self.zero_())
    dist = Categorical.among(torch.tensor([[3.0, 0.0]]), torch.tensor([[False, True]]))
    assert dist.sample().tolist() == [1]


def test_a_squashed_gaussian_has_torchs_density():
    mean, std, noise = normal(5, 3), normal(5, 3, seed=1).exp(), normal(5, 3, seed=2)
    ours = SquashedGaussian(mean, std)
    theirs = td.Independent(td.TransformedDistribution(td.Normal(mean, std), td.TanhTransform(cache_size=1)), 1)
    action, logp, u = ours.rsample_unsquashed(noise)
    torch.testing.assert_close(action, torch.tanh(mean + std * noise))
    torch.testing.assert_close(logp, theirs.log_prob(action))
    torch.testing.assert_close(ours.logp_unsquashed(u), logp)


def test_the_gradients_of_a_squashed_sample_are_those_of_its_formula():
    mean, noise = normal(4, 2).requires_grad_(), normal(4, 2, seed=2)
    std = normal(4, 2, seed=1).exp().requires_grad_()
    assert torch.autograd.gradcheck(lambda m, s: SquashedGaussian(m, s).rsample_unsquashed(noise), (mean, std))


def test_the_correction_of_squashing_is_finite_and_exact_far_out():
    # 1 - tanh(u)^2 = 4 / (e^u + e^-u)^2, whose logarithm at |u| = 20 is 2 log 2 - 40 to 1e-17; in floats 1 - tanh^2 is 0.
    for u in (20.0, -20.0):
        x = torch.tensor([u], requires_grad=True)
        correction = squash_correction(x)
        correction.backward()
        assert correction.item() == pytest.approx(2 * math.log(2) - 40, rel=1e-6)
        assert x.grad.item() == pytest.approx(-2 * math.tanh(u))
    mean, std = torch.tensor([[20.0], [-20.0]], requires_grad=True), torch.ones(2, 1)
    _, logp = SquashedGaussian(mean, std).rsample(torch.zeros(2, 1))
    assert logp.tolist() == pytest.approx([40 - 2 * math.log(2) - 0.5 * math.log(2 * math.pi)] * 2)


def test_gumbel_noise_makes_samples_of_the_right_frequencies_several_a_row():
    dist = Categorical(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]).log())
    drawn = dist.drawn(gumbel((2, 20_000, 3), torch.Generator().manual_seed(0)))
    assert drawn.shape == (2, 20_000)
    share = torch.stack([(drawn == a).float().mean(-1) for a in range(3)], -1)
    torch.testing.assert_close(share, dist.logits.exp(), atol=0.015, rtol=0)
    one = gumbel((2, 3), torch.Generator().manual_seed(1))
    assert torch.equal(dist.drawn(one), dist.sample(torch.Generator().manual_seed(1)))
