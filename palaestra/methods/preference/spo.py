"""Self-play preference optimisation, SPO (Swamy et al., arXiv 2401.04056): an agent that plays against its own recent past.

A judge compares each new trajectory with a queue of the agent's own, and the mean of its answers is that trajectory's reward,
spread evenly over its steps. There is no model of rewards and no adversary: as the game is symmetric, one learner without
regret, averaged over time, finds the policy that no other beats (the Minimax Winner), whether or not preferences have an order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.method import Paper
from palaestra.core.task import Task
from palaestra.methods.online.ppo import PPO
from palaestra.methods.online.sac import SAC
from palaestra.methods.preference.judged import Judged
from palaestra.methods.preference.trajectories import Memory, repeated, stacked
from palaestra.objectives.trajectories import at_the_end, spread_evenly


@dataclass
class SelfPlay(Judged):
    """SPO for any agent; algorithm 2."""

    paper: ClassVar[Paper] = Paper(
        "A Minimaximalist Approach to Reinforcement Learning from Human Feedback", 2024, "2401.04056"
    )

    queue: int = 10
    """Trajectories of the agent's own that each new one is compared with, the latest."""
    evenly: bool = True
    """Spread a trajectory's reward evenly over its steps; otherwise it all comes with the last."""

    def check(self) -> None:
        super().check()
        require(self.queue >= 1, f"queue must hold at least 1 trajectory, got {self.queue}")

    def setup(self, task: Task) -> None:
        super().setup(task)
        self.rivals = Memory(self.queue)

    def least(self) -> int:
        return max(self.queue, 2)

    def score(self, found: list[Experience]) -> Experience:
        new, steps = self.seen(found), stacked(found)
        score = self.against_queue(new)
        self.rivals.add(new)
        reward = (
            spread_evenly(score, steps.mask, steps.terminated, self.horizon, self.gamma)  # type: ignore[attr-defined]
            if self.evenly
            else at_the_end(score, steps.mask)
        )
        return steps.replace(reward=reward)

    def against_queue(self, new: Experience) -> Tensor:
        """(1 / |Q|) sum over q in Q of P(xi, q) for each of `n` trajectories `(H, n)`, `(n,)`.

        The first of all are compared with each other. None is ever compared with itself.
        """
        count = new.mask.shape[1]
        rivals = self.rivals.held
        first = rivals is None
        rivals = new[:, : self.least()] if rivals is None else rivals
        total, games = torch.zeros(2, count)
        for j in range(rivals.mask.shape[1]):
            mine = torch.arange(count)
            mine = mine[mine != j] if first else mine
            total[mine] += self.ask(new[:, mine], repeated(rivals[:, j : j + 1], len(mine)))
            games[mine] += 1
        return total / games


@dataclass
class SPO(SelfPlay, PPO):
    """Self-play preference optimisation by proximal policy optimisation, for all kinds of actions."""

    summary: ClassVar[str] = "self-play preference optimisation: win rates against one's own past as PPO's reward"


@dataclass
class SPOSAC(SelfPlay, SAC):
    """Self-play preference optimisation by soft actor-critic, the paper's agent of continuous control."""

    summary: ClassVar[str] = (
        "self-play preference optimisation: win rates against one's own past as soft actor-critic's reward"
    )
