"""Where rows of text come from: files, folders, datasets on the hub, and what a program has at hand."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from palaestra.core.errors import BadDataset, PalaestraError
from palaestra.language.rows import Row, Rows

FILES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".gz")
"""Endings of the files that rows are read from; what is packed by gzip is JSON lines."""
TEST_SPLITS = ("test", "validation", "valid", "dev", "eval")
"""Splits that are held out when data bring them, the first of these that is there."""


def open_splits(data: Any, subset: str = "") -> dict[str, Rows]:
    """The splits of what a user gives as data, by name; data without splits are one called train. Text may name several places,
    with commas between, whose rows follow each other.

    Raises:
        BadDataset: there is nothing of that kind there, or it cannot be read.
    """
    if isinstance(data, Mapping):
        return {str(name): _rows(rows) for name, rows in data.items()}
    if not isinstance(data, str | Path):
        return {"train": _rows(data)}
    path = Path(data).expanduser()
    if "," in str(data) and not path.exists():
        return _joined([open_splits(place.strip(), subset) for place in str(data).split(",")])
    if path.is_dir():
        return _open_folder(path)
    if path.is_file() or path.suffix in FILES:
        return {"train": read_rows(path)}
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(data)):
        return _open_hub(str(data), subset)
    raise BadDataset(f"there is no file or folder {data}, and no dataset on the hub is called so")


def read_rows(path: Path) -> Rows:
    """The rows of one file, by its ending.

    Raises:
        BadDataset: it is not there, or not what its ending says.
    """
    if path.suffix not in FILES:
        raise BadDataset(f"{path} is none of the files that rows are read from: {', '.join(FILES)}")
    if not path.is_file():
        raise BadDataset(f"there is no file {path}")
    try:
        if path.suffix == ".parquet":
            return _datasets().Dataset.from_parquet(str(path))
        if path.suffix == ".csv":
            return _read_csv(path)
        if path.suffix == ".json":
            return _rows(_parse(path.read_text("utf-8-sig"), str(path)), str(path))
        with (
            gzip.open(path, "rt", encoding="utf-8-sig")
            if path.suffix == ".gz"
            else open(path, encoding="utf-8-sig") as file
        ):
            return [_parse(line, f"line {i} of {path}") for i, line in enumerate(file, 1) if line.strip()]
    except PalaestraError:
        raise
    except Exception as error:  # whatever a reader of Parquet, CSV or text has to say
        raise BadDataset(f"{path} cannot be read: {type(error).__name__}: {_line(error)}") from error


def _rows(data: Any, where: str = "") -> Rows:
    """Data as rows, refused if they cannot be asked for by number."""
    if hasattr(data, "columns") and hasattr(data, "to_dict"):  # a data frame of pandas
        return data.to_dict("records")
    if isinstance(data, str | bytes | Mapping) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        what = f"{where} holds a {type(data).__name__}" if where else f"got a {type(data).__name__}"
        streams = "; a dataset that is streamed has no rows by number" if hasattr(data, "__iter__") else ""
        raise BadDataset(f"data are a list of rows, or a dataset with len and [i], {what}{streams}")
    return data


def _open_folder(path: Path) -> dict[str, Rows]:
    """The splits of a folder: what `save_to_disk` left, or files, by the split that begins their names."""
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        try:
            return open_splits(_datasets().load_from_disk(str(path)))
        except PalaestraError:
            raise
        except Exception as error:
            raise BadDataset(f"{path} cannot be read: {type(error).__name__}: {_line(error)}") from error
    found = [file for file in sorted(path.iterdir()) if file.suffix in FILES]
    if not found:
        raise BadDataset(f"{path} holds no rows: no file ends in {', '.join(FILES)}")
    splits: dict[str, list[Rows]] = {}
    for file in found:
        named = re.match(rf"(train|{'|'.join(TEST_SPLITS)})(?![a-z])", file.name)
        splits.setdefault(named[1] if named else "train", []).append(read_rows(file))
    return {name: _in_a_row(parts) for name, parts in splits.items()}


def _joined(places: list[dict[str, Rows]]) -> dict[str, Rows]:
    """The splits of several places, those of the same name behind each other."""
    names = dict.fromkeys(name for place in places for name in place)
    return {name: _in_a_row([place[name] for place in places if name in place]) for name in names}


def _in_a_row(parts: list[Rows]) -> Rows:
    return parts[0] if len(parts) == 1 else [row for part in parts for row in part]


def _open_hub(name: str, subset: str) -> dict[str, Rows]:
    try:
        return open_splits(_datasets().load_dataset(name, subset or None))
    except PalaestraError:
        raise
    except Exception as error:
        raise BadDataset(
            f"there is no file or folder {name}, and no dataset of this name could be had from the Hugging Face hub "
            f"({type(error).__name__}: {_line(error)}); without network, download it elsewhere and name the folder or file"
        ) from error


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise PalaestraError("this needs Hugging Face's datasets: pip install datasets") from None
    return datasets


def _read_csv(path: Path) -> list[Row]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader, rows = csv.DictReader(file, strict=True), list[Row]()
        for row in reader:
            if None in row or None in row.values():
                raise BadDataset(f"line {reader.line_num} of {path} has not as many values as the first line has names")
            rows.append(row)
    return rows


def _parse(text: str, where: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise BadDataset(f"{where} holds {constant}, which is no number in JSON; give it a value, or leave it out")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise BadDataset(f"{where} is no JSON: {_line(error)}") from None


def _line(error: BaseException) -> str:
    """What an error says, on one line of sensible length."""
    said = " ".join(str(error).split())
    return said if len(said) <= 300 else f"{said[:300]}…"
