"""The rollout source: experience from acting in environments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palaestra.core.experience import Experience
from palaestra.core.method import Counters
from palaestra.core.policy import Policy
from palaestra.core.seeding import Streams
from palaestra.envs.vector import Envs, Step

RECENT = 100
"""How many finished episodes the running mean return covers."""


class Rollout:
    """Acts in `envs` and returns what happened, `(T, N)`; keeps episode returns and the count of real steps."""

    def __init__(self, envs: Envs, streams: Streams, counters: Counters):
        self.envs, self.streams, self.counters = envs, streams, counters
        count = len(envs)
        self.calls = 0
        self.carry: Any = None
        self.running_return, self.running_length = np.zeros(count), np.zeros(count, np.int64)
        self.recent: list[float] = []
        self.recent_lengths: list[int] = []
        self.metrics: dict[str, Tensor] = {}
        """Mean return and length of the most recent training episodes, once there are any."""

    @torch.no_grad()
    def collect(self, policy: Policy, steps: int, random: bool = False) -> Experience:
        """Act for `steps` steps of every environment, `(steps, N)`; with `random`, uniformly over the action space.

        `truncated` also marks no step at the end of the batch: an episode that goes on is bootstrapped through
        `next_obs`, which is always the true one.
        """
        envs = self.envs
        generator = self.streams.generator("act", self.calls)
        self.calls += 1
        if self.carry is None:
            self.carry = policy.initial_carry(len(envs), generator)
        rows: list[tuple[Any, ...]] = []
        with _threads_for(len(envs)):
            for _ in range(steps):
                obs, action_mask = envs.obs, envs.action_mask
                if random:
                    action, logp = policy.random_action(len(envs), generator, action_mask), None
                else:
                    action, logp, self.carry = policy.act(obs, self.carry, generator=generator, action_mask=action_mask)
                step = envs.step(policy.env_action(action))
                rows.append((obs, action, logp, action_mask, *step))
                self._count(step)
                if self.carry is not None:
                    self.carry = policy.rewarded(self.carry, step.reward)
                    self.carry = policy.restarted(self.carry, (step.terminated + step.truncated) > 0, generator)
        obs, action, logp, action_mask, next_obs, reward, terminated, truncated, mask, next_action_mask = (
            _stack([row[i] for row in rows]) for i in range(10)
        )
        return Experience(
            obs=obs,
            action=action,
            logp=logp,
            action_mask=action_mask,
            next_action_mask=next_action_mask,
            next_obs=next_obs,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            mask=mask,
        )

    def at_boundary(self) -> None:
        """Let the environments start fresh episodes where they could not be restored in the middle of one."""
        before = self.envs.obs
        self.envs.at_boundary()
        if self.envs.obs is not before:
            self._forget_episodes()

    def state_dict(self) -> dict[str, Any]:
        return {
            "envs": self.envs.state_dict(),
            "calls": self.calls,
            "carry": self.carry,
            "running_return": torch.from_numpy(self.running_return.copy()),
            "running_length": torch.from_numpy(self.running_length.copy()),
            "recent": list(self.recent),
            "recent_lengths": list(self.recent_lengths),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        restored = self.envs.load_state_dict(state["envs"])
        for name in ("calls", "carry", "recent", "recent_lengths"):
            setattr(self, name, state[name])
        self.running_return = state["running_return"].numpy().copy()
        self.running_length = state["running_length"].numpy().copy()
        if not restored:
            self._forget_episodes()
        self._summarise()

    def _forget_episodes(self) -> None:
        self.running_return[:], self.running_length[:] = 0.0, 0
        self.carry = None

    def _count(self, step: Step) -> None:
        mask, ended = step.mask.numpy(), step.terminated.numpy() + step.truncated.numpy()
        self.running_return += step.reward.numpy() * mask
        self.running_length += mask.astype(np.int64)
        self.counters.steps += int(mask.sum())
        if not ended.any():
            return
        for i in np.flatnonzero(ended):
            self.recent.append(float(self.running_return[i]))
            self.recent_lengths.append(int(self.running_length[i]))
            self.counters.episodes += 1
            self.running_return[i], self.running_length[i] = 0.0, 0
        self.recent, self.recent_lengths = self.recent[-RECENT:], self.recent_lengths[-RECENT:]
        self._summarise()

    def _summarise(self) -> None:
        if self.recent:
            self.metrics = {
                "rollout/return": torch.tensor(sum(self.recent) / len(self.recent)),
                "rollout/length": torch.tensor(sum(self.recent_lengths) / len(self.recent_lengths)),
            }


@contextmanager
def _threads_for(rows: int) -> Iterator[None]:
    """One thread while acting on few rows: waking a second one costs more than the whole forward pass."""
    before = torch.get_num_threads()
    if rows < 64:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _stack(items: list[Any]) -> Any:
    first = items[0]
    if first is None:
        return None
    if isinstance(first, dict):
        return {key: _stack([item[key] for item in items]) for key in first}
    return torch.stack(items) if len(items) > 1 else first.unsqueeze(0)
