"""OPPO: labels that say which of two windows is better are enough to steer a policy, without a reward learnt from them.

Small scale: Pendulum-v1 with equal parts of random, medium and expert data. Given z*, the policy must earn more than the data do
in the mean; with all labels turned round, less than their worst third; and how near a window's embedding is to z* must rank
windows as the teacher does. What z* at unit length and the best episode's embedding earn, cloning and the decision transformer
with true returns are reported; nothing must hold there.
Paper scale: locomotion data of three qualities, and what the paper says of its parts.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, arms_of, estimate
from palaestra.core.seeding import seed_for
from palaestra.data.preferences import ScriptedTeacher
from palaestra.data.windows import windows
from palaestra.methods.offline.bc import BC
from palaestra.methods.offline.dt import DT
from palaestra.methods.offline.oppo import OPPO
from palaestra.runs.run import Run

MIXTURE = "local:Pendulum-v1/random-medium-expert"
RANKED = 2000
"""Windows whose embeddings are compared with their scores."""
CORRELATION = 0.9
"""What the rank correlation must exceed."""
OTHERS: tuple[Literal["unit", "best"], ...] = ("unit", "best")
"""What the policy is given besides z*, once it is trained."""


def small_arms() -> dict[str, Arm]:
    transformer: dict[str, Any] = {"batch_size": 48, "width": 64, "layers": 2, "heads": 2, "dropout": 0.0}
    transformer |= {"lr": 5e-4, "warmup": 1, "horizon": 200}
    embedding: dict[str, Any] = {"embedding": 4, "pooling": "mean", "z_lr": 1e-2, "foresee": 100, "average": True}
    settings = {**transformer, **embedding, "preference_weight": 0.25, "norm_weight": 0.1}
    methods = {
        "oppo": OPPO(**settings),
        "oppo flipped": OPPO(**settings, flip=1.0),
        "dt": DT(**transformer),
        "bc": BC(lr=1e-3, network=(64, 64), normalise_obs=True),
    }
    return arms_of(methods, MIXTURE, updates=1_500, seeds=3)


def small_verdict(records: Records) -> list[Finding]:
    right = estimate(np.min, records.measure("oppo", "rank correlation"))
    wrong = estimate(np.max, records.measure("oppo flipped", "rank correlation"))
    return [
        above(
            "given z*, the policy earns more than the data do in the mean",
            records.final("oppo"),
            records.measure("oppo", "data, mean"),
        ),
        above(
            "with all labels turned round, it earns less than the worst third of the data",
            records.measure("oppo", "data, worst third"),
            records.final("oppo flipped"),
        ),
        Finding(
            f"nearness to z* ranks windows as their rewards do, with a correlation above {CORRELATION} on every seed",
            right.value > CORRELATION,
            {"smallest": right},
        ),
        Finding(
            f"and against them where labels are turned round, below -{CORRELATION}",
            wrong.value < -CORRELATION,
            {"largest": wrong},
        ),
    ]


def measure(run: Run) -> dict[str, float]:
    """What the data earned and, of OPPO, how nearness to z* ranks windows, how long z* is, and what other embeddings earn."""
    method, task = run.method, run.task
    dataset = task.dataset  # type: ignore[attr-defined]
    returns = dataset.returns.sort().values
    found = {"data, mean": float(returns.mean()), "data, worst third": float(returns[: len(returns) // 3].mean())}
    if not isinstance(method, OPPO):
        return found
    row = torch.randint(len(dataset), (RANKED,), generator=torch.Generator().manual_seed(seed_for(run.seed, "ranked")))
    with torch.no_grad():
        apart = (method.encoder(windows(dataset, row, method.window)) - method.z).norm(dim=1)
    worth = ScriptedTeacher(method.foresee, method.average).scores(dataset)[row]
    found |= {"rank correlation": rank_correlation(-apart, worth), "length of z*": float(method.z.detach().norm())}
    trained = method.condition
    for other in OTHERS:
        method.condition = other
        played = task.evaluate(method.policy(), 10, seed_for(run.seed, "evaluate", method.counters.updates))
        found[f"return with {other}"] = played.mean
    method.condition = trained
    return found


def rank_correlation(x: Tensor, y: Tensor) -> float:
    """Spearman's: the correlation of the ranks of `x` and `y`, `(N,)`."""
    ranks = torch.stack([x.argsort().argsort(), y.argsort().argsort()]).double()
    return float(torch.corrcoef(ranks)[0, 1])


PAPER_ENVS = ("Hopper-v5", "Walker2d-v5", "HalfCheetah-v5")
PAPER_QUALITIES = ("medium", "medium-replay", "medium-expert")


def paper_arms() -> dict[str, Arm]:
    arms: dict[str, Arm] = {}
    for env in PAPER_ENVS:
        for quality in PAPER_QUALITIES:
            own = {
                "preference_weight": 0.25,
                "norm_weight": 0.05,
                "z_lr": 1e-2,
            }  # the released code's, for this one alone
            tuned: dict[str, Any] = own if (env, quality) == ("HalfCheetah-v5", "medium-expert") else {}
            methods = {
                "oppo": OPPO(**tuned),
                "oppo two-stage": OPPO(**tuned, joint=False),
                "dt": DT(),
                "bc": BC(normalise_obs=True),
            }
            task = f"local:{env}/{quality}"
            arms |= {f"{label} {task}": Arm(m, task, updates=100_000, seeds=5) for label, m in methods.items()}
    return arms


def paper_verdict(records: Records) -> list[Finding]:
    findings = []
    for task in (f"local:{env}/{quality}" for env in PAPER_ENVS for quality in PAPER_QUALITIES):
        ours = records.final(f"oppo {task}")
        findings += [
            above(
                f"{task}: OPPO without rewards ends above the decision transformer with them",
                ours,
                records.final(f"dt {task}"),
            ),
            above(f"{task}: joint training ends above two stages", ours, records.final(f"oppo two-stage {task}")),
            above(
                f"{task}: z* earns more than the embedding of the best episode",
                ours,
                records.measure(f"oppo {task}", "return with best"),
            ),
        ]
    return findings


claim = Claim(
    name="oppo",
    paper=OPPO.paper,
    sentence="Preferences alone shape embeddings of behaviour and find one, z*, under which an imitating policy does better than "
    "the behaviour it imitates.",
    scales={
        "small": Scale("12 short runs on Pendulum-v1, about 15 minutes on two free cores", small_arms(), small_verdict),
        "paper": Scale(
            "180 runs of 100,000 updates on MuJoCo data, about 4 GPU-days; D4RL's own files can stand in for local ones",
            paper_arms(),
            paper_verdict,
        ),
    },
    measure=measure,
)
