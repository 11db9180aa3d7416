"""A diffusion model of trajectories, which can be guided to the actions of a policy (Jackson et al., arXiv 2404.06356)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palaestra.core import spaces
from palaestra.core.errors import Unsupported, require
from palaestra.core.experience import Experience
from palaestra.core.policy import Acted, Policy
from palaestra.nets.diffusion import Denoiser, EDMSampler, GuidanceStrength, Intervention
from palaestra.nets.distributions import DiagGaussian
from palaestra.nets.unet import TemporalUNet

EDGE = 0.999
"""Actions are clipped to this before they are unsquashed."""
CONSTANT = 1e-6
"""Columns whose deviation is below this keep their scale: to blow them up would only amplify noise."""
BLOCK = 256
"""Trajectories that are sampled at a time."""
TINY = 1e-8


class TrajectoryDiffusion(Policy):
    """Trajectories `(B, T, D)`: in each row an observation, an unsquashed action atanh(a), a reward and whether the task ended,
    all standardised by the data's columns. Saved and loaded as policies are, but it does not act.

    Raises:
        Unsupported: observations are not float vectors, or actions not a bounded box.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        network: Sequence[int],
        window: int,
        sampling_steps: int = 256,
        churn: float = 80.0,
        heun: bool = True,
        trajectories: int = 8192,
        rollout: int = 128,
        normalise_guidance: bool = True,
        denoised_guidance: bool = True,
        guidance_bump: float = 0.3,
        step_norm: bool = False,
    ):
        super().__init__(observation_space, action_space)
        if spaces.kind(observation_space) != "box" or observation_space.dtype == np.uint8:
            raise Unsupported(
                f"trajectories are generated where observations are float vectors, not in {observation_space}"
            )
        self.box = spaces.ActionBox(action_space)
        self.network, self.window = tuple(network), window
        shortest = 2 ** (len(self.network) - 1)
        for name, length in (("window", window), ("rollout", rollout)):
            require(
                length >= shortest, f"{name} must be at least {shortest} steps for {len(network)} levels, got {length}"
            )
        self.trajectories, self.rollout = trajectories, rollout
        self.normalise_guidance, self.denoised_guidance = normalise_guidance, denoised_guidance
        self.guidance_bump, self.step_norm = guidance_bump, step_norm
        self.sampler = EDMSampler(sampling_steps, churn=churn, heun=heun)
        self.obs_shape = tuple(observation_space.shape)
        size = math.prod(self.obs_shape)
        self.observations, self.actions = slice(0, size), slice(size, size + self.box.size)
        self.columns = size + self.box.size + 2
        self.denoiser = Denoiser(TemporalUNet(self.columns, self.network, step_norm))
        self.register_buffer("mean", torch.zeros(self.columns))
        self.register_buffer("deviation", torch.ones(self.columns))

    def fit(self, steps: Experience) -> None:
        """Take the statistics that rows are standardised by from `steps` `(N,)`."""
        rows = self._rows(steps).double()
        deviation = rows.std(0, unbiased=False)
        self.mean.copy_(rows.mean(0))
        self.deviation.copy_(torch.where(deviation < CONSTANT, 1.0, deviation))

    def encode(self, steps: Experience) -> Tensor:
        """Steps `(…)` as standardised rows `(…, D)`."""
        return (self._rows(steps) - self.mean) / self.deviation

    def decode(self, x: Tensor) -> Experience:
        """Trajectories of T + 1 rows as `(B, T)` steps: the next observation is the next row's, a step terminates where the
        last column exceeds 1/2, and the clock ends each trajectory that has not ended itself."""
        rows = x * self.deviation + self.mean
        obs = rows[..., self.observations].unflatten(-1, self.obs_shape)
        terminated = (rows[:, :-1, -1] > 0.5).float()
        truncated = torch.zeros_like(terminated)
        truncated[:, -1] = 1 - terminated[:, -1]
        return Experience(
            obs=obs[:, :-1],
            action=torch.tanh(rows[:, :-1, self.actions]),
            reward=rows[:, :-1, -2],
            next_obs=obs[:, 1:],
            terminated=terminated,
            truncated=truncated,
        )

    def sample(self, policy: Policy | None = None, scale: float = 0.0, *, generator: torch.Generator) -> Experience:
        """`trajectories` of `rollout` steps each, `(B, T)`, their actions guided to those of `policy` by `scale`."""
        intervene = None if policy is None or scale == 0 else self.guidance(policy, scale)
        blocks = []
        for start in range(0, self.trajectories, BLOCK):
            count = min(BLOCK, self.trajectories - start)
            noise = torch.randn(count, self.rollout + 1, self.columns, generator=generator)
            blocks.append(self.decode(self.sampler(self.denoiser, noise, generator, intervene)))
        return Experience.cat(blocks)

    def guidance(self, policy: Policy, scale: float) -> Intervention:
        """Moves actions, and nothing else, along the gradient of log pi(a|s) at x, or at the clean trajectory it is taken for."""
        strength = GuidanceStrength(scale, self.guidance_bump)

        def intervene(i: int, x: Tensor, sigma: Tensor) -> Tensor:
            factor = strength(i, self.sampler.steps)
            if factor == 0:
                return x
            guided = x.clone()
            seen = self.denoiser(x, sigma) if self.denoised_guidance else x
            guided[..., self.actions] += factor * self.direction(policy, seen)
            return guided

        return intervene

    def direction(self, policy: Policy, x: Tensor) -> Tensor:
        """The gradient of sum_t log pi(a_t|s_t) by the action columns of `x` `(B, T, D)`, states held constant, `(B, T, m)`;
        with `normalise_guidance` of unit length for each trajectory."""
        rows = (x * self.deviation + self.mean).detach()
        obs = rows[..., self.observations].unflatten(-1, self.obs_shape).flatten(0, 1)
        unsquashed = rows[..., self.actions].requires_grad_()
        with torch.enable_grad():
            logp = action_logp(policy, obs, torch.tanh(unsquashed).flatten(0, 1))
            (gradient,) = torch.autograd.grad(logp.sum(), unsquashed)
        gradient = gradient * self.deviation[self.actions]
        if not self.normalise_guidance:
            return gradient
        return gradient / (torch.linalg.vector_norm(gradient, dim=(1, 2), keepdim=True) + TINY)

    def act(
        self,
        obs: Any,
        carry: Any = None,
        *,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        action_mask: Any = None,
    ) -> Acted:
        raise Unsupported(
            "the model generates trajectories and does not act; train on them: palaestra train td3-bc --synthetic RUN"
        )

    def settings(self) -> dict[str, Any]:
        names = (
            "trajectories",
            "rollout",
            "normalise_guidance",
            "denoised_guidance",
            "guidance_bump",
            "window",
            "step_norm",
        )
        sampling = {"sampling_steps": self.sampler.steps, "churn": self.sampler.churn, "heun": self.sampler.heun}
        own = {name: getattr(self, name) for name in names}
        return {"network": list(self.network), **own, **sampling}

    def _rows(self, steps: Experience) -> Tensor:
        unsquashed = torch.atanh(steps.action.clamp(-EDGE, EDGE))
        ends = torch.stack([steps.reward, steps.terminated], -1)
        return torch.cat([steps.obs.flatten(steps.reward.dim()), unsquashed, ends], -1)


def action_logp(policy: Policy, obs: Tensor, action: Tensor) -> Tensor:
    """log pi(a|s), `(B,)`; a policy without a density counts as a unit normal about its action."""
    if type(policy).score is not Policy.score:
        return policy.score(Experience(obs=obs, action=action)).logp
    with torch.no_grad():
        chosen = policy.act(obs, greedy=True).action
    return DiagGaussian(chosen, torch.zeros_like(chosen)).logp(action)
