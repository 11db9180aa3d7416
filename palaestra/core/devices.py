"""Where language models are: on a GPU, where there is one, or in the processor's memory.

What a model is given, and what it says, is with the processor, whatever the model is on: so no method has to know.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from palaestra.core.errors import BadSetting

AUTO = "auto"
"""A GPU, if there is one."""

_named = AUTO


@contextmanager
def placing(name: str) -> Iterator[None]:
    """Put language models that are made meanwhile on a device: auto, cpu, cuda, cuda:1, or another that torch knows.

    Of processes that train together, each has a GPU of its own where the number of one is not said.

    Raises:
        BadSetting: there is no such device.
    """
    global _named
    before, _named = _named, name
    try:
        device = models_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        yield
    finally:
        _named = before


def models_device() -> torch.device:
    """Where a language model belongs that is made now."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if _named == AUTO else _named
    try:
        device = torch.device(f"{name}:{os.environ.get('LOCAL_RANK', 0)}" if name == "cuda" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch says so where it was built without
        reason = str(error).splitlines()[0]
        raise BadSetting(
            f"there is no device {name} here ({reason}); give auto, cpu, or cuda where there is a GPU"
        ) from None
    return device
