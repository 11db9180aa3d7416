"""Training in real processes, which tests kill."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from palaestra.runs import checkpoint

SCRIPT = """
import json, sys
import palaestra as pal
from palaestra.core.method import make_method
order = json.loads(sys.argv[1])
try:
    pal.train(make_method(order.pop("method"), order.pop("settings")), **order)
except pal.PalaestraError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
PATIENCE = 600.0


def order(method: str, settings: dict[str, Any], task: str, steps: int, **engine: Any) -> dict[str, Any]:
    """What to train, as `start` takes it; logs and saves often."""
    return {
        "method": method,
        "settings": settings,
        "task": task,
        "steps": steps,
        "tensorboard": False,
        "evaluate_every": steps // 2,
        "evaluate_episodes": 1,
        "log_every": steps // 40,
        "checkpoint_every": steps // 9,
        **engine,
    }


def start(what: dict[str, Any], folder: str, **more: Any) -> subprocess.Popen[str]:
    """Train in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps({**what, "out": folder, **more})],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a process that should succeed; its standard output."""
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return out


def wait_for_rows(process: subprocess.Popen[str], folder: str, count: int) -> None:
    """Wait until the run has logged so many rows."""
    path, end = Path(folder) / "metrics.jsonl", time.monotonic() + PATIENCE
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "the run does not get on"
        time.sleep(0.001)


def fingerprint(folder: str | Path) -> dict[str, str]:
    """The hash of every file that equal runs must share byte for byte."""
    folder = Path(folder)
    newest = checkpoint.newest(folder / "checkpoints")
    assert newest is not None
    files = [
        folder / "metrics.jsonl",
        *folder.glob("answers.jsonl"),
        *folder.glob("tallies.json"),
        *(folder / "policy").glob("*.safetensors"),
        folder / "policy" / "policy.json",
        newest / "state.safetensors",
        newest / "state.json",
    ]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
