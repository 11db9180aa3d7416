"""Base of agents that learn from comparisons of whole trajectories: their rewards are made from a judge's answers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from palaestra.core import spaces
from palaestra.core.errors import Unsupported, require
from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeInt
from palaestra.core.method import Method, Metrics
from palaestra.core.policy import Policy
from palaestra.core.task import Task
from palaestra.methods.online.on_policy import OnPolicy
from palaestra.methods.preference.trajectories import Comparisons, ScoredRollout, stacked
from palaestra.nets.ensemble import Ensemble

SEEN = ("obs", "action", "reward", "next_obs", "mask")
"""The fields of a trajectory that a judge sees, with the environment's rewards, which the agent never sees."""


@dataclass
class Judged(Method):
    """Mixin for an agent: the rewards of its rollout are replaced by those that a subclass gives in `score`."""

    family: ClassVar[str] = "preference"

    iterates: NonNegativeInt = 0
    """Past policies that are kept, evenly over training; their mixture is then deployed, one of which plays an episode."""

    def check(self) -> None:
        super().check()
        scaled, standardised = (getattr(self, name, False) for name in ("normalise_reward", "normalise_obs"))
        require(not scaled, f"{self.name} makes rewards that have their scale; leave normalise_reward out")
        require(
            not (self.iterates and standardised),
            "past policies would share the last one's statistics; leave normalise_obs out",
        )

    def setup(self, task: Task) -> None:
        if not hasattr(task, "preference"):
            raise Unsupported(
                f"{self.name} learns from comparisons, and {task.name} has no judge; take --task judged --task.env {task.name}"
            )
        super().setup(task)
        self.horizon = task.steps
        self.ask = Comparisons(task.preference, task.sampled, self.streams, self.counters)
        self.rollout: Any = ScoredRollout(
            self.rollout, self.score, self.horizon, self.least(), waits=isinstance(self, OnPolicy)
        )
        self.kept: list[Tensor] = []

    def least(self) -> int:
        """How many trajectories there must be before the first can be scored."""
        return 2

    def score(self, found: list[Experience]) -> Experience:
        """Trajectories, `(T,)` each, as the agent learns from them, `(T, n)`."""
        raise NotImplementedError

    def seen(self, found: list[Experience]) -> Experience:
        """Trajectories as a judge sees them, `(H, n)`: their actions are those that the environment took."""
        whole = stacked([steps.only(*SEEN) for steps in found], self.horizon)
        taken = self.behaviour().env_action(whole.action.flatten(0, 1))
        action = spaces.encode_action(self.task.action_space, taken)
        return whole.replace(action=action.unflatten(0, whole.mask.shape))

    def step(self) -> Metrics:
        before = self.due()
        metrics = super().step()
        if self.due() > before:
            self.kept = [*self.kept, parameters_to_vector(self.behaviour().parameters()).detach()]
        return {**metrics, "preference/judge_calls": torch.tensor(float(self.counters.judge_calls))}

    def due(self) -> int:
        """How many policies should have been kept by now."""
        return int(self.budget.spent(self.counters) * self.iterates + 1e-9)

    def behaviour(self) -> Policy:
        """The policy that learns, and acts in training."""
        return super().policy()

    def policy(self) -> Any:
        if not self.kept:
            return self.behaviour()
        return self.mixture(self.kept)

    def mixture(self, kept: list[Tensor]) -> Ensemble:
        """Policies with these parameters, each alike to play an episode."""
        return Ensemble.of(
            [self.past(parameters) for parameters in kept], torch.full((len(kept),), 1 / len(kept)).double()
        )

    def past(self, parameters: Tensor) -> Any:
        """The policy with these parameters."""
        policy = copy.deepcopy(self.behaviour())
        vector_to_parameters(parameters, policy.parameters())
        return policy
