"""Exact nearest neighbours among stored vectors: by a KD-tree, or by products of matrices.

Both searches find the same rows, so the choice between them is one of speed alone. A tree looks at a few leaves where rows
crowd near a surface of few dimensions and queries lie near rows; a product looks at all rows, however they lie, and at
nearly the speed of the processor. Measured in `benchmarks/neighbours.py`; what came out is in docs/methods/prdc.md.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from palaestra.core.errors import BadDataset, Diverged, require

Search = Literal["auto", "tree", "products"]
TREE_DIMENSIONS = 32
"""Up to this many a tree is the faster one on a CPU."""
LEAF = 16
"""Rows in a leaf of the tree."""
BLOCK = 64
"""Rows of which only the nearest is remembered until all have been seen."""
CHUNK = 16 * BLOCK
"""Rows per product, so that the distances stay in the cache."""
MOST = 1 << 12
"""Pairs of a query and a block that are looked at again at once."""
ROUNDING = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}
"""Of a product's factors, by `torch.get_float32_matmul_precision()`."""


class NearestPairs:
    """The nearest of `N` stored rows by Euclidean distance, exactly; of equally near ones any.

    `keys` `(N, d)` are kept, not copied. `search` forces one of the two ways; "auto" takes a tree on a CPU, up to
    `TREE_DIMENSIONS`, where SciPy is there (the extra `offline`).

    Raises:
        BadDataset: a key is not finite.
    """

    def __init__(self, keys: Tensor, search: Search = "auto"):
        require(search in ("auto", "tree", "products"), f"search must be auto, tree or products, got {search!r}")
        if not bool(torch.isfinite(keys).all()):
            row = int((~torch.isfinite(keys).all(1)).nonzero()[0])
            raise BadDataset(f"row {row} is not finite, so that nothing can be near it")
        self.keys = keys
        suits = not keys.is_cuda and keys.shape[1] <= TREE_DIMENSIONS and importlib.util.find_spec("scipy") is not None
        self.search = search if search != "auto" else "tree" if suits else "products"
        self._index = (_Tree if self.search == "tree" else _Products)(keys)

    def __len__(self) -> int:
        return len(self.keys)

    @torch.no_grad()
    def query(self, q: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Distance to, and row of, the k-th nearest key of every query `(B, d)`: `(B,)` and `(B,)`.

        Raises:
            BadSetting: k is not in 1 … N - 1.
            Diverged: a query is not finite.
        """
        require(1 <= k < len(self), f"k must be between 1 and {len(self) - 1}, one less than there are rows, got {k}")
        if not bool(torch.isfinite(q).all()):
            raise Diverged("a vector whose nearest neighbour is sought is not finite")
        index = self._index.query(q, k)
        return (self.keys[index] - q).norm(dim=1), index

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the index is a function of its keys."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""


class _Tree:
    """A KD-tree in the principal axes of the keys: rotations keep distances, and boxes along these axes prune best."""

    def __init__(self, keys: Tensor):
        from scipy.spatial import cKDTree

        rows = keys.double()
        self.centre = rows.mean(0)
        rows = rows - self.centre
        self.axes = torch.linalg.eigh(rows.T @ rows).eigenvectors
        self.tree = cKDTree((rows @ self.axes).numpy(), leafsize=LEAF)

    def query(self, q: Tensor, k: int) -> Tensor:
        rotated = (q.double() - self.centre) @ self.axes
        _, index = self.tree.query(rotated.numpy(), k=[k], workers=torch.get_num_threads())
        return torch.from_numpy(index[:, 0])


class _Products:
    """All distances, in single precision by products of matrices, then in double precision where rounding leaves a doubt.

    |x - q|^2 / 2 = |q|^2 / 2 + (|x|^2 / 2 - q.x). Of the bracket the minima over blocks of rows are kept. Their k-th smallest is
    not below the bracket of the k-th nearest row, so that this row and all nearer ones are in blocks whose minimum exceeds it
    by no more than twice the rounding error: (d + 4) u (|q| + max |x|)^2 bounds that for rounding to a relative u.
    """

    def __init__(self, keys: Tensor):
        self.keys, self.centre = keys, keys.mean(0)
        rows = keys - self.centre
        self.longest = rows.norm(dim=1).max()
        missing = -len(rows) % BLOCK
        self.rows = F.pad(rows, (0, 0, 0, missing)).split(CHUNK)
        self.half = F.pad(rows.square().sum(1) / 2, (0, missing), value=torch.inf).unsqueeze(1).split(CHUNK)

    def query(self, q: Tensor, k: int) -> Tensor:
        centred = q - self.centre
        found = [
            torch.addmm(half, rows, centred.T, alpha=-1).unflatten(0, (-1, BLOCK)).amin(1)
            for rows, half in zip(self.rows, self.half, strict=True)
        ]
        minima = torch.cat(found)  # (blocks, B)
        unit = ROUNDING[torch.get_float32_matmul_precision()]
        doubt = (q.shape[1] + 4) * unit * (centred.norm(dim=1) + self.longest).square()
        if k == 1:
            enough = minima.amin(0) + doubt
        else:
            enough = minima.kthvalue(k, dim=0).values + doubt if k <= len(minima) else torch.full_like(doubt, torch.inf)
        query, block = (minima <= enough).T.nonzero(as_tuple=True)
        if len(query) > MOST and len(q) > 1:  # many rows are equally near
            return torch.cat([self.query(part, k) for part in q.tensor_split(2)])
        return self._exact(q, k, query, block)

    def _exact(self, q: Tensor, k: int, query: Tensor, block: Tensor) -> Tensor:
        """The k-th nearest of the rows in the blocks that each query is paired with, `(B,)`."""
        row = block.unsqueeze(1) * BLOCK + torch.arange(BLOCK, device=q.device)
        real = row < len(self.keys)
        row = row.where(real, 0)
        apart = (self.keys[row].double() - q[query].double().unsqueeze(1)).square().sum(2).where(real, torch.inf)
        count = query.bincount(minlength=len(q))
        first = count.cumsum(0) - count
        place = torch.arange(len(query), device=q.device) - first[query]
        table = apart.new_full((len(q), int(count.max()), BLOCK), torch.inf)
        table[query, place] = apart
        nearest = table.flatten(1).kthvalue(k, dim=1).indices
        return row[first + nearest // BLOCK, nearest % BLOCK]
