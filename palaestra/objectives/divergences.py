"""Tsallis logarithms, Bregman divergences and estimates of KL divergences of policies, from log-probabilities.

The index is Tomar et al.'s (2020): log_q x = (x^(q-1) - 1) / (q - 1), which tends to log x as q tends to 1; their
released code names the same function by 2 - q.
"""

from __future__ import annotations

import math

from torch import Tensor

LOG_DENSITY_LIMIT = math.log(1e6)
"""Densities are kept in [1e-6, 1e6] before they are raised to a power, which would overflow."""

DIFFERENCE_LIMIT = 20.0
"""The largest difference of two log-probabilities that is taken to the exponent."""


def log_q(logp: Tensor, q: float) -> Tensor:
    """The Tsallis logarithm of a probability or density, given its ordinary logarithm; q = 1 returns it as it is."""
    if q == 1.0:
        return logp
    limited = logp.clamp(-LOG_DENSITY_LIMIT, LOG_DENSITY_LIMIT)
    return ((q - 1) * limited).expm1() / (q - 1)


def tsallis_bregman(logp: Tensor, old_logp: Tensor, q: float) -> Tensor:
    """Bregman divergence of negative Tsallis entropy, D(pi, pi_k) = E_pi[log_q pi - q log_q pi_k] + (q-1) E_pi_k[log_q pi_k],
    estimated from actions of pi_k, one number per action, `(B,)`.

    With rho = pi/pi_k it is rho (log_q pi - q log_q pi_k) + (q - 1) log_q pi_k - (rho - 1). The last term has mean zero; it
    makes every single estimate non-negative and its gradient zero at pi = pi_k. q = 1 estimates KL(pi || pi_k).
    """
    rho = (logp - old_logp).exp()
    new, old = log_q(logp, q), log_q(old_logp, q)
    return rho * (new - q * old) + (q - 1) * old - (rho - 1)


def tsallis_difference(logp: Tensor, old_logp: Tensor, q: float) -> Tensor:
    """log_q pi - log_q pi_k on actions of pi_k, `(B,)`: what the code released with Tomar et al. (2020) takes instead.

    It lacks the importance weight, so that for q = 1 its mean is *minus* KL(pi_k || pi).
    """
    return log_q(logp, q) - log_q(old_logp, q)


def kl_estimate(logp: Tensor, other_logp: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = log other - log pi, `(B,)`, on actions of pi: an unbiased estimate of KL(pi || other) that is never
    negative (Schulman 2020, "k3")."""
    difference = (other_logp - logp).clamp(-DIFFERENCE_LIMIT, DIFFERENCE_LIMIT)
    return difference.exp() - difference - 1
