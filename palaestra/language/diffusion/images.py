"""Images as tokens: a tokeniser of patches, by k-means, for small images; `magvit` has one for large ones."""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.core.errors import require


class PatchTokeniser:
    """A code for each patch of `size` by `size` pixels, row by row: the nearest of some centres."""

    def __init__(self, centres: Tensor, size: int):
        self.centres, self.size = centres, size  # (codes, 3 * size * size)
        self.codes = len(centres)

    @staticmethod
    def fit(images: Tensor, codes: int, size: int, rounds: int = 20) -> PatchTokeniser:
        """The centres that Lloyd's algorithm finds from a start of patches that are far apart, in order of brightness.

        The start is not random: first the patch nearest to the mean, then always the one farthest from all chosen.
        """
        points = _patches(images, size).flatten(0, 1)
        require(len(points) >= codes, f"{len(points)} patches cannot have {codes} centres")
        chosen = [int((points - points.mean(0)).square().sum(-1).argmin())]
        distance = torch.full((len(points),), torch.inf)
        while len(chosen) < codes:
            distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(-1))
            chosen.append(int(distance.argmax()))
        centres = points[chosen]
        for _ in range(rounds):
            nearest = torch.cdist(points, centres).argmin(-1)
            count = torch.bincount(nearest, minlength=codes)
            total = torch.zeros_like(centres).index_add_(0, nearest, points)
            centres = torch.where(count.unsqueeze(-1) > 0, total / count.clamp(min=1).unsqueeze(-1), centres)
        return PatchTokeniser(centres[centres.mean(-1).argsort(stable=True)], size)

    def encode(self, images: Tensor) -> Tensor:
        return torch.cdist(_patches(images, self.size), self.centres).argmin(-1)

    def decode(self, codes: Tensor) -> Tensor:
        """The centres, side by side in a square."""
        side = round(codes.shape[-1] ** 0.5)
        require(side * side == codes.shape[-1], f"{codes.shape[-1]} codes do not make a square")
        patches = self.centres[codes].unflatten(-1, (3, self.size, self.size)).unflatten(1, (side, side))
        return patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def _patches(images: Tensor, size: int) -> Tensor:
    """The patches of images `(B, 3, H, W)`, row by row, `(B, tokens, 3 * size * size)`."""
    cut = images.unfold(2, size, size).unfold(3, size, size)  # (B, 3, rows, columns, size, size)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(1, 2).flatten(2)
