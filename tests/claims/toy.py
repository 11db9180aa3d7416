"""A claim small enough to reproduce in a test: PPO balances a pole for at least one step."""

from __future__ import annotations

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, difference, mean
from palaestra.methods.online.ppo import PPO
from palaestra.runs.run import Run

TINY = PPO(network=(8,), num_envs=2, rollout_steps=16, minibatch=16, epochs=1)
ARMS = {"plain": Arm(TINY, "CartPole-v1", steps=64, seeds=2), "other": Arm(TINY, "CartPole-v1", steps=64, seeds=1)}


def measure(run: Run) -> dict[str, float]:
    return {"iterations": float(run.method.iteration)}


def verdict(records: Records) -> list[Finding]:
    plain = records.final("plain")
    return [Finding("the pole stands for a step", bool(plain.min() >= 1), {"return": mean(plain)})]


def impossible(records: Records) -> list[Finding]:
    gap = difference(records.final("plain"), records.final("other"))
    return [*verdict(records), Finding("plain beats itself by 10,000", gap.value > 10_000, {"gap": gap})]


claim = Claim(
    name="toy",
    paper=PPO.paper,
    sentence="A pole can be balanced.",
    scales={"small": Scale("seconds", ARMS, verdict), "paper": Scale("seconds", ARMS, impossible)},
    measure=measure,
)
