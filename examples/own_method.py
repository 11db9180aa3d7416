"""A method of your own in a file outside the package: PPO with one equation changed.

python examples/own_method.py
palaestra train examples/own_method.py:SPO --task CartPole-v1 --steps 3e4 --method.clip 0.3
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

import palaestra as pal
from palaestra.core.method import Paper
from palaestra.methods.online.ppo import PPO


@dataclass
class SPO(PPO):
    """PPO with a quadratic penalty in place of the clip."""

    paper: ClassVar[Paper] = Paper("Simple Policy Optimization", 2024, "2401.16025")
    summary: ClassVar[str] = "on-policy, quadratic penalty on the ratio"

    def surrogate(self, logp: Tensor, old_logp: Tensor, advantage: Tensor) -> tuple[Tensor, Tensor]:
        """-mean[ r A - |A| / (2 eps) (r - 1)^2 ], and r = pi/pi_old: its optimum is where the clip would begin to bind.

        Like all that `Adam.descend` goes down it is a function of its inputs, so that it can be compiled (`--compile`).
        """
        ratio = (logp - old_logp).exp()
        return -(ratio * advantage - advantage.abs() / (2 * self.clip) * (ratio - 1).square()).mean(), ratio


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=16_384)
    steps = parser.parse_args().steps

    for method in (pal.PPO(), SPO()):
        run = pal.train(method, "CartPole-v1", steps=steps, out=f"runs/own-method/{method.label}", overwrite=True)
        print(f"{run.title}: return {run.evaluate(episodes=10).mean:.0f}")
