"""Where losses end when all answers are enumerated and nothing is sampled: at closed forms, or where theory has them go wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from palaestra.objectives.answers import Answers
from palaestra.objectives.direct import copg, dno, dpo, inpo, ipo, r_dpo
from palaestra.objectives.games import from_scores, mirror_step, win_rate
from palaestra.objectives.lists import copg_list, plackett_luce
from palaestra.objectives.policy import policy_gradient
from tests.objectives.tabular import all_pairs, policy_of


def tensor(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# The bandit of contrastive policy gradient (2406.19185, section 5): answers of a pair have laws of their own.
R, BETA = tensor(2.5, 2, 1), 0.5
UNIFORM = tensor(1, 1, 1) / 3
MU = tensor(0.1, 0.2, 0.7), tensor(0.05, 0.05, 0.9)
BEST = (UNIFORM * (R / BETA).exp()) / (UNIFORM * (R / BETA).exp()).sum()
CYCLE = torch.tensor([[0.5, 0.8, 0.2], [0.2, 0.5, 0.8], [0.8, 0.2, 0.5]], dtype=torch.float64)
REF, NOW = tensor(0.6, 0.3, 0.1), tensor(0.2, 0.5, 0.3)


def objective(policy: Tensor) -> float:
    return float((policy * (R - BETA * (policy / UNIFORM).log())).sum())


def regret(policy: Tensor) -> float:
    return objective(BEST) - objective(policy)


def over_pairs(
    loss: Callable[..., Tensor], weight: Tensor, preference: Tensor | None = None
) -> Callable[[Answers], Tensor]:
    """The expected loss of pairs with probabilities `weight` `(n, n)`; with preferences, of their winner and loser."""

    def expected(answers: Answers) -> Tensor:
        first, second = all_pairs(answers)
        if preference is None:
            return (weight.flatten() * loss(first, second)).sum()
        won = preference.flatten()
        return (weight.flatten() * (won * loss(first, second) + (1 - won) * loss(second, first))).sum()

    return expected


DRAWN = MU[0].unsqueeze(1) * MU[1]
LABELS = from_scores(R)


def test_the_best_policy_and_what_it_is_worth():
    torch.testing.assert_close(BEST, tensor(0.70538, 0.25950, 0.03512), atol=5e-6, rtol=0)
    assert objective(BEST) == pytest.approx(2.12520, abs=5e-6)
    assert objective(BEST) == pytest.approx(BETA * float((UNIFORM * (R / BETA).exp()).sum().log()))
    assert objective(UNIFORM) == pytest.approx(1.83333, abs=5e-6)


def test_copg_reaches_it_whatever_the_answers_come_from():
    for weight in (DRAWN, MU[0].unsqueeze(1) * MU[0], UNIFORM.unsqueeze(1) * MU[1]):
        found = policy_of(over_pairs(partial(copg, beta=BETA), weight), UNIFORM, score=R)
        assert regret(found) < 1e-9
        torch.testing.assert_close(found, BEST, atol=1e-6, rtol=0)


def test_so_does_copg_of_lists():
    def expected(answers: Answers) -> Tensor:
        return copg_list(answers, beta=BETA).sum()

    torch.testing.assert_close(policy_of(expected, UNIFORM, score=R, group=torch.zeros(3)), BEST, atol=1e-6, rtol=0)


def test_ipo_with_labels_of_a_bradley_terry_model_does_not():
    found = policy_of(over_pairs(partial(ipo, beta=BETA), DRAWN, LABELS), UNIFORM)
    torch.testing.assert_close(found, tensor(0.42417, 0.35271, 0.22313), atol=5e-6, rtol=0)
    assert regret(found) == pytest.approx(0.15253, abs=5e-6)


def test_dpo_with_the_same_labels_does():
    found = policy_of(over_pairs(partial(dpo, beta=BETA), DRAWN, LABELS), UNIFORM)
    torch.testing.assert_close(found, BEST, atol=1e-6, rtol=0)


def test_dpo_that_takes_labels_for_noisy_ends_nearer_to_the_reference():
    found = policy_of(over_pairs(partial(dpo, beta=BETA, smoothing=0.1), DRAWN, LABELS), UNIFORM)
    assert 0 < regret(found) < regret(UNIFORM) and found[0] < BEST[0]


def test_length_regularised_dpo_ends_where_every_token_costs_alpha():
    length, alpha = tensor(3, 1, 2), 0.2
    loss = over_pairs(partial(r_dpo, beta=BETA, alpha=alpha), DRAWN, LABELS)
    weight = UNIFORM * ((R - alpha * length) / BETA).exp()
    torch.testing.assert_close(policy_of(loss, UNIFORM, length=length), weight / weight.sum(), atol=1e-6, rtol=0)


def test_dpo_of_whole_rankings_ends_there_too():
    orders = list(itertools.permutations(range(3)))

    def likelihood(order: tuple[int, ...]) -> Tensor:
        ranked = R[list(order)]
        return torch.stack([ranked[k] - ranked[k:].logsumexp(0) for k in range(3)]).sum().exp()

    def expected(answers: Answers) -> Tensor:
        total = answers.logp.new_zeros(())
        for order in orders:
            score = tensor(0, 0, 0)
            score[list(order)] = tensor(3, 2, 1)
            ranking = answers.replace(score=score, group=torch.zeros(3))
            total = total + likelihood(order) * plackett_luce(ranking, beta=BETA).sum()
        return total

    assert float(sum(likelihood(order) for order in orders)) == pytest.approx(1)
    torch.testing.assert_close(policy_of(expected, UNIFORM), BEST, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("baseline", "end", "lost"),
    [
        (lambda policy, reward: 0.0, tensor(0.19399, 0.25014, 0.55587), 0.63779),
        (lambda policy, reward: policy @ R, tensor(0.81155, 0.16752, 0.02093), 0.01482),
        (lambda policy, reward: policy @ reward, BEST, 0.0),
    ],
    ids=["no baseline", "the value", "the regularised value"],
)
def test_where_policy_gradient_on_the_answers_of_others_ends_depends_on_its_baseline(baseline, end, lost):
    data, logits = (MU[0] + MU[1]) / 2, torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(1500):
        logp = logits.log_softmax(-1)
        policy = logp.detach().exp()
        reward = R - BETA * (policy / UNIFORM).log()
        loss = policy_gradient(logp, reward - baseline(policy, reward), data)
        (slope,) = torch.autograd.grad(data.sum() * loss, logits)
        with torch.no_grad():
            logits -= slope
    policy = logits.detach().softmax(-1)
    torch.testing.assert_close(policy, end, atol=5e-6, rtol=0)
    assert regret(policy) == pytest.approx(lost, abs=5e-6)


def test_copg_s_gradient_on_the_policy_s_own_answers_is_twice_the_policy_gradient():
    logits = tensor(0.4, -0.3, 0.1).requires_grad_()
    logp = logits.log_softmax(-1)
    policy = logp.detach().exp()
    answers = Answers(logp=logp, ref_logp=UNIFORM.log(), score=R)
    loss = over_pairs(partial(copg, beta=BETA), policy.unsqueeze(1) * policy)(answers)
    (found,) = torch.autograd.grad(-loss, logits, retain_graph=True)
    (exact,) = torch.autograd.grad((logp.exp() * (R - BETA * answers.ratio)).sum(), logits)
    torch.testing.assert_close(found, 2 * exact, atol=1e-12, rtol=0)


def own_pairs(loss: Callable[..., Tensor], answers: Tensor) -> Callable[[Answers], Tensor]:
    return over_pairs(loss, answers.unsqueeze(1) * answers, CYCLE)


def test_inpo_on_the_round_s_own_answers_ends_at_the_step_of_mirror_descent():
    found = policy_of(own_pairs(partial(inpo, eta=1.0, tau=0.3), NOW), REF, prev_logp=NOW.log())
    torch.testing.assert_close(found, tensor(0.31597, 0.47301, 0.21102), atol=5e-6, rtol=0)
    torch.testing.assert_close(found, mirror_step(CYCLE, NOW, 1.0, REF, 0.3), atol=1e-7, rtol=0)


def test_inpo_on_other_answers_does_not():
    found = policy_of(own_pairs(partial(inpo, eta=1.0, tau=0.3), REF), REF, prev_logp=NOW.log())
    assert float((found - mirror_step(CYCLE, NOW, 1.0, REF, 0.3)).abs().max()) > 0.01


def test_ipo_s_best_response_is_a_step_that_forgets_the_previous_policy():
    found = policy_of(own_pairs(partial(ipo, beta=0.4), NOW), REF)
    torch.testing.assert_close(found, mirror_step(CYCLE, NOW, 0.4, REF, 0.4), atol=1e-7, rtol=0)


@pytest.mark.parametrize("weight", [UNIFORM.unsqueeze(1) * UNIFORM, DRAWN], ids=["all pairs", "pairs of two laws"])
def test_dno_ends_at_the_step_of_soft_policy_iteration_whatever_the_pairs(weight):
    loss = over_pairs(partial(dno, eta=0.5), weight)
    found = policy_of(loss, UNIFORM, prev_logp=NOW.log(), score=win_rate(CYCLE, NOW))
    torch.testing.assert_close(found, tensor(0.22393, 0.52723, 0.24884), atol=5e-6, rtol=0)
    torch.testing.assert_close(found, mirror_step(CYCLE, NOW, 0.5), atol=1e-7, rtol=0)
