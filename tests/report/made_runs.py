"""Run folders as the engine writes them, without any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml


def write_run(
    folder: str | Path,
    returns: list[float],
    *,
    method: str = "sac",
    task: str = "Pendulum-v1",
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    steps: int = 1000,
    status: str = "finished",
    reason: str = "",
    command: str = "palaestra train",
    extra: dict[str, float] | None = None,
    kwargs: dict[str, Any] | None = None,
    kind: str = "env",
) -> Path:
    """A run whose evaluations, evenly spread over `steps`, had these returns; `extra` is logged at each of them too."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    places = [steps * (i + 1) // len(returns) for i in range(len(returns))]
    config = {
        "palaestra": "0.1.0",
        "method": method[:1000],
        "settings": settings or {"lr": 3e-4},
        "task": {"kind": kind, "spec": task, "kwargs": kwargs or {}},
        "budget": {"steps": steps, "updates": None},
        "seed": seed,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    record = {
        "status": status,
        "reason": reason,
        "method": method,
        "task": task,
        "seed": seed,
        "counters": {"steps": steps, "updates": 2 * steps, "episodes": 5, "evaluation_steps": 70},
        "seconds": 10.0 + seed,
        "threads": 1,
        "command": command,
        "palaestra": "0.1.0",
        "commit": "abc123",
        "python": "3.11",
        "torch": "2.13",
        "numpy": "2.0",
        "machine": "a machine",
    }
    (folder / "run.json").write_text(json.dumps(record))
    rows = [
        {"steps": place, "updates": 2 * place, "evaluation/return": value, **(extra or {})}
        for place, value in zip(places, returns)
    ]
    times = [{"clock": place, "seconds": (10.0 + seed) * place / steps} for place in places]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in times))
    return folder


def write_comparison(root: str | Path, task: str = "Pendulum-v1", seeds: int = 5) -> Path:
    """Two methods, `good` above `bad` on every seed."""
    for seed in range(seeds):
        write_run(Path(root) / task / "good" / f"seed{seed}", [1, 5, 9 + seed], method="good", task=task, seed=seed)
        write_run(Path(root) / task / "bad" / f"seed{seed}", [1, 2, 3 - seed], method="bad", task=task, seed=seed)
    return Path(root)
