"""Plain text, as models are pretrained on: rows with a column `text`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palaestra.core.errors import BadDataset
from palaestra.language.tasks.sources import open_splits


class PlainText:
    """The texts of a file (JSONL, JSON, CSV, Parquet), a folder of such, or a dataset on the hub; of its splits the one called
    train, or the first.

    They are found again in their place: nothing of them is saved.

    Raises:
        BadDataset: there are none, or a row has no text.
    """

    def __init__(self, data: str | Path):
        splits = open_splits(data)
        self.rows = splits.get("train") or next(iter(splits.values()))
        if not len(self.rows):
            raise BadDataset(f"{data} holds no rows")
        for i in range(len(self.rows)):
            row = self.rows[i]
            text = row.get("text") if isinstance(row, Mapping) else None
            if not isinstance(text, str) or not text.strip():
                held = ", ".join(map(str, row)) if isinstance(row, Mapping) else f"a {type(row).__name__}"
                raise BadDataset(f"row {i} of {data} has no text in a column text, but {held}")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> str:
        return self.rows[index]["text"]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass
