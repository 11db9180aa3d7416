"""Train methods with the processor and elsewhere and compare them: `python -m tests.language.trained_elsewhere grpo`."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

import palaestra as pal
from palaestra.core import registry
from tests.language import elsewhere

TASKS = {"unigrpo": "squares", "mdm-sft": "squares"}
MODELS = {"unigrpo": "mdm-16x1"}
SMALL = {"prompts": 4, "group": 2, "batch_size": 4, "minibatches": 1}


def trained(name: str, device: str, folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics of two updates, with a checkpoint after each."""
    method = registry.method_class(name)
    known = method.__dataclass_fields__
    given = {setting: value for setting, value in SMALL.items() if setting in known}
    given["model"] = MODELS.get(name, "tiny-16x1")
    run = pal.train(
        method(**given),
        TASKS.get(name, "noisy-sort"),
        updates=2,
        out=folder,
        device=device,
        log_every=1,
        checkpoint_every=1,
        evaluate_episodes=4,
        threads=1,
        tensorboard=False,
        quiet=True,
    )
    assert run.policy.model.device.type == device
    return list(run.metrics)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        with TemporaryDirectory() as scratch:
            here, there = (trained(name, device, Path(scratch) / device) for device in ("cpu", elsewhere.NAME))
        assert len(here) == len(there)
        for own, other in zip(here, there, strict=True):
            differ = [key for key in own if other[key] != pytest.approx(own[key], rel=1e-3, abs=1e-4, nan_ok=True)]
            assert not differ, f"{name} differs elsewhere in {', '.join(differ)}"
        print(name, "agrees", flush=True)
