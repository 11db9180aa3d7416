"""Exact nearest neighbours among stored vectors: by a KD-tree, or by products of matrices.

Both ways find the same rows, so that the choice between them is one of speed alone, and no rule makes it well. A tree looks at
a few leaves where rows lie in few dimensions and a query is nearer to one of them than they are to each other; it looks at
nearly all where not, in which case the product of all queries and all rows is many times faster. `benchmarks/neighbours.py`
measures where they cross; docs/methods/prdc.md has its figures. So both are timed now and then.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from palaestra.core.errors import BadDataset, Diverged, require

Search = Literal["auto", "tree", "products"]
LOOK_EVERY = 200
"""Queries between comparisons of the two ways."""
LEAF = 16
"""Rows in a leaf of the tree."""
BLOCK = 64
"""Rows of which only the nearest is remembered until all have been seen."""
CHUNK = {"cpu": 16 * BLOCK, "cuda": 2048 * BLOCK}
"""Rows per product: on a CPU the distances should stay in the cache, on a GPU launches should be few."""
MOST = 1 << 12
"""Pairs of a query and a block that are looked at again at once."""
ROUNDING = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}
"""Of a product's factors, by `torch.get_float32_matmul_precision()`."""


class NearestPairs:
    """The nearest of `N` stored rows by Euclidean distance, exactly; of equally near ones any.

    `keys` `(N, d)` in single precision are kept, not copied. "tree" needs SciPy (the extra `offline`) and a CPU; without
    either, "auto" takes products. If the first `anchored` columns of a query are those of a stored row that the caller can
    name, as PRDC's states are, most queries need no search: see `query`.

    Raises:
        BadDataset: a key is not finite.
    """

    def __init__(self, keys: Tensor, anchored: int = 0, search: Search = "auto"):
        require(search in ("auto", "tree", "products"), f"search must be auto, tree or products, got {search!r}")
        if not bool(torch.isfinite(keys).all()):
            row = int((~torch.isfinite(keys).all(1)).nonzero()[0])
            raise BadDataset(f"row {row} is not finite, so that nothing can be near it")
        self.keys = keys
        self._ways: list[_Tree | _Products] = []
        if search == "tree" or (search == "auto" and not keys.is_cuda and importlib.util.find_spec("scipy")):
            self._ways.append(_Tree(keys))
        if search != "tree" or not self._ways:
            self._ways.append(_Products(keys))
        self._queries = 0
        self._anchors = NearestPairs(keys[:, :anchored], search=search) if anchored else None
        self._gap = keys.new_full((len(keys),), torch.nan)

    def __len__(self) -> int:
        return len(self.keys)

    @torch.no_grad()
    def query(self, q: Tensor, k: int = 1, row: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Distance to, and row of, the k-th nearest key of every query `(B, d)`: `(B,)` and `(B,)`.

        `row` `(B,)` names the stored rows that the queries share their anchored columns with. Any other row is at least as far
        from the query as its anchored columns are from theirs, so where this gap, found once for every row and kept,
        exceeds the distance to the query's own row, that is the nearest.

        Raises:
            BadSetting: k is not in 1 … N - 1.
            Diverged: a query is not finite.
        """
        require(1 <= k < len(self), f"k must be between 1 and {len(self) - 1}, one less than there are rows, got {k}")
        if not bool(torch.isfinite(q).all()):
            raise Diverged("a vector whose nearest neighbour is sought is not finite")
        if row is None or k > 1 or self._anchors is None:
            index = self._search(q, k)
        else:
            index = row.clone()
            own = (self.keys[row] - q).norm(dim=1)
            (doubtful,) = (own >= self._gaps(row) * (1 - 1e-5)).nonzero(as_tuple=True)
            if len(doubtful):
                index[doubtful] = self._search(q[doubtful], 1)
        return (self.keys[index] - q).norm(dim=1), index

    def _gaps(self, row: Tensor) -> Tensor:
        """How far the anchored columns of each row are from the nearest other row's, `(B,)`."""
        assert self._anchors is not None
        (new,) = self._gap[row].isnan().nonzero(as_tuple=True)
        if len(new):
            anchor = self._anchors.keys[row[new]]
            other = self._anchors._search(anchor, 2)  # the nearest is the row itself, or its equal
            self._gap[row[new]] = (self._anchors.keys[other] - anchor).norm(dim=1)
        return self._gap[row]

    def _search(self, q: Tensor, k: int) -> Tensor:
        if len(self._ways) > 1 and self._queries % LOOK_EVERY == 0:
            self._ways.sort(key=lambda way: _seconds(way, q, k))
        self._queries += 1
        return self._ways[0].query(q, k)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: whatever is kept is a function of the keys."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""


def _seconds(way: _Tree | _Products, q: Tensor, k: int) -> float:
    """How long a query takes whose memory is at hand."""
    way.query(q, k)
    began = time.perf_counter()
    way.query(q, k)
    return time.perf_counter() - began


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
        missing, chunk = -len(rows) % BLOCK, CHUNK[keys.device.type]
        self.rows = F.pad(rows, (0, 0, 0, missing)).split(chunk)
        self.half = F.pad(rows.square().sum(1) / 2, (0, missing), value=torch.inf).unsqueeze(1).split(chunk)

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
