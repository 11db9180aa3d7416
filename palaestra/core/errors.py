"""Errors that a user can act on: one line that says what was wrong and what would fit."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from palaestra.core.synonyms import meant_by


class PalaestraError(Exception):
    """Base of every error palaestra raises on purpose; the command line prints it as one line."""


class UnknownName(PalaestraError):
    """A method, task, setting or file that does not exist; the message names the nearest that does."""


class Unsupported(PalaestraError):
    """A combination that makes no sense, such as a continuous-action method on a discrete task."""


class BadSetting(PalaestraError):
    """A setting outside its range, or two settings that contradict each other."""


class BadEnvironment(PalaestraError):
    """An environment that broke its contract: NaN, a wrong shape, a wrong dtype."""


class BadDataset(PalaestraError):
    """Logged data that cannot be learnt from: missing boundaries, NaN, actions outside their space."""


class BadCheckpoint(PalaestraError):
    """A checkpoint or policy file that is torn, altered or of another configuration."""


EXPLODED = 1e12
"""Any logged quantity of this size or beyond counts as divergence."""


class Diverged(PalaestraError):
    """Training produced a non-finite or exploding quantity; the message names the first one."""


class Unscored(PalaestraError):
    """Answers of which none could be scored, or was left to learn from."""


class Untrusted(PalaestraError):
    """A run that brings code of its own, which is executed only for who trusts it."""


class RunBusy(PalaestraError):
    """Another process is using the run directory."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for an unknown `name`, naming the one that another library calls so, or else the nearest, and all if few."""
    known = sorted(known)
    turned = [other for other in known if sorted(other) == sorted(name)]  # else rl is too far from lr
    near = meant_by(name, known) or next(iter(turned + difflib.get_close_matches(name, known, n=1, cutoff=0.6)), None)
    hint = f"; did you mean '{near}'?" if near else ""
    listing = f" (known: {', '.join(known)})" if len(known) <= 25 else ""
    return UnknownName(f"unknown {kind} '{name}'{hint}{listing}")


def require(condition: bool, message: str) -> None:
    """Raise `BadSetting(message)` unless `condition` holds."""
    if not condition:
        raise BadSetting(message)
