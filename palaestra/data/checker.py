"""A dataset checker that explains in words what is wrong with logged data, and what to do about it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palaestra.core import spaces
from palaestra.core.experience import tree_leaves, tree_map
from palaestra.data.dataset import Dataset
from palaestra.data.encoding import ROUNDING
from palaestra.data.measures import distinct_steps

CHUNK = 1 << 18
"""Rows that are looked at together."""
AT_LIMIT = 0.9
"""Share of steps with an action at its limit beyond which it looks clipped, or meant as an index."""
UNUSED = 0.1
"""Share of its range that an action must use."""
FAR = 100.0
"""Deviations from the mean, and size, beyond which an observation's number looks like a mark for something missing."""
SCALES = 1e3
"""Ratio of the largest to the smallest deviation of an observation's numbers that calls for normalisation."""
STILL = 0.9
"""Share of steps that lead to the same observation, from which on actions seem to do nothing."""
RARE = 0.05
"""Share of the possible actions that must occur."""
REPEATED = 0.05
"""Share of repeated steps from which on they are worth a word."""


@dataclass
class Numbers:
    """What a column of numbers is like, `(d,)` each in float64."""

    low: Tensor
    high: Tensor
    mean: Tensor
    deviation: Tensor
    broken: int | None
    """The first row that is not finite."""


def check_dataset(dataset: Dataset) -> list[str]:
    """What is wrong with a dataset: one sentence per finding, with what to do; an empty list if nothing is."""
    check = _Check(dataset)
    broken = list(check.finite())
    return broken or [
        finding for part in (check.actions, check.steps, check.episodes, check.values) for finding in part()
    ]


def numbers(column: Tensor) -> Numbers:
    """Range, mean and deviation of every number in a column `(N, …)`, read a piece at a time."""
    rows = column.reshape(len(column), -1)
    width = rows.shape[1]
    low, high = torch.full((width,), torch.inf).double(), torch.full((width,), -torch.inf).double()
    total, square = torch.zeros(width).double(), torch.zeros(width).double()
    shift = rows[0].double().nan_to_num(0, 0, 0)  # close to the mean, so that squares do not swallow the deviation
    for i, part in enumerate(rows.split(CHUNK)):
        values = part.double()
        if not bool(torch.isfinite(values).all()):
            row = int((~torch.isfinite(values)).any(1).nonzero()[0])
            return Numbers(low, high, total, square, i * CHUNK + row)
        low, high = torch.minimum(low, values.amin(0)), torch.maximum(high, values.amax(0))
        total += (values - shift).sum(0)
        square += (values - shift).square().sum(0)
    mean = total / len(rows)
    return Numbers(low, high, mean + shift, (square / len(rows) - mean.square()).clamp(min=0).sqrt(), None)


