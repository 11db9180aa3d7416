"""Running normalisation: part of the policy (observations) or of the method (rewards), and saved with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningNorm(nn.Module):
    """Standardises by the mean and variance of all data seen so far (parallel update of Chan et al.)."""

    mean: Tensor
    var: Tensor
    count: Tensor
    deviation: Tensor

    def __init__(self, size: int, clip: float = 10.0, epsilon: float = 1e-8):
        super().__init__()
        self.clip, self.epsilon = clip, epsilon
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("var", torch.ones(size))
        self.register_buffer("count", torch.tensor(1e-4))
        self.register_buffer("deviation", torch.ones(size))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take `(B, size)` new values into account."""
        batch_mean, batch_var, n = x.mean(0), x.var(0, unbiased=False), len(x)
        total = self.count + n
        delta = batch_mean - self.mean
        moment = self.var * self.count + batch_var * n + delta.square() * self.count * n / total
        self.mean += delta * n / total
        self.var.copy_(moment / total)
        self.count.copy_(total)
        self.deviation.copy_((self.var + self.epsilon).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.deviation).clamp(-self.clip, self.clip)


class RunningMoments(nn.Module):
    """The mean of all numbers seen so far and their deviation, with n - 1 below (parallel update of Chan et al.)."""

    count: Tensor
    mean: Tensor
    moment: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("count", "mean", "moment"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take new numbers `(n,)` into account."""
        x = x.double()
        total = self.count + len(x)
        delta = x.mean() - self.mean
        self.moment += (x - x.mean()).square().sum() + delta.square() * self.count * len(x) / total
        self.mean += delta * len(x) / total
        self.count.copy_(total)

    @property
    def deviation(self) -> Tensor:
        """1 until two numbers were seen that differ."""
        return torch.where(self.moment > 0, (self.moment / (self.count - 1).clamp(min=1)).sqrt(), 1.0)


class ReturnScale(nn.Module):
    """Divides rewards by the running standard deviation of the discounted return, as in OpenAI Baselines' VecNormalize."""

    running: Tensor

    def __init__(self, envs: int, gamma: float, clip: float = 10.0):
        super().__init__()
        self.gamma, self.clip = gamma, clip
        self.norm = RunningNorm(1)
        self.register_buffer("running", torch.zeros(envs))

    @torch.no_grad()
    def forward(self, reward: Tensor, done: Tensor) -> Tensor:
        """`(T, N)` rewards and episode ends in order; updates the statistics with them, then scales."""
        returns = torch.empty_like(reward)
        for t in range(len(reward)):
            self.running = self.running * self.gamma + reward[t]
            returns[t] = self.running
            self.running = self.running * (1 - done[t])
        self.norm.update(returns.reshape(-1, 1))
        return (reward / self.norm.deviation).clamp(-self.clip, self.clip)
