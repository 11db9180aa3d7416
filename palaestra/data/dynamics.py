"""A quick model of one step of the environment, by which made-up steps are judged where no simulator can be asked."""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.core.experience import Experience
from palaestra.data.dataset import Dataset

FEATURES = 256
ROWS = 20_000
"""The most steps that are learnt from."""
RIDGE = 1e-6
"""Weight of the squared coefficients, per step."""


class OneStepModel:
    """The change of a vector of observations as a linear function of observation, action and random cosines of these, fitted by
    least squares to every second step of `real`.

    `floor` is its error on real steps that it has not seen: what is near that is as plausible as the data.
    """

    def __init__(self, real: Dataset, generator: torch.Generator):
        rows = torch.linspace(0, len(real) - 1, min(2 * ROWS, len(real)), dtype=torch.float64).long()
        steps = real.steps.take(rows)
        inputs, change = _inputs(steps), _change(steps)
        self.mean, self.deviation = inputs.mean(0), inputs.std(0).clamp(min=1e-6)
        self.scale = change.std(0).clamp(min=1e-6)
        self.frequencies = torch.randn(inputs.shape[1], FEATURES, generator=generator, dtype=torch.float64)
        self.phases = 2 * torch.pi * torch.rand(FEATURES, generator=generator, dtype=torch.float64)
        features, targets = self._features(inputs[::2]), change[::2] / self.scale
        gram = features.T @ features + RIDGE * len(features) * torch.eye(features.shape[1], dtype=torch.float64)
        self.weights = torch.linalg.solve(gram, features.T @ targets)
        self.floor = self.error(steps[1::2])

    def error(self, steps: Experience) -> Tensor:
        """The mean squared error of the change over `(B,)` steps and columns, each column in units of its real deviation."""
        return ((self._change(_inputs(steps)) - _change(steps)) / self.scale).square().mean().float()

    def step(self, obs: Tensor, action: Tensor) -> Tensor:
        """The next observations, `(B, …)`."""
        change = self._change(_inputs(Experience(obs=obs, action=action)))
        return obs + change.float().view_as(obs)

    def _change(self, inputs: Tensor) -> Tensor:
        return self._features(inputs) @ self.weights * self.scale

    def _features(self, inputs: Tensor) -> Tensor:
        z = (inputs - self.mean) / self.deviation
        return torch.cat([torch.ones(len(z), 1, dtype=z.dtype), z, torch.cos(z @ self.frequencies + self.phases)], 1)


def _inputs(steps: Experience) -> Tensor:
    return torch.cat([steps.obs.flatten(1), steps.action], 1).double()


def _change(steps: Experience) -> Tensor:
    return (steps.next_obs - steps.obs).flatten(1).double()