class _Check:
    def __init__(self, dataset: Dataset):
        self.dataset, self.size = dataset, len(dataset)
        self.columns = {
            name: numbers(leaf)
            for column in ("obs", "next_obs", "action", "reward")
            for name, leaf in _leaves(getattr(dataset.steps, column), column)
        }

    def finite(self) -> Iterator[str]:
        for name, column in self.columns.items():
            if column.broken is not None:
                yield (
                    f"{name} is NaN or infinite in row {column.broken}; leave that episode out, or mend the log: one such number "
                    "spoils all that is learnt"
                )

    def actions(self) -> Iterator[str]:
        """Actions that a policy could not take, or that were meant otherwise."""
        action, space = self.dataset.steps.action, self.dataset.action_space
        column = self.columns["action"]
        if not action.is_floating_point():
            count = torch.as_tensor(space.n if spaces.kind(space) == "discrete" else space.nvec)
            if bool((column.low < 0).any()) or bool((column.high >= count).any()):
                yield f"an action is outside {space}; give the true number of actions"
            elif bool((column.low == column.high).all()):
                yield f"the action is always {int(column.low[0])}; there is nothing to choose from"
            elif spaces.kind(space) == "discrete" and len(taken := action.unique()) < RARE * space.n:
                yield f"only {len(taken)} of {space.n} actions occur; if they are labels, number those that occur from 0"
            return
        outside = torch.maximum(column.high, -column.low) > 1 + ROUNDING
        if bool(outside.any()):
            yield (
                f"actions leave {space} (number {_list(outside)}); a policy could not repeat them: give the true limits, or clip "
                "them where they are logged"
            )
        at_limit = torch.zeros(len(column.low)).double()
        whole = torch.ones(len(column.low), dtype=torch.bool)
        box = spaces.ActionBox(space)
        for part in action.split(CHUNK):
            at_limit += (part.abs() >= 1).double().sum(0)
            raw = part.double() * torch.from_numpy(box.half).double() + torch.from_numpy(box.center).double()
            whole &= ((raw - raw.round()).abs() < 1e-5).all(0)
        varies = column.high > column.low
        still = ~varies
        if bool(still.any()):
            yield f"action {_list(still)} never changes; leave it out, or log what was done"
        if bool((whole & varies).all()):
            yield "all actions are whole numbers; if they are indices, import them as such (one column 'action')"
            return
        clipped = (at_limit / self.size > AT_LIMIT) & varies
        if bool(clipped.any()):
            share = float((at_limit / self.size)[clipped].max())
            yield (
                f"action {_list(clipped)} is at a limit in {share:.0%} of the steps; if it was clipped there, widen the limits "
                "to those of the controller"
            )
        small = (torch.maximum(column.high, -column.low) < UNUSED) & varies
        if bool(small.any()):
            yield (
                f"action {_list(small)} uses less than {UNUSED:.0%} of its range; see whether it was scaled already, and give "
                "the limits in its own unit"
            )

    def steps(self) -> Iterator[str]:
        """Rows that do not follow from each other."""
        data = self.dataset
        torn, first, still = 0, -1, 0
        inside = torch.ones(self.size, dtype=torch.bool)
        inside[data.stops - 1] = False
        for start in range(0, self.size, CHUNK):
            stop = min(start + CHUNK, self.size)
            here = data.steps[start:stop]
            still += int(_same(here.obs, here.next_obs).sum())
            follows = _same(
                _head(here.next_obs, stop - start - (stop == self.size)), data.steps[start + 1 : stop + 1].obs
            )
            seam = (~follows & inside[start : start + len(follows)]).nonzero().flatten()
            if len(seam) and first < 0:
                first = start + int(seam[0])
            torn += len(seam)
        if torn:
            yield (
                f"{torn} steps inside episodes do not lead to the observation of the next row, first row {first} of episode "
                f"{int(data.episode[first])}: boundaries are missing there (set truncated), or rows are out of order"
            )
        if still > STILL * self.size:
            yield (
                f"{still / self.size:.0%} of the steps lead to the very observation they began with; see whether next_obs was "
                "logged before the action took effect"
            )
        copies = self.size - distinct_steps(data)
        again = _repeated_episodes(data)
        if again:
            yield (
                f"{again} of {len(data.starts)} episodes are copies of others, so that these count for more; leave them out "
                "unless that is meant"
            )
        elif copies > REPEATED * self.size:
            yield (
                f"{copies / self.size:.0%} of the steps are copies of others, so that these count for more; leave them out "
                "unless that is meant"
            )

    def episodes(self) -> Iterator[str]:
        """Ends that were logged as something else, and returns that tell nothing apart."""
        data = self.dataset
        lasts, lengths = data.stops - 1, data.lengths
        over, cut = data.steps.terminated[lasts] > 0, data.steps.truncated[lasts] > 0
        count, longest = len(lengths), int(lengths.max())
        ends = int(((data.steps.terminated + data.steps.truncated) > 0).sum())
        if ends > count:
            yield f"{ends - count} steps inside episodes are terminated or truncated; let a new episode begin after each"
        at_longest = int((over & (lengths == longest)).sum())
        if count == 1:
            yield "there is one episode only; log several, or mark where they end"
        if not bool(cut.any()) and at_longest >= max(3, 0.05 * count) and longest > 1:
            yield (
                f"{at_longest} of {count} episodes are terminated after exactly {longest} steps and none later, as a time limit "
                "would do it; if it was one, log truncated there, since values are not bootstrapped where the task ended"
            )
        if bool((over & cut).any()):
            yield f"{int((over & cut).sum())} episodes are terminated and truncated at once; terminated decides"
        if not bool(over.any()) and count >= 10 and len(lengths.unique()) > count // 2:
            yield (
                f"no episode is terminated, but they are truncated after {len(lengths.unique())} different numbers of steps; if "
                "the task itself ended them (a fall, a goal), log terminated there"
            )
        reward = self.columns["reward"]
        if float(reward.low) == float(reward.high) and (float(reward.low) == 0 or len(lengths.unique()) == 1):
            yield f"all rewards are {float(reward.low):g} and all episodes equally good; log what tells better from worse"
        elif count > 1 and float(data.returns.max() - data.returns.min()) == 0:
            yield "all episodes have the same return; weighting them changes nothing, and what is better must show within them"
        if data.references is not None and data.references[1] <= data.references[0]:
            yield f"the references {data.references[0]:g} and {data.references[1]:g} are not in order; give random, then expert"

    def values(self) -> Iterator[str]:
        """Numbers that look like mistakes."""
        yield from self._outside(self.dataset.observation_space, "obs")
        for name, leaf in _leaves(self.dataset.steps.obs, "obs"):
            column = self.columns[name]
            if not leaf.is_floating_point() or len(column.low) > 1000:
                continue
            far = torch.maximum(column.high - column.mean, column.mean - column.low) / column.deviation.clamp(min=1e-12)
            odd = (far > FAR) & (torch.maximum(column.high, -column.low) > FAR)
            if bool(odd.any()):
                i = int(odd.nonzero()[0])
                yield (
                    f"{name} number {i} reaches from {float(column.low[i]):g} to {float(column.high[i]):g}, {float(far[i]):.0f} "
                    "deviations from its mean; see whether that was measured or marks something missing"
                )
            constant = column.low == column.high
            if bool(constant.any()):
                yield f"{name} number {_list(constant)} never changes; leave it out, or see why it was not logged"
            varied = column.deviation[~constant]
            if len(varied) and float(varied.max()) > SCALES * min(1.0, float(varied.min())):
                yield (
                    f"the numbers of {name} vary on very different scales (deviations from {float(varied.min()):.2g} to "
                    f"{float(varied.max()):.2g}); train with normalise_obs=True, or log them in other units"
                )

    def _outside(self, space: Any, name: str) -> Iterator[str]:
        if spaces.kind(space) in ("dict", "tuple"):
            for key, sub in spaces.children(space).items():
                yield from self._outside(sub, f"{name}['{key}']")
        elif spaces.kind(space) == "box":
            column = self.columns[name]
            low, high = (torch.from_numpy(np.asarray(x, np.float64).reshape(-1)) for x in (space.low, space.high))
            slack = 1e-4 * torch.maximum(low.abs(), high.abs()).nan_to_num(posinf=0.0) + 1e-6
            outside = (column.low < low - slack) | (column.high > high + slack)
            if bool(outside.any()):
                yield f"{name} number {_list(outside)} leaves its space {space}; see whether it was logged in another unit"


