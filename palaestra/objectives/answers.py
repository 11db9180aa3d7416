"""Answers as rows, and the losses that are made of them: what each needs, how it adds up tokens, and over what it is counted.

A scored answer, a preference pair, a ranked list and the k samples of a prompt are views of the same rows. A loss of single
answers takes all rows, one of pairs two selections of them, `dpo(answers.at(better), answers.at(worse), beta=0.1)`, and one of
lists all rows with their `group`. All give one number per unit, and what is descended is their mean.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from palaestra.core.errors import require, unknown

Unit = Literal["answer", "pair", "list"]
Reduction = Literal["sum", "mean", "sum and mean"]


class Tokens(NamedTuple):
    """The tokens of n answers, packed, `(N,)` each."""

    logp: Tensor
    answer: Tensor  # which answer a token belongs to, 0 … n - 1
    ref_logp: Tensor | None = None


@dataclass(frozen=True)
class Answers:
    """n answers, `(n,)` each. Log-probabilities are sums over all tokens of an answer, its end included, at temperature 1.

    A field that a loss does not need may stay out; a loss that needs it refuses to go without. Only `logp`, `kl` and the tokens'
    `logp` carry a gradient, and for a reward model's loss `score`.
    """

    logp: Tensor = None  # type: ignore[assignment]  # log pi(y|x)
    ref_logp: Tensor = None  # type: ignore[assignment]  # log pi_ref(y|x), under the reference
    prev_logp: Tensor = None  # type: ignore[assignment]  # log pi_t(y|x), under the policy that the round began with
    length: Tensor = None  # type: ignore[assignment]  # number of tokens
    score: Tensor = None  # type: ignore[assignment]  # R(x, y), or the expected win rate where a loss says so
    advantage: Tensor = None  # type: ignore[assignment]  # R(x, y) - V(x)
    kl: Tensor = None  # type: ignore[assignment]  # a divergence from the reference, as the loss defines it
    desirable: Tensor = None  # type: ignore[assignment]  # whether a single answer is good, bool
    group: Tensor = None  # type: ignore[assignment]  # which prompt it answers: any whole numbers
    tokens: Tokens = None  # type: ignore[assignment]

    @property
    def ratio(self) -> Tensor:
        """log pi(y|x) / pi_ref(y|x)."""
        return self.logp - self.ref_logp

    @property
    def mean_logp(self) -> Tensor:
        """log pi(y|x) per token."""
        return self.logp / self.length

    def at(self, index: Tensor) -> Answers:
        """The answers that `index` selects, in its order and as often as it says, without their single tokens."""
        rows = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "tokens"}
        return Answers(**{name: x[index] for name, x in rows.items() if x is not None})

    def replace(self, **fields: Any) -> Answers:
        """A copy with some fields set."""
        return dataclasses.replace(self, **fields)


@dataclass(frozen=True)
class Loss:
    """A loss of preference learning: a pure function, and what is to be known of it before it is called."""

    name: str
    function: Callable[..., Tensor]
    unit: Unit
    """What it is counted over: called with the answers, `(n,)` losses; with the chosen and the rejected ones of n pairs, `(n,)`
    losses; with answers and their groups, a loss for each list, in the order of the groups' numbers."""
    needs: tuple[str, ...]
    """The fields of `Answers` without which it cannot be found."""
    reduction: Reduction
    """Whether log-probabilities of answers enter as sums over tokens or as means: part of what the loss is."""
    source: str
    """Who proposed it, and when."""
    arxiv: str | None = None

    @property
    def equation(self) -> str:
        """What one unit's loss is, in a line."""
        return (self.function.__doc__ or "").partition("\n\n")[0].replace("\n    ", " ")

    def __call__(self, *sides: Answers, **settings: Any) -> Tensor:
        """The loss of each unit.

        Raises:
            BadSetting: an input is missing or not finite, or a setting is out of range.
        """
        for side in sides:
            for need in self.needs:
                given = getattr(side, need)
                require(given is not None, f"the loss '{self.name}' needs {need} of its answers")
                given = given.logp if need == "tokens" else given
                finite = bool(torch.isfinite(given).all())
                require(finite, f"the loss '{self.name}' was given {need} that is not finite")
                filled = need != "length" or bool((given > 0).all())
                require(filled, f"the loss '{self.name}' divides by lengths, and an answer is empty")
        return self.function(*sides, **settings)


LOSSES: dict[str, Loss] = {}
"""All losses of answers by name, as far as their modules are imported; `loss_named` and `losses` import them all."""


def loss(
    unit: Unit, needs: str, reduction: Reduction, source: str, arxiv: str | None = None
) -> Callable[[Callable[..., Tensor]], Loss]:
    """Declare a function of answers a loss, under its own name with hyphens; `needs` are names with spaces between."""

    def declare(function: Callable[..., Tensor]) -> Loss:
        name = function.__name__.replace("_", "-")
        declared = Loss(name, function, unit, tuple(needs.split()), reduction, source, arxiv)
        object.__setattr__(declared, "__doc__", function.__doc__)
        LOSSES[name] = declared
        return declared

    return declare


def losses() -> dict[str, Loss]:
    """All losses of answers by name."""
    for module in ("direct", "lists", "offline_text"):
        importlib.import_module(f"palaestra.objectives.{module}")
    return LOSSES


def loss_named(name: str) -> Loss:
    """The loss of that name.

    Raises:
        UnknownName: there is none.
    """
    if name not in (known := losses()):
        raise unknown("loss", name, known)
    return known[name]
