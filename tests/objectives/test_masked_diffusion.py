"""Masked diffusion by hand: masks, the bound that is learnt, and UniGRPO's loss."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.core.errors import BadSetting
from palaestra.objectives.masked_diffusion import (
    chance_of_any,
    cosine_ratio,
    image_mask,
    mask_probability,
    random_mask,
    structured_timesteps,
    unified_weights,
    unigrpo,
)


def draw(rows: int, length: int, seed: int = 0):
    """Uniform numbers: one a row, one a row, and one a token."""
    g = torch.Generator().manual_seed(seed)
    return torch.rand(rows, generator=g), torch.rand(rows, generator=g), torch.rand(rows, length, generator=g)


def likelihoods(factorised: bool) -> torch.Tensor:
    """A model of two tokens as a table: (mask of 2 tokens, position) -> log p(the true token | what is shown)."""
    if factorised:
        return torch.tensor([0.3, 0.8]).log().expand(2, 2, 2)
    table = torch.zeros(2, 2, 2)
    table[1, 1] = torch.tensor([0.5, 0.4]).log()  # both masked
    table[1, 0] = torch.tensor([0.9, 1.0]).log()  # the second is shown
    table[0, 1] = torch.tensor([1.0, 0.2]).log()
    return table


def enumerated(table: torch.Tensor, points: int = 20_000) -> float:
    """The integral over t of the sum over masks of P(mask) / p times the log-likelihood of what is masked."""
    p = mask_probability((torch.arange(points, dtype=torch.float64) + 0.5) / points)
    total = torch.zeros((), dtype=torch.float64)
    for a, b in itertools.product((0, 1), repeat=2):
        chance = (p if a else 1 - p) * (p if b else 1 - p)
        total += (chance / p * -(a * table[a, b, 0] + b * table[a, b, 1])).mean()
    return float(total)


@pytest.mark.parametrize("factorised", [True, False])
def test_the_unified_loss_is_what_enumerating_all_masks_gives(factorised):
    n = 200_000
    table = likelihoods(factorised)
    t, first, each = draw(n, 2)
    p, eligible = mask_probability(t), torch.ones(n, 2, dtype=torch.bool)
    mask = random_mask(eligible, p, first, each)
    logp = table[mask[:, 0].long(), mask[:, 1].long()]
    loss = 2 * float(-(unified_weights(mask, eligible, p) * logp).sum(-1).mean())  # the weights divide by the length
    assert loss == pytest.approx(enumerated(table), rel=0.01)


def test_of_a_factorised_model_it_is_the_negative_log_likelihood_and_of_any_other_a_bound():
    exact = -math.log(0.3 * 0.8)
    assert enumerated(likelihoods(True)) == pytest.approx(exact, rel=2e-3)  # epsilon leaves a thousandth of t out
    # Half the orders reveal the first token first, half the second: E[-log p] over orders bounds -log E[p].
    orders = -(math.log(0.5 * 0.2) + math.log(0.4 * 0.9)) / 2
    assert enumerated(likelihoods(False)) == pytest.approx(orders, rel=3e-3)
    assert orders >= -math.log((0.5 * 0.2 + 0.4 * 0.9) / 2)


@pytest.mark.parametrize("p", [0.001, 0.2, 0.7, 1.0])
def test_masks_are_those_that_drawing_until_one_is_not_empty_would_give(p):
    n = 100_000
    _, first, each = draw(n, 4)
    eligible = torch.tensor([True, False, True, True]).expand(n, 4)
    mask = random_mask(eligible, torch.full((n,), p), first, each)
    assert bool(mask.any(-1).all()) and not bool(mask[:, 1].any())
    for kept in itertools.product((False, True), repeat=3):
        chance = 0.0 if not any(kept) else p ** sum(kept) * (1 - p) ** (3 - sum(kept)) / (1 - (1 - p) ** 3)
        share = float((mask[:, [0, 2, 3]] == torch.tensor(kept)).all(-1).float().mean())
        assert share == pytest.approx(chance, abs=0.006)


@settings(max_examples=50)
@given(st.integers(1, 6), st.floats(0.0, 1.0), st.integers(0, 2**31))
def test_a_mask_is_never_empty_and_never_outside_of_what_is_eligible(length, p, seed):
    _, first, each = draw(32, length, seed)
    eligible = torch.rand(32, length, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask = random_mask(eligible, torch.full((32,), p), first, each)
    assert bool((mask.any(-1) == eligible.any(-1)).all())
    assert not bool((mask & ~eligible).any())


def test_weights_stay_small_however_small_p_is():
    eligible = torch.ones(1, 3, dtype=torch.bool)
    mask = torch.tensor([[True, False, False]])
    for p, weight in ((1e-9, 1.0), (0.5, 0.875 / 0.5 / 3), (1.0, 1 / 3)):
        found = unified_weights(mask, eligible, torch.tensor([p], dtype=torch.float64))
        assert found[0].tolist() == pytest.approx([weight, 0, 0], rel=1e-5)
    assert float(chance_of_any(torch.tensor([1e-9]), torch.tensor([3]))) == pytest.approx(3e-9)


def test_the_cosine_schedule_by_hand():
    assert cosine_ratio(torch.tensor([0.0, 0.25, 0.5, 1.0])).tolist() == pytest.approx([1, 0.9239, 0.7071, 0], abs=5e-5)


def test_an_image_has_a_rounded_number_of_masks_at_random_places():
    eligible = torch.tensor([[False] + [True] * 8] * 3)
    u, each = torch.tensor([0.0, 0.5, 1.0]), draw(3, 9)[2]
    mask = image_mask(eligible, u, each)
    assert mask.sum(-1).tolist() == [8, 6, 1]  # 8, 8 cos(pi/4) = 5.66, and never none
    assert not bool(mask[:, 0].any())
    assert set(mask[1].nonzero().flatten().tolist()) == set((each[1, 1:].argsort()[:6] + 1).tolist())


def test_structured_timesteps_by_hand():
    assert structured_timesteps(torch.tensor([100.0]), 5).tolist() == [[100, 300, 500, 700, 900]]
    assert structured_timesteps(torch.tensor([500.0]), 5).tolist() == [[500, 700, 900, 100, 300]]
    assert structured_timesteps(torch.tensor([250.0]), 1).tolist() == [[250]]
    with pytest.raises(BadSetting, match="at least 1 update"):
        structured_timesteps(torch.tensor([0.0]), 0)


LOGITS = torch.tensor([[[2.0, 0, -1], [0, 1, 0], [1, 1, 1]], [[0, 0, 3], [1, 0, 2], [0, 2, 0]]])
LABELS = torch.tensor([[0, 1, 0], [2, 2, 1]])
MASKED = torch.tensor([[True, True, False], [True, False, True]])
OLD = torch.tensor([[-0.3, -0.9, 0], [-0.05, 0, -0.4]])
ADVANTAGE = torch.tensor([[1.0], [-0.5]]).expand(2, 3)
SEGMENT = torch.arange(2).unsqueeze(1).expand(2, 3)


def by_hand(logits: torch.Tensor, **options):
    logp = logits.log_softmax(-1).gather(-1, LABELS.unsqueeze(-1)).squeeze(-1)
    return unigrpo(logp[MASKED], OLD[MASKED], ADVANTAGE[MASKED], SEGMENT[MASKED], 2, 0.2, **options)


def test_unigrpo_by_hand():
    loss, ratio, _ = by_hand(LOGITS, kl_weight=0.01, anchor_logp=OLD[MASKED], kl="sum")
    assert float(loss) == pytest.approx(-0.318108, abs=1e-6)
    # exp(-.169846 + .3), exp(-.551445 + .9), exp(-.094922 + .05), exp(-.239542 + .4); the second one is clipped at 1.2
    assert ratio.tolist() == pytest.approx([1.1390, 1.4170, 0.9561, 1.1740], abs=1e-4)
    plain = -((1.1390 + 1.2) / 2 - 0.5 * (0.9561 + 1.1740) / 2) / 2
    assert float(by_hand(LOGITS)[0]) == pytest.approx(plain, abs=1e-4)


def test_the_divergence_of_tokens_and_of_answers_by_hand():
    def k3(d):
        return math.exp(-d) - 1 + d

    d = [-0.169846 + 0.3, -0.551445 + 0.9, -0.094922 + 0.05, -0.239542 + 0.4]
    each = [k3(x) for x in d]
    wanted = {
        "sum": sum(each) / 2,
        "mean": (sum(each[:2]) / 2 + sum(each[2:]) / 2) / 2,
        "sequence": (k3((d[0] + d[1]) / 2) + k3((d[2] + d[3]) / 2)) / 2,
    }
    for kl, value in wanted.items():
        assert float(by_hand(LOGITS, kl_weight=1.0, anchor_logp=OLD[MASKED], kl=kl)[2]) == pytest.approx(
            value, abs=1e-5
        )
    with pytest.raises(BadSetting, match="sequence, sum, mean"):
        by_hand(LOGITS, anchor_logp=OLD[MASKED], kl="token")


@pytest.mark.parametrize("kl", ["sequence", "sum", "mean"])
def test_parts_of_a_batch_add_up_to_the_whole(kl):
    logits = LOGITS.clone().requires_grad_()
    logp = logits.log_softmax(-1).gather(-1, LABELS.unsqueeze(-1)).squeeze(-1)
    options = {"kl_weight": 0.1, "kl": kl}
    whole, _, _ = by_hand(logits, anchor_logp=OLD[MASKED], **options)
    parts = [
        unigrpo(
            logp[i][m],
            OLD[i][m],
            ADVANTAGE[i][m],
            torch.zeros(2, dtype=torch.long),
            2,
            0.2,
            anchor_logp=OLD[i][m],
            **options,
        )[0]
        for i, m in enumerate(MASKED)
    ]
    assert float(whole.detach()) == pytest.approx(float(sum(parts).detach()), abs=1e-6)
    a, b = torch.autograd.grad(whole, logits, retain_graph=True)[0], torch.autograd.grad(sum(parts), logits)[0]
    torch.testing.assert_close(a, b)


def test_where_the_policy_has_not_moved_the_gradient_is_that_of_the_mean_log_probability():
    logits = LOGITS.clone().requires_grad_()
    logp = logits.log_softmax(-1).gather(-1, LABELS.unsqueeze(-1)).squeeze(-1)[MASKED]
    loss, ratio, _ = unigrpo(logp, logp.detach(), ADVANTAGE[MASKED], SEGMENT[MASKED], 2, 0.2)
    assert ratio.tolist() == [1.0] * 4
    score = (logp * ADVANTAGE[MASKED]).sum() / 4  # of 2 rows with 2 masked tokens each
    torch.testing.assert_close(
        torch.autograd.grad(-loss, logits, retain_graph=True)[0], torch.autograd.grad(score, logits)[0]
    )
