"""The critic's own regression, for on-policy methods that step policy and values apart."""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.core.experience import Experience
from palaestra.methods.online.on_policy import OnPolicy
from palaestra.nets.adam import Adam
from palaestra.nets.gradient import Outputs
from palaestra.objectives.value import clipped_value, squared_error


def fit_values(
    method: OnPolicy, batch: Experience, optimiser: Adam, epochs: int, minibatch: int, clip: float | None = None
) -> Tensor:
    """Regress the critic on `batch.target` for some epochs of minibatches; returns the last loss.

    Features are computed once and held: an image encoder learns from the policy's loss alone, so that fitting values
    leaves the policy where its own step put it.
    """
    policy = method.actor_critic
    with torch.no_grad():
        features = policy.features(batch.obs)
    rows = Experience(obs=features, value=batch.value, target=batch.target)

    def value_loss(part: Experience) -> tuple[Tensor, Outputs]:
        value = policy.critic(part.obs).squeeze(-1)
        plain = clip is None
        loss = squared_error(value, part.target) if plain else clipped_value(value, part.value, part.target, clip)
        return loss, {"loss": loss}

    for part in method.minibatches(rows, minibatch, epochs):
        found = optimiser.descend(value_loss, part)
        method.counters.updates += 1
    return found["loss"]
