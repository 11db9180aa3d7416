"""`palaestra demo`: three papers' methods side by side on the pendulum, in about five minutes on two cores.

Everything that the methods have in common is equal: networks, learning rate, batch, warm-up, one update per environment
step. What is left is what the papers disagree about. Small networks keep it short; three seeds show the spread but
prove little, and the table says so.
"""

from __future__ import annotations

from pathlib import Path

from palaestra.cli.compare import finish
from palaestra.cli.settings import Parser, read_number
from palaestra.core.method import make_method

TASK = "Pendulum-v1"
METHODS = ("sac", "dsac-t", "mdpo-off")
EQUAL = {
    "network": (64, 64),
    "activation": "relu",
    "lr": 1e-3,
    "gamma": 0.99,
    "batch_size": 128,
    "warmup_steps": 1000,
    "num_envs": 1,
    "steps_per_round": 1,
    "updates_per_round": 1,
}
STEPS, SEEDS = 12_000, 3


def demo(arguments: list[str]) -> int:
    """`palaestra demo [--out DIR]`."""
    parser = Parser("demo", f"Compare {', '.join(METHODS)} on {TASK}: {STEPS:,} steps, {SEEDS} seeds, equal settings.")
    parser.add_argument("--out", metavar="DIR", default="demo", help="where runs and report go [demo]")
    parser.add_argument("--workers", metavar="N", help="how many runs train at a time [one per core]")
    given = parser.read(arguments)
    out = Path(given["out"])
    print(f"{', '.join(METHODS)} on {TASK}: {STEPS:,} steps, {SEEDS} seeds, equal settings", flush=True)
    return finish(
        [make_method(name, EQUAL) for name in METHODS],
        TASK,
        out,
        out / "report.html",
        "palaestra demo",
        seeds=SEEDS,
        steps=STEPS,
        workers=read_number(given.get("workers"), int, "--workers"),
        evaluate_every=STEPS // 12,
        checkpoint_every=STEPS // 4,
        tensorboard=False,
    )
