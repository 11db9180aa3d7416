"""What hand-written autograd nodes share."""

from __future__ import annotations

import torch


def once_differentiable() -> None:
    """Called in a hand-written backward pass: refuses to be differentiated again, where the result would be wrong.

    `torch.autograd.function.once_differentiable` does the same at many times the cost.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "this function has a hand-written gradient that cannot be differentiated again; "
            "use MLP.twice_differentiable, or plain operations, where second derivatives are needed"
        )
