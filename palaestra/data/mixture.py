"""Mixtures: whole episodes of good data among others, up to a share of the steps (Hong et al., arXiv 2306.13085)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from palaestra.core.errors import BadDataset, require
from palaestra.core.experience import Experience
from palaestra.core.hints import fits
from palaestra.core.seeding import Streams
from palaestra.data.dataset import Dataset, open_dataset
from palaestra.data.episodes import assemble
from palaestra.data.load import fresh_folder, require_room, stored_folder

COPIES = 1000
"""How often a mixture may hold every step, on average."""


def mix(
    good: Dataset, rest: Dataset, share: float, *, name: str, size: int | None = None, seed: int = 0, save: bool = True
) -> Dataset:
    """Whole episodes of two datasets, drawn with replacement: steps of `good` until they exceed `share` of `size` (by default
    as many as `good` has), then of `rest` until there are more than `size`. With `save` it is kept under `root()`.

    Raises:
        BadSetting: `size` is out of range, or more than there is room for.
        BadDataset: the two have other spaces.
    """
    require(0 < share < 1, f"share must be between 0 and 1, got {share}")
    most = COPIES * (len(good) + len(rest))
    require(
        size is None or (fits(size, int) and 1 <= size <= most),
        f"size must be a whole number from 1 to {most:,}, {COPIES} times what both hold, got {size}",
    )
    for what in ("observation_space", "action_space"):
        ours, theirs = getattr(good, what), getattr(rest, what)
        if ours != theirs:
            raise BadDataset(f"{good.name} has the {what.replace('_', ' ')} {ours}, but {rest.name} has {theirs}")
    require_room(size or len(good), good)
    folder = fresh_folder(name) if save else stored_folder(name)
    episodes = mixture(list(good.episodes()), list(rest.episodes()), share, size or len(good), seed)
    mixed = {"good": good.name, "rest": rest.name, "share": share, "seed": seed}
    dataset = assemble(
        name,
        episodes,
        good,
        env=good.env,
        env_kwargs=good.env_kwargs,
        references=good.references,
        about={"mixed": mixed},
    )
    return open_dataset(dataset.save(folder)) if save else dataset


def mixture(
    good: Sequence[Experience], rest: Sequence[Experience], share: float, size: int, seed: int
) -> list[Experience]:
    """Episodes drawn with replacement from `good` until their steps exceed `share * size`, then from `rest` until all exceed
    `size`."""
    chosen: list[Experience] = []
    total = 0
    for pool, limit, stream in ((good, share * size, "good"), (rest, size, "poor")):
        generator = Streams(seed).generator(f"mixture/{stream}")
        while total <= limit:
            chosen.append(pool[int(torch.randint(len(pool), (1,), generator=generator))])
            total += len(chosen[-1])
    return chosen
