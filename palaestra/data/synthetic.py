"""Synthetic data: a model of trajectories as a source of steps, made anew now and then for the policy that learns from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from palaestra.core import files
from palaestra.core.errors import BadCheckpoint, BadSetting, Unsupported
from palaestra.core.experience import Experience
from palaestra.core.policy import Policy, load_policy
from palaestra.core.seeding import Streams
from palaestra.data.dataset import COLUMNS, Dataset
from palaestra.data.dynamics import OneStepModel
from palaestra.nets.trajectory_diffusion import TrajectoryDiffusion, action_logp

LOOK = 2_048
"""Steps that likelihoods and errors are averaged over."""


class Synthetic:
    """Minibatches of steps that a trajectory model makes up, guided to the actions of the policy that a `refresh` is given.

    `run` is the folder of a run of pgd, `real` the data that what it makes is compared with, `guidance` the strength.

    Raises:
        BadSetting: the folder holds no such run.
        Unsupported: its model is of other spaces.
    """

    def __init__(self, run: str | Path, real: Dataset, streams: Streams, guidance: float):
        self.model, self.digest = _open(Path(run))
        for what in ("observation_space", "action_space"):
            ours, theirs = getattr(self.model, what), getattr(real, what)
            if ours != theirs:
                name = what.replace("_", " ")
                raise Unsupported(f"the model in {run} has the {name} {ours}, but {real.name} has {theirs}")
        self.streams, self.guidance = streams, guidance
        self.real = _some(real.steps.only(*COLUMNS))
        self.dynamics = OneStepModel(real, streams.generator("dynamics"))
        self.refreshed, self.drawn = 0, 0
        self.steps, self.unguided = Experience(), Experience()

    def refresh(self, policy: Policy | None = None) -> dict[str, Tensor]:
        """Replace all steps by new ones, guided if there is a policy; returns how they compare with real ones."""
        generator = self.streams.generator("synthesise", self.refreshed)
        self.steps = self.model.sample(policy, self.guidance, generator=generator).flatten()
        if self.refreshed == 0:
            self.unguided = _some(self.steps)
        self.refreshed += 1
        return self._compared(policy)

    def sample(self, batch: int) -> Experience:
        """The next minibatch of `batch` steps, with the columns of a dataset."""
        generator = self.streams.generator("synthetic", self.drawn)
        self.drawn += 1
        return self.steps.take(torch.randint(len(self.steps), (batch,), generator=generator))

    def state_dict(self) -> dict[str, Any]:
        parts = {name: dict(getattr(self, name).items()) for name in ("steps", "unguided")}
        return {"model": self.digest, "refreshed": self.refreshed, "drawn": self.drawn, **parts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["model"] != self.digest:
            raise BadCheckpoint(
                "the model that synthetic steps are from has changed since this run began; start it again"
            )
        self.refreshed, self.drawn = state["refreshed"], state["drawn"]
        self.steps, self.unguided = Experience(**state["steps"]), Experience(**state["unguided"])

    @torch.no_grad()
    def _compared(self, policy: Policy | None) -> dict[str, Tensor]:
        """Share of ends; of the columns that vary in the data, ends apart, the largest distance of a mean from the real one, in
        deviations, and the ratio of deviations that is farthest from 1; one-step errors; and, with a policy, the mean
        log-likelihood of actions."""
        steps = _some(self.steps)
        real, made = (self.model.encode(some)[:, :-1] for some in (self.real, steps))
        varies = real.std(0) > 0
        real, made = real[:, varies], made[:, varies]
        ratios = made.std(0) / real.std(0)
        metrics = {
            "synthetic/done": self.steps.terminated.mean(),
            "synthetic/mean": ((made.mean(0) - real.mean(0)) / real.std(0)).abs().max(),
            "synthetic/deviation": ratios[ratios.log().abs().argmax()],
            "dynamics/real": self.dynamics.floor,
            "dynamics/synthetic": self.dynamics.error(steps),
        }
        if policy is not None:
            compared = {"synthetic": steps, "unguided": self.unguided, "real": self.real}
            metrics |= {f"logp/{name}": action_logp(policy, s.obs, s.action).mean() for name, s in compared.items()}
        return metrics


def _some(steps: Experience) -> Experience:
    """At most `LOOK` steps, evenly spaced."""
    count = min(LOOK, len(steps))
    return steps.take(torch.linspace(0, len(steps) - 1, count, dtype=torch.float64).long())


def _open(run: Path) -> tuple[TrajectoryDiffusion, str]:
    """The model in a run's folder, and a digest of it."""
    if not (run / "policy" / "policy.safetensors").exists():
        raise BadSetting(
            f"synthetic names the folder of a run of pgd, but there is none in {run}; train one: palaestra train pgd --out {run}"
        )
    model = load_policy(run)
    if not isinstance(model, TrajectoryDiffusion):
        raise BadSetting(
            f"synthetic names the folder of a run of pgd, but {run} is of a method that generates no steps"
        )
    return model.requires_grad_(False), files.sha256(files.read_bytes(run / "policy" / "policy.safetensors"))
