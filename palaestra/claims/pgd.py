"""PGD: guidance brings the actions of synthetic trajectories to the policy's, and leaves the dynamics plausible.

Small scale: Pendulum-v1 with data of a half-trained policy. The model's trajectories are guided to the mean action of the
behaviour's best snapshot, with several strengths; the dynamics are checked by the pendulum's own equations. Recorded besides:
the same error of an autoregressive one-step model that follows that policy. TD3+BC then learns from real steps, and from
unguided and guided synthetic ones.
Paper scale: locomotion data, TD3+BC and IQL.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, estimate, mean
from palaestra.core.experience import Experience
from palaestra.core.policy import Acted, Policy, load_policy
from palaestra.core.seeding import Streams
from palaestra.data.behaviour import Behaviour, recipe
from palaestra.data.dataset import Dataset
from palaestra.data.dynamics import OneStepModel
from palaestra.envs.task import EnvTask
from palaestra.methods.diffusion.pgd import PGD
from palaestra.methods.offline.iql import IQL
from palaestra.methods.offline.offline import Offline
from palaestra.methods.offline.td3_bc import TD3BC
from palaestra.nets.trajectory_diffusion import TrajectoryDiffusion
from palaestra.runs.engine import Engine
from palaestra.runs.run import Run

STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
NEARER, WORSE = 5.0, 3.0
"""By which factor the distance to the policy must fall from strength 0 to 1, and how much the dynamics' error may rise."""
SOURCES: dict[str, float | None] = {"real": None, "unguided": 0.0, "guided": 1.0}
"""What agents learn from: recorded steps alone, or synthetic ones, guided so strongly."""

TASK = "Pendulum-v1"
SMALL = PGD(
    window=16,
    stride=4,
    batch_size=64,
    lr=1e-3,
    warmup=0.0,
    network=(48, 96),
    ema=0.99,
    ema_every=1,
    sampling_steps=32,
    churn=0.0,
    trajectories=512,
    rollout=15,
)
SMALL_AGENT: dict[str, Any] = {"lr": 1e-3, "network": (64, 64), "gamma": 0.98, "refresh_every": 1_000}


class MeanAction(Policy):
    """The greedy actions of another policy, without a density."""

    def __init__(self, policy: Policy):
        super().__init__(policy.observation_space, policy.action_space)
        self.policy = policy

    def act(self, obs: Any, carry: Any = None, **how: Any) -> Acted:
        return Acted(self.policy.act(obs, greedy=True).action, None, carry)


def small_measure(run: Run) -> dict[str, float]:
    """How far generated actions are from the best snapshot's, how wrong generated dynamics are, and returns of agents."""
    assert run.method is not None
    model = run.method.policy()
    assert isinstance(model, TrajectoryDiffusion)
    data: Dataset = run.task.dataset  # type: ignore[attr-defined]
    policy = best_policy(data)
    found = {"distance, real": distance(data.steps, policy)}
    for strength in STRENGTHS:
        made = model.sample(policy, strength, generator=Streams(run.seed).generator("measure")).flatten()
        found[f"distance, {strength:g}"] = distance(made, policy)
        found[f"dynamics, {strength:g}"] = pendulum_error(made)
    found["dynamics, autoregressive"] = pendulum_error(autoregressive(data, policy, SMALL.rollout))
    return found | agents(run, {"td3-bc": TD3BC(**SMALL_AGENT)}, updates=4_000)


def best_policy(data: Dataset) -> Policy:
    """The best snapshot of the behaviour that local data are from."""
    assert data.env is not None
    task = EnvTask(data.env)
    folder = Behaviour(task, recipe(task), data.about["seed"]).run.folder
    best, _ = max(data.about["snapshots"], key=lambda snapshot: snapshot[1])
    return MeanAction(load_policy(folder / "snapshots" / f"{best:012d}"))


@torch.no_grad()
def distance(steps: Experience, policy: Policy) -> float:
    """The mean squared distance of actions from the policy's."""
    return float((steps.action - policy.act(steps.obs, greedy=True).action).square().mean())


def pendulum_error(steps: Experience) -> float:
    """The mean squared error of next observations by the equations of Gymnasium's pendulum, speeds in units of their limit."""
    error = steps.next_obs - pendulum(steps.obs, steps.action)
    return float((error * torch.tensor([1.0, 1.0, 1 / 8])).square().mean())


