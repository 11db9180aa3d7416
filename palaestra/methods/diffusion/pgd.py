"""Policy-guided diffusion, PGD (Jackson et al., arXiv 2404.06356): synthetic trajectories that are guided to a policy.

What is trained here is the diffusion model of the data's trajectories. Any offline method then learns from its samples, which are
guided to the method's own policy: `palaestra train td3-bc --synthetic RUN` (see `palaestra.data.synthetic`).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from palaestra.core.errors import BadDataset, require
from palaestra.core.hints import PositiveInt
from palaestra.core.method import Method, Metrics, Paper
from palaestra.core.task import Task
from palaestra.data.dataset import Dataset
from palaestra.data.windows import window_starts, windows
from palaestra.nets.adam import Adam
from palaestra.nets.gradient import Outputs
from palaestra.nets.polyak import polyak
from palaestra.nets.trajectory_diffusion import TrajectoryDiffusion
from palaestra.objectives.diffusion import denoising_loss, training_levels

HELD_OUT_EVERY = 100
"""Updates between losses on episodes that are not learnt from."""


@dataclass
class PGD(Method):
    """A diffusion model of trajectories."""

    paper: ClassVar[Paper] = Paper("Policy-Guided Diffusion", 2024, "2404.06356")
    family: ClassVar[str] = "diffusion"
    summary: ClassVar[str] = (
        "diffusion model of trajectories, from which offline methods draw steps guided to their policy"
    )
    learns_from: ClassVar[str] = "dataset"
    evaluates: ClassVar[bool] = False

    window: int = 32
    """Steps of the windows that are learnt from."""
    stride: PositiveInt = 8
    """Steps from one window to the next."""
    held_out: float = 0.05
    """Share of episodes that are only tested on, rounded down."""
    batch_size: PositiveInt = 32
    """Windows per update."""
    lr: float = 2e-3
    """Adam's learning rate at its highest."""
    warmup: float = 0.1
    """Share of the budget in which it rises from a tenth of that; it then falls to 0 along a cosine."""
    network: tuple[int, ...] = (1024, 2048, 4096)
    """Channels of the U-Net's levels, each of half the resolution of the one before."""
    step_norm: bool = False
    """Normalise groups of channels at each step by itself, as the released code does, not over the trajectory."""
    ema: float = 0.995
    """Decay of the average of parameters that is sampled from."""
    ema_every: PositiveInt = 10
    """Updates between updates of that average."""
    sampling_steps: int = 256
    """Levels of noise on the way from noise to a sample."""
    churn: float = 80.0
    """Noise that is added anew while sampling; 0 samples deterministically."""
    heun: bool = True
    """Sample by Heun's method, two calls of the network a step, instead of Euler's."""
    trajectories: PositiveInt = 8192
    """Synthetic trajectories that are sampled at a time."""
    rollout: int = 128
    """Steps of each."""
    normalise_guidance: bool = True
    """Guide along the gradient's direction, whatever its length."""
    denoised_guidance: bool = True
    """Ask the policy at the clean trajectory that the noisy one is taken for, instead of at the noisy one."""
    guidance_bump: float = 0.3
    """Of the guidance's strength, which falls along a line: height of the half sine on top."""

    def check(self) -> None:
        super().check()
        require(self.window >= 2, f"window must be at least 2, got {self.window}")
        require(0 <= self.held_out < 1, f"held_out must be in [0, 1), got {self.held_out}")
        require(0 <= self.warmup < 1, f"warmup must be in [0, 1), got {self.warmup}")
        require(0 <= self.ema < 1, f"ema must be in [0, 1), got {self.ema}")

    def setup(self, task: Task) -> None:
        sampling = ("sampling_steps", "churn", "heun", "trajectories", "rollout")
        guidance = ("normalise_guidance", "denoised_guidance", "guidance_bump")
        settings = {name: getattr(self, name) for name in ("network", "step_norm", "window", *sampling, *guidance)}
        self.model = TrajectoryDiffusion(task.observation_space, task.action_space, **settings)
        self.model.fit(task.dataset.steps)  # type: ignore[attr-defined]
        self.denoiser = copy.deepcopy(self.model.denoiser)
        self.model.requires_grad_(False)  # it samples by the average of parameters
        self.optimiser = Adam(self.denoiser.parameters(), self.lr)
        self.starts, self.held_out_starts = self._split(task.dataset)  # type: ignore[attr-defined]

    def policy(self) -> TrajectoryDiffusion:
        """The model, as it is saved."""
        return self.model

    def step(self) -> Metrics:
        generator = self.streams.generator("update", self.counters.updates)
        self.optimiser.lr = self.lr * self._schedule()
        metrics = self.optimiser.descend(self.loss, *self._drawn(self.starts, generator))
        self.counters.updates += 1
        if self.counters.updates % self.ema_every == 0:
            polyak(self.model.denoiser, self.denoiser, 1 - self.ema)
        if self.counters.updates % HELD_OUT_EVERY == 0 and len(self.held_out_starts) > 0:
            clean, sigma, noise = self._drawn(self.held_out_starts, generator)
            with torch.no_grad():
                denoised = self.model.denoiser(clean + sigma.view(-1, 1, 1) * noise, sigma)
            metrics["loss/held_out"] = denoising_loss(denoised, clean, sigma)
        return metrics

    def loss(self, clean: Tensor, sigma: Tensor, noise: Tensor) -> tuple[Tensor, Outputs]:
        """The denoising loss of trajectories `(B, T, D)` at levels `(B,)` with standard normal `noise` `(B, T, D)`."""
        denoised = self.denoiser(clean + sigma.view(-1, 1, 1) * noise, sigma)
        loss = denoising_loss(denoised, clean, sigma)
        return loss, {"loss/denoising": loss}

    def _drawn(self, starts: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Some of the windows that begin at `starts`, a level for each, and noise."""
        first = starts[torch.randint(len(starts), (self.batch_size,), generator=generator)]
        clean = self.model.encode(windows(self.task.dataset, first, self.window))
        sigma = training_levels(torch.randn(self.batch_size, generator=generator))
        return clean, sigma, torch.randn(clean.shape, generator=generator)

    def _schedule(self) -> float:
        """The factor on the learning rate now: from 0.1 to 1 along a line, then to 0 along a cosine."""
        spent = 1 - self.remaining
        if spent < self.warmup:
            return 0.1 + 0.9 * spent / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (spent - self.warmup) / (1 - self.warmup)))

    def _split(self, dataset: Dataset) -> tuple[Tensor, Tensor]:
        """First rows of windows to learn from, and of those in held-out episodes."""
        starts = window_starts(dataset, self.window, self.stride)
        count = len(dataset.starts)
        held_out = torch.zeros(count, dtype=torch.bool)
        order = torch.randperm(count, generator=self.streams.generator("held_out"))
        held_out[order[: int(self.held_out * count)]] = True
        apart = held_out[dataset.episode[starts]]
        if bool(apart.all()):
            raise BadDataset(
                f"all windows of {dataset.name} are in held-out episodes; lower held_out={self.held_out:g}"
            )
        return starts[~apart], starts[apart]
