"""A policy that reads its last steps: a causal transformer over conditions, observations and actions in turn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from palaestra.core import spaces
from palaestra.core.errors import BadEnvironment, require
from palaestra.core.experience import Experience, tree_leaves, tree_map
from palaestra.core.policy import Acted, Policy
from palaestra.nets.encoders import make_encoder
from palaestra.nets.transformer import StepTokens, Transformer, encoded


class SequenceActor(Policy):
    """a_t = tanh(f(c_{t-K+1}, s_{t-K+1}, a_{t-K+1}, …, c_t, s_t)), the decision transformer (Chen et al. 2021).

    The condition c `(size,)` is a return still to be earned or an embedding of the behaviour that is wanted. What an episode
    begins with is the buffer `condition`; with a `return_scale` every reward, divided by it, is taken off.

    Its memory is the last `window` steps, padded on the left, and how long the episode is: at most `horizon` steps.
    """

    condition: Tensor

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        size: int = 1,
        window: int = 20,
        width: int = 128,
        layers: int = 3,
        heads: int = 1,
        horizon: int = 1000,
        return_scale: float | None = None,
    ):
        super().__init__(observation_space, action_space)
        require(window >= 1 and horizon >= 1, f"window and horizon must be at least 1, got {window} and {horizon}")
        self.box = spaces.ActionBox(action_space)
        self.encoder = make_encoder(observation_space, standardise=True)
        self.tokens = StepTokens((size, self.encoder.size, self.box.size), width, horizon)
        self.transformer = Transformer(width, layers, heads, causal=True)
        self.head = nn.Linear(width, self.box.size)
        self.register_buffer("condition", torch.zeros(size))
        self.window, self.horizon, self.return_scale = window, horizon, return_scale
        self.sizes = {"size": size, "width": width, "layers": layers, "heads": heads}

    def forward(self, windows: Experience, condition: Tensor, keep: Tensor | None = None) -> Tensor:
        """The action after each observation of windows `(B, K)` under conditions `(B, K, size)`, `(B, K, m)` in [-1, 1]."""
        tokens = self.tokens((condition, encoded(self.encoder, windows.obs), windows.action), windows.time)
        out = self.transformer(tokens, windows.mask.repeat_interleave(3, 1), keep)
        return torch.tanh(self.head(out[:, 1::3]))

    def initial_carry(self, batch: int, generator: torch.Generator | None = None) -> dict[str, Any]:
        shape = batch, self.window
        empty = spaces.zeros(self.observation_space, 1)
        return {
            "obs": tree_map(lambda x: x.unsqueeze(1).repeat(*shape, *[1] * (x.dim() - 1)), empty),
            "action": torch.zeros(*shape, self.box.size),
            "condition": torch.zeros(*shape, len(self.condition)),
            "time": torch.zeros(shape, dtype=torch.int64),
            "mask": torch.zeros(shape),
            "steps": torch.zeros(batch, dtype=torch.int64),
            "wanted": self.condition.repeat(batch, 1),
        }

    def act(
        self,
        obs: Any,
        carry: Any = None,
        *,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        action_mask: Any = None,
    ) -> Acted:
        batch = len(tree_leaves(obs)[0])
        carry = self.initial_carry(batch) if carry is None else carry
        if int(carry["steps"].max()) >= self.horizon:
            raise BadEnvironment(
                f"the episode is longer than the {self.horizon} steps that the policy knows; train it with a larger horizon"
            )
        now = {
            "obs": obs,
            "action": torch.zeros(batch, self.box.size),
            "condition": carry["wanted"],
            "time": carry["steps"],
            "mask": torch.ones(batch),
        }
        seen = {name: tree_map(_slid, carry[name], new) for name, new in now.items()}
        condition = seen.pop("condition")
        action = self(Experience(**seen), condition)[:, -1]
        seen["action"][:, -1] = action
        return Acted(action, None, {**carry, **seen, "condition": condition, "steps": carry["steps"] + 1})

    def rewarded(self, carry: Any, reward: Tensor) -> Any:
        if self.return_scale is None:
            return carry
        return {**carry, "wanted": carry["wanted"] - reward.unsqueeze(-1) / self.return_scale}

    def env_action(self, action: Tensor) -> np.ndarray:
        return self.box.to_env(action)

    def settings(self) -> dict[str, Any]:
        return {**self.sizes, "window": self.window, "horizon": self.horizon, "return_scale": self.return_scale}


def _slid(past: Tensor, new: Tensor) -> Tensor:
    """The last steps `(B, K, …)` with the oldest forgotten and `new` `(B, …)` at the end."""
    return torch.cat([past[:, 1:], new.unsqueeze(1)], 1)