def pendulum(obs: Tensor, action: Tensor) -> Tensor:
    """The next observations (cos, sin, speed) of Pendulum-v1 from observations `(B, 3)` and actions `(B, 1)` in [-1, 1]."""
    angle, speed, torque = torch.atan2(obs[:, 1], obs[:, 0]), obs[:, 2], 2 * action[:, 0]
    speed = (speed + (15 * angle.sin() + 3 * torque) * 0.05).clamp(-8, 8)
    angle = angle + 0.05 * speed
    return torch.stack([angle.cos(), angle.sin(), speed], 1)


@torch.no_grad()
def autoregressive(data: Dataset, policy: Policy, steps: int) -> Experience:
    """The policy's trajectories in a one-step model of the data, from states of the data: `(B,)` steps, without rewards."""
    model = OneStepModel(data, Streams(0).generator("dynamics"))
    rows = torch.linspace(0, len(data) - 1, SMALL.trajectories, dtype=torch.float64).long()
    obs, made = data.steps.obs[rows], []
    for _ in range(steps):
        action = policy.act(obs, greedy=True).action
        following = model.step(obs, action)
        made.append(Experience(obs=obs, action=action, next_obs=following))
        obs = following
    return Experience.cat(made)


def agents(run: Run, hosts: dict[str, Offline], updates: int) -> dict[str, float]:
    """The return at the end of every host with every source, each trained in a run of its own below this one."""
    found = {}
    for name, host in hosts.items():
        for source, guidance in SOURCES.items():
            settings = {} if guidance is None else {"synthetic": str(run.folder), "guidance": guidance}
            method = type(host)(**{**host.config, **settings})
            engine = Engine(evaluate_every=0, evaluate_episodes=50, tensorboard=False, quiet=True)
            folder = run.folder / "agents" / f"{name}-{source}"
            trained = Run(method, run.task, updates=updates, seed=run.seed, folder=folder, engine=engine).train(
                resume=True
            )
            found[f"{name}, {source}"] = trained.metrics[-1]["evaluation/return"]
    return found


def small_verdict(records: Records) -> list[Finding]:
    def measure(name: str) -> np.ndarray:
        return records.measure(TASK, name)

    fall = measure("distance, 0") / measure("distance, 1")
    rise = measure("dynamics, 1") / measure("dynamics, 0")
    return [
        Finding(
            f"{TASK}: on every seed guidance of strength 1 brings actions more than {NEARER:g} times nearer to the policy's",
            bool((fall > NEARER).all()),
            {"factor": mean(fall), "smallest": estimate(np.min, fall)},
        ),
        Finding(
            f"{TASK}: on every seed it makes the dynamics' error less than {WORSE:g} times as large",
            bool((rise < WORSE).all()),
            {"factor": mean(rise), "largest": estimate(np.max, rise)},
        ),
        *gains(records, TASK, "td3-bc"),
    ]


def gains(records: Records, arm: str, host: str) -> list[Finding]:
    """That guided synthetic steps teach more than unguided ones, and these more than the real ones, on average."""
    returns = {source: records.measure(arm, f"{host}, {source}") for source in SOURCES}
    return [
        above(
            f"{arm}: {host} ends above on {better} steps, compared with {worse} ones", returns[better], returns[worse]
        )
        for better, worse in (("guided", "unguided"), ("unguided", "real"))
    ]


PAPER_TASKS = [
    f"local:{env}/{quality}"
    for env in ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
    for quality in ("random", "medium", "medium-replay")
]


def paper_measure(run: Run) -> dict[str, float]:
    return agents(run, {"td3-bc": TD3BC(), "iql": IQL()}, updates=1_000_000)


def measure(run: Run) -> dict[str, float]:
    """What the scale that a run belongs to asks for."""
    return small_measure(run) if run.config == SMALL else paper_measure(run)


claim = Claim(
    name="pgd",
    paper=PGD.paper,
    sentence="Guided by a policy, a diffusion model of the data's trajectories generates actions like the policy's and dynamics "
    "like the data's; agents learn more from such steps than from unguided ones.",
    scales={
        "small": Scale(
            "3 diffusion models and 9 agents on Pendulum-v1, about 15 minutes on two free cores",
            {TASK: Arm(SMALL, f"local:{TASK}/medium/seed{{seed}}", updates=4_000, seeds=3)},
            small_verdict,
        ),
        "paper": Scale(
            "36 diffusion models of up to 4 million updates and 216 agents of a million; on processors alone out of reach",
            {task: Arm(PGD(), f"{task}/seed{{seed}}", updates=4_000_000, seeds=4) for task in PAPER_TASKS},
            lambda records: [
                f for task in PAPER_TASKS for host in ("td3-bc", "iql") for f in gains(records, task, host)
            ],
        ),
    },
    measure=measure,
)
