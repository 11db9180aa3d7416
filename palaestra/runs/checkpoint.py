"""Checkpoints: the whole state of a run, written atomically, verified on reading, cheap to repeat.

A checkpoint is a folder with `state.json` (structure, numbers), `state.safetensors` (small tensors) and `manifest.json`
(the sha256 of every part, versions, counters). Large tensors, such as a replay buffer, are cut into blocks of rows and kept in
`blobs/`, named by their hash, so that a block which has not changed since the last checkpoint is not written again. What is
`Frozen`, such as a reference model, is a blob as a whole, and is not even hashed again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from palaestra.core import files
from palaestra.core.errors import BadCheckpoint

BLOCK_BYTES = 2 << 20
KEEP = 2


def save(folder: Path, clock: int, state: dict[str, Any], about: dict[str, Any]) -> Path:
    """Write `state` as checkpoint number `clock` under `folder`, then drop all but the newest two."""
    blobs = folder / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    frozen: dict[str, files.Frozen] = {}
    structure = _pack(state, "", tensors, frozen)
    small = {name: t for name, t in tensors.items() if t.nbytes <= BLOCK_BYTES}
    large = {name: t for name, t in tensors.items() if name not in small}
    blocks = {name: [_write_block(blobs, block) for block in _blocks(t)] for name, t in large.items()}
    for digest, whole in frozen.items():
        _write_blob(blobs, digest, files.pack_tensors(whole))
    packed = files.pack_tensors(small)
    text = json.dumps({"state": structure, "blocks": blocks, "frozen": list(frozen)}).encode()
    manifest = {
        **about,
        "torch": torch.__version__,
        "clock": clock,
        "parts": {"state.safetensors": files.sha256(*packed), "state.json": files.sha256(text)},
    }
    target = folder / f"{clock:012d}"
    with files.replacing(target) as fresh:
        files.write_bytes(fresh / "state.safetensors", *packed)
        files.write_bytes(fresh / "state.json", text)
        files.write_text(fresh / "manifest.json", json.dumps(manifest, indent=2))
    _prune(folder)
    return target


def load(target: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state and the manifest of a checkpoint; a part that is missing, torn or altered is refused by name."""
    remedy = _remedy(target)
    manifest = files.read_json(target / "manifest.json", remedy)
    digests = manifest.get("parts")
    if not isinstance(digests, dict) or set(digests) != {"state.safetensors", "state.json"}:
        raise BadCheckpoint(f"{target / 'manifest.json'} does not list the parts of a checkpoint{remedy}")
    parts = {name: _read_verified(target / name, digest, remedy) for name, digest in digests.items()}
    content = files.parse_json(parts["state.json"], target / "state.json", remedy)
    tensors = files.unpack_tensors(parts["state.safetensors"], target / "state.safetensors")
    try:
        for name, blocks in content["blocks"].items():
            tensors[name] = _join(target.parent / "blobs", blocks, remedy)
        frozen = {digest: _read_blob(target.parent / "blobs", digest, remedy) for digest in content.get("frozen", ())}
        return _unpack(content["state"], tensors, frozen), manifest
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{target / 'state.json'} does not describe a state ({error!r}){remedy}") from None
    except (RuntimeError, MemoryError) as error:  # blocks that do not fit together, or too many of them
        reason = " ".join(str(error).split())
        raise BadCheckpoint(f"the tensors of {target} cannot be put together ({reason}){remedy}") from None


def newest(folder: Path) -> Path | None:
    """The newest checkpoint under `folder`, or None."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9]*") if (path / "manifest.json").exists())


def _prune(folder: Path) -> None:
    """Keep the newest checkpoints and the blobs they use; sweep away what an interrupted write left behind."""
    kept = _checkpoints(folder)[-KEEP:]
    used = {digest for path in kept for digest in _blobs_of(path)}
    for path in folder.iterdir():
        if path.name != "blobs" and path not in kept:
            shutil.rmtree(path, ignore_errors=True)
    for path in (folder / "blobs").iterdir():
        if path.stem not in used:
            path.unlink()


def _blobs_of(target: Path) -> list[str]:
    """The blobs a checkpoint uses; none for one that is damaged, since it cannot be resumed from."""
    try:
        content = files.read_json(target / "state.json")
        return [*content.get("frozen", ()), *(digest for digests in content["blocks"].values() for digest in digests)]
    except (BadCheckpoint, KeyError, AttributeError, TypeError):
        return []


def _pack(value: Any, path: str, tensors: dict[str, Tensor], frozen: dict[str, files.Frozen]) -> Any:
    """Nested dicts, lists, numbers and text as JSON; tensors are put aside under their path, frozen ones under their hash."""
    if isinstance(value, Tensor):
        while path in tensors:  # keys that hold a slash, or 1 beside "1"
            path += "'"
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, files.Frozen):
        frozen[value.digest] = value
        return {"frozen": value.digest}
    if isinstance(value, dict):
        return {"dict": [[key, _pack(item, f"{path}/{key}", tensors, frozen)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_pack(item, f"{path}/{i}", tensors, frozen) for i, item in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise BadCheckpoint(f"the state holds a {type(value).__name__} at {path}, which cannot be saved")


def _unpack(node: Any, tensors: dict[str, Tensor], frozen: dict[str, dict[str, Tensor]]) -> Any:
    if not isinstance(node, dict):
        return node
    if "tensor" in node:
        return tensors[node["tensor"]]
    if "frozen" in node:
        return frozen[node["frozen"]]
    if "dict" in node:
        return {key: _unpack(item, tensors, frozen) for key, item in node["dict"]}
    return [_unpack(item, tensors, frozen) for item in node["list"]]


def _blocks(tensor: Tensor) -> Iterator[Tensor]:
    rows = max(1, BLOCK_BYTES // max(1, tensor[0].nbytes))
    for start in range(0, len(tensor), rows):
        yield tensor[start : start + rows]


def _write_block(folder: Path, block: Tensor) -> str:
    data = files.pack_tensors({"rows": block})
    digest = files.sha256(*data)
    _write_blob(folder, digest, data)
    return digest


def _write_blob(folder: Path, digest: str, data: files.Chunks) -> None:
    path = folder / f"{digest}.safetensors"
    if not path.exists() or path.stat().st_size != sum(len(chunk) for chunk in data):
        files.write_bytes(path, *data)


def _join(folder: Path, digests: list[str], remedy: str) -> Tensor:
    """One tensor from its blocks, filled block by block so that it is in memory only once."""
    block = _read_blob(folder, digests[0], remedy)["rows"]
    whole = torch.empty(len(digests) * len(block), *block.shape[1:], dtype=block.dtype)
    rows = 0
    for digest in digests:
        block = _read_blob(folder, digest, remedy)["rows"]
        whole[rows : rows + len(block)] = block
        rows += len(block)
    return whole.resize_(rows, *whole.shape[1:])


def _read_blob(folder: Path, digest: str, remedy: str) -> dict[str, Tensor]:
    path = folder / f"{digest}.safetensors"
    return files.unpack_tensors(_read_verified(path, digest, remedy), path)


def _read_verified(path: Path, digest: str, remedy: str) -> bytes:
    data = files.read_bytes(path, remedy)
    if files.sha256(data) != digest:
        raise BadCheckpoint(f"{path} is torn or was altered (its hash differs){remedy}")
    return data


def _remedy(target: Path) -> str:
    others = [path for path in _checkpoints(target.parent) if path != target]
    if others:
        return f"; delete {target} to resume from the checkpoint before it ({others[-1].name})"
    return "; no other checkpoint is left, start again with --overwrite"
