"""Where files are that nobody of this project wrote, and that the library does not ship."""

from __future__ import annotations

import os
from pathlib import Path

from palaestra.core.errors import BadDataset


def real_data(name: str) -> Path:
    """The file or folder `name` in the folder that `PALAESTRA_DATA` names, or in `../shared/data`.

    Raises:
        BadDataset: it is in neither.
    """
    shared = Path("..", "shared", "data")
    given = os.environ.get("PALAESTRA_DATA")
    places = [*([Path(given)] if given else []), shared, Path(__file__).resolve().parents[2] / shared]
    for place in places:
        if (place / name).exists():
            return (place / name).resolve()
    raise BadDataset(
        f"'{name}' is not here: put it into a folder and name that in PALAESTRA_DATA (looked in {places[0]})"
    )
