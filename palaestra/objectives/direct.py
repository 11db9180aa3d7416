"""Losses of preference pairs and of single answers that are judged good or bad: alignment without a reward model.

Pairs are the chosen and the rejected answers, n of each, as `Answers`; a loss is `(n,)`. h is the lead of the chosen answer's
log-ratio, log pi(y_w)/pi_ref(y_w) - log pi(y_l)/pi_ref(y_l), with sums over tokens unless a loss says otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.objectives.answers import Answers, loss
from palaestra.objectives.preference import bradley_terry


def _positive(**settings: float) -> None:
    for name, value in settings.items():
        require(value > 0, f"{name} must be positive, got {value}")


def _win_rates(answers: Answers) -> Tensor:
    rate = answers.score
    require(bool(((rate >= 0) & (rate <= 1)).all()), "win rates must be between 0 and 1")
    return rate


def lead(chosen: Answers, rejected: Answers) -> Tensor:
    """h, the lead of the chosen answers in log-ratio, `(n,)`."""
    return chosen.ratio - rejected.ratio


@loss("pair", "logp ref_logp", "sum", "Rafailov et al. 2023", "2305.18290")
def dpo(chosen: Answers, rejected: Answers, beta: float = 0.1, smoothing: float = 0.0) -> Tensor:
    """-(1 - e) log sigma(beta h) - e log sigma(-beta h)

    e = `smoothing` is the share of labels that is taken to be wrong (Mitchell 2023, cDPO). With labels of a Bradley-Terry model
    and e = 0 the minimiser is pi_ref exp(R / beta) / Z.
    """
    _positive(beta=beta)
    require(0 <= smoothing < 0.5, f"smoothing must be at least 0 and below 0.5, got {smoothing}")
    return bradley_terry(beta * lead(chosen, rejected), 1 - smoothing)


@loss("pair", "logp ref_logp", "sum", "Azar et al. 2023", "2310.12036")
def ipo(chosen: Answers, rejected: Answers, beta: float = 0.1) -> Tensor:
    """(h - 1 / (2 beta))^2

    Eq. 17, where beta is called tau. trl takes h of means over tokens, which is another loss: it lacks the identities with INPO,
    CoPG and the regularised best response.
    """
    _positive(beta=beta)
    return (lead(chosen, rejected) - 1 / (2 * beta)).square()


@loss("pair", "logp length", "mean", "Meng et al. 2024", "2405.14734")
def simpo(chosen: Answers, rejected: Answers, beta: float = 2.0, gamma: float = 0.5, smoothing: float = 0.0) -> Tensor:
    """-log sigma(beta (log pi(y_w) / |y_w| - log pi(y_l) / |y_l|) - gamma)

    Without a reference. `gamma` is the margin of rewards, as trl's `simpo_gamma`; the released code takes gamma / beta.
    """
    _positive(beta=beta)
    return bradley_terry(beta * (chosen.mean_logp - rejected.mean_logp) - gamma, 1 - smoothing)


@loss("pair", "logp ref_logp length", "sum", "Park et al. 2024", "2403.19159")
def r_dpo(chosen: Answers, rejected: Answers, beta: float = 0.1, alpha: float = 0.01) -> Tensor:
    """-log sigma(beta h + alpha (|y_w| - |y_l|))

    DPO for a reward from which alpha is taken for every token: where the longer answer was chosen, length explains part of it.
    """
    _positive(beta=beta)
    return bradley_terry(beta * lead(chosen, rejected) + alpha * (chosen.length - rejected.length))


@loss("pair", "logp ref_logp kl", "sum", "Zeng et al. 2024", "2404.11999")
def tdpo1(chosen: Answers, rejected: Answers, beta: float = 0.1) -> Tensor:
    """-log sigma(beta (h - (K_l - K_w))), K = sum_t KL(pi_ref || pi) at token t

    `kl` is K, the sum over an answer's tokens of the divergence of whole next-token distributions, with its gradient.
    """
    _positive(beta=beta)
    return bradley_terry(beta * (lead(chosen, rejected) - (rejected.kl - chosen.kl)))


@loss("pair", "logp ref_logp kl", "sum", "Zeng et al. 2024", "2404.11999")
def tdpo2(chosen: Answers, rejected: Answers, beta: float = 0.1, alpha: float = 0.5) -> Tensor:
    """-log sigma(beta (h - alpha (K_l - K_w))), K_w a constant

    With `alpha` the balance, and no gradient through the chosen answer's K: it may move away, the rejected one must stay.
    """
    _positive(beta=beta)
    return bradley_terry(beta * (lead(chosen, rejected) - alpha * (rejected.kl - chosen.kl.detach())))


@loss("pair", "logp", "sum", "Zhao et al. 2023", "2305.10425")
def slic(chosen: Answers, rejected: Answers, delta: float = 1.0, weight: float = 0.1) -> Tensor:
    """max(0, delta - log pi(y_w) + log pi(y_l)) - weight log pi(y_w)

    Sequence likelihood calibration, regularised by the likelihood of the chosen answer; the paper also takes that of the answer
    in its supervised data, which is `nll` of those.
    """
    return (delta - chosen.logp + rejected.logp).relu() - weight * chosen.logp


@loss("pair", "logp ref_logp score", "sum", "Flet-Berliac et al. 2024", "2406.19185")
def copg(chosen: Answers, rejected: Answers, beta: float = 0.06) -> Tensor:
    """beta / 2 h^2 - (R_w - R_l) h

    Contrastive policy gradient, eq. 7-9 with its sign turned: beta/2 (h - D/beta)^2 - D^2 / (2 beta) for a gap D of `score`.
    Which side is called chosen does not matter. The minimiser is pi_ref exp(R / beta) / Z, whatever the answers come from.
    """
    _positive(beta=beta)
    h = lead(chosen, rejected)
    return beta / 2 * h.square() - (chosen.score - rejected.score) * h


@loss("pair", "logp ref_logp prev_logp", "sum", "Zhang et al. 2024", "2407.00617")
def inpo(chosen: Answers, rejected: Answers, eta: float = 0.005, tau: float | None = None) -> Tensor:
    """(h_t - 1 / (2 eta))^2, h_t the lead in log pi - tau/eta log pi_ref - (1 - tau/eta) log pi_t

    Where both answers come from pi_t and the winner was drawn by the preference, the minimiser is the step of mirror descent
    `games.mirror_step`. tau is eta / 3 unless given; 0 leaves the reference out, eta the previous policy, which is IPO's loss.
    """
    _positive(eta=eta)
    tau = eta / 3 if tau is None else tau
    require(0 <= tau <= eta, f"tau must be between 0 and eta = {eta}, got {tau}")
    won, lost = (x.logp - tau / eta * x.ref_logp - (1 - tau / eta) * x.prev_logp for x in (chosen, rejected))
    return (won - lost - 1 / (2 * eta)).square()


@loss("pair", "logp prev_logp score", "sum", "Rosset et al. 2024", "2404.03715")
def dno(first: Answers, second: Answers, eta: float = 1.0) -> Tensor:
    """-sigma(D) log sigma(eta h) - sigma(-D) log sigma(-eta h), D the lead in win rate, h that in log pi / pi_t

    Direct Nash optimisation, eq. 12. `score` is an answer's expected win rate against pi_t, in [0, 1]. Neither side need be the
    better one. The minimiser is pi_t exp(win rate / eta) / Z.
    """
    _positive(eta=eta)
    gap = _win_rates(first) - _win_rates(second)
    h = (first.logp - first.prev_logp) - (second.logp - second.prev_logp)
    return bradley_terry(eta * h, torch.sigmoid(gap))


@loss("pair", "logp prev_logp", "sum", "Rosset et al. 2024", "2404.03715")
def dno_prct(chosen: Answers, rejected: Answers, beta: float = 0.1) -> Tensor:
    """-log sigma(beta h), h the lead in log pi / pi_t

    DPO against the policy that the round began with, eq. 13, for pairs with a large gap of win rates.
    """
    _positive(beta=beta)
    h = (chosen.logp - chosen.prev_logp) - (rejected.logp - rejected.prev_logp)
    return bradley_terry(beta * h)


@loss("answer", "logp prev_logp score", "sum", "Wu et al. 2024", "2405.00675")
def sppo(answers: Answers, eta: float = 1000.0) -> Tensor:
    """(log pi(y) / pi_t(y) - eta (R - 1/2))^2

    Self-play preference optimisation, eq. 4.7: `score` is an answer's win rate against pi_t, or 1 for the winner and 0 for the
    loser of a pair. The released code takes beta = 1 / eta.
    """
    _positive(eta=eta)
    return (answers.logp - answers.prev_logp - eta * (_win_rates(answers) - 0.5)).square()


@loss("answer", "logp ref_logp kl desirable", "sum", "Ethayarajh et al. 2024", "2402.01306")
def kto(answers: Answers, beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> Tensor:
    """w (1 - sigma(s beta (log pi(y) / pi_ref(y) - z))), s = 1 for a good answer and else -1

    `kl` is z, the point of reference, the same for a whole batch: see `reference_point`. Weights w of good and of bad answers.
    """
    _positive(beta=beta)
    good = answers.desirable.bool()
    sign = torch.where(good, 1.0, -1.0).to(answers.logp)
    weight = torch.where(good, desirable_weight, undesirable_weight).to(answers.logp)
    return weight * torch.sigmoid(-sign * beta * (answers.ratio - answers.kl.detach()))


@torch.no_grad()
def reference_point(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """KTO's z: max(0, mean log pi(y')/pi_ref(y')) over prompts with an answer y' to *another* one of the batch, `(n,)` each."""
    return (logp - ref_logp).mean().clamp(min=0).expand_as(logp)


@loss("pair", "score", "sum", "Bradley and Terry 1952; Zheng et al. 2023", "2307.04964")
def bt_rm(chosen: Answers, rejected: Answers, margin: Tensor | float = 0.0, lm_weight: Tensor | float = 0.0) -> Tensor:
    """-log sigma(r_w - r_l - margin) - lm_weight log p(y_w)

    The loss of a reward model, whose outputs are `score`: larger margins for clearer preferences (Touvron et al. 2023, eq. 2),
    and with `lm_weight` the likelihood `logp` of the chosen answer under a language head on the same trunk (Zheng et al., eq. 2;
    their code takes its mean over the tokens of a batch: the sum with an `lm_weight` over the mean length of chosen answers).
    """
    ranking = bradley_terry(chosen.score - rejected.score - margin)
    if not lm_weight:
        return ranking
    require(chosen.logp is not None, "the loss 'bt-rm' needs logp of the chosen answers for its language term")
    return ranking - lm_weight * chosen.logp