def _leaves(tree: Any, name: str) -> list[tuple[str, Tensor]]:
    if isinstance(tree, dict):
        return [leaf for key, part in tree.items() for leaf in _leaves(part, f"{name}['{key}']")]
    return [(name, tree)]


def _head(tree: Any, rows: int) -> Any:
    return tree_map(lambda x: x[:rows], tree)


def _same(a: Any, b: Any) -> Tensor:
    """Which rows hold the same observation, up to rounding, `(n,)`."""
    same = [
        torch.isclose(x, y, rtol=1e-5, atol=1e-6) if x.is_floating_point() else x == y
        for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True)
    ]
    return torch.stack([part.reshape(len(part), math.prod(part.shape[1:])).all(1) for part in same]).all(0)


def _repeated_episodes(dataset: Dataset) -> int:
    seen = set()
    for episode in dataset.episodes():
        digest = hashlib.blake2b(digest_size=16)
        for leaf in (*tree_leaves(episode.obs), episode.action, episode.reward):
            digest.update(np.ascontiguousarray(leaf.numpy()).data)
        seen.add(digest.digest())
    return len(dataset.starts) - len(seen)


def _list(chosen: Tensor) -> str:
    """Which numbers, counted from 0, at most a few of them."""
    found = chosen.nonzero().flatten().tolist()
    return ", ".join(map(str, found[:8])) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
